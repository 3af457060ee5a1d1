"""Linear CKA of layers, and of layers with labels: of all rows from sums over batches, or from minibatches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from typing_extensions import override

from probes.analysis.invariances import require_finite_rows
from probes.analysis.moments import row_count, scatter
from probes.analysis.similarity.cka import minibatch_hsic
from probes.analysis.similarity.hsic import PairHSIC, cka_norm, linear_unbiased_hsic
from probes.analysis.streaming.running_sums import PairMoments, require_same_rows


class LinearCKA(PairMoments):
    """`linear_cka` of layer k of x with layer k of y, over rows that come in batches.

    The unbiased estimate is that of *all* rows together, not a sum over minibatches: with linear kernels K and L of
    centred rows u and v, Σ K∘L is ‖Σ u vᵀ‖², and their diagonals are |u|² and |v|², so that Song's estimate follows
    from sums over rows alone (see `probes.analysis.similarity.hsic`).

    Memory, float64: `num_layers` × (x_features² + x_features × y_features + y_features²), 248 MB for 31 layers of 576
    features on both sides; as much again is held for `reset`, and once more while a batch is merged. Merging costs as
    much as the products of some 256 rows, so that batches should be larger than that.

    Args:
        num_layers: Layers of both sides.
        x_features: Features of x.
        y_features: Features of y.
        debiased: As in `linear_cka`.

    >>> x = torch.randn(2, 60, 5, generator=torch.Generator().manual_seed(0))
    >>> metric = LinearCKA(2, 5, 5)
    >>> for rows in x.split(7, dim=1):
    ...     metric.update(rows, 100 - rows)
    >>> metric.compute().round(decimals=6).tolist()
    [1.0, 1.0]
    """

    def __init__(self, num_layers: int, x_features: int, y_features: int, *, debiased: bool = True) -> None:
        super().__init__(num_layers, x_features, y_features)
        self.debiased = debiased

    def compute(self) -> Tensor:
        """CKA of every layer.

        Returns:
            float64, shape `(layers,)`; NaN where a layer is constant.

        Raises:
            ValueError: Fewer than 4 rows came.
        """
        self.require_enough_rows()
        return cka_of_moments(self.xy, self.xx, self.yy, debiased=self.debiased)


def cka_of_moments(xy: Tensor, xx: Tensor, yy: Tensor, *, debiased: bool) -> Tensor:
    """CKA of every layer from packed moments, NaN unless both self-HSICs are positive."""
    between, within_x, within_y = (hsic_of_moments(packed, debiased=debiased) for packed in (xy, xx, yy))
    return between / cka_norm(within_x, within_y)


def hsic_of_moments(packed: Tensor, *, debiased: bool) -> Tensor:
    """Linear HSIC of every layer from packed moments, as `hsic_pairs` from rows: float64, shape `(layers,)`."""
    rows = row_count(packed)
    products = scatter(packed).square().sum((-1, -2))  # ‖Σ u vᵀ‖²
    if not debiased:
        return products / (rows - 1) ** 2
    diagonals, traces = packed[..., -1, -1], packed[..., -1, 0] * packed[..., 0, -1]  # Σ|u|²|v|², Σ|u|² Σ|v|²
    return linear_unbiased_hsic(products, diagonals, traces, rows=rows)


class LinearLabelCKA(PairMoments):
    """`label_cka` over rows that come in batches: how far each layer follows the labels.

    Args:
        num_layers: Layers.
        features: Features of a layer.
        num_classes: Number of classes, some of which may not occur; `None` for real-valued labels.
        debiased: As in `label_cka`.

    Raises:
        ValueError: `num_classes` is below 1.
    """

    def __init__(self, num_layers: int, features: int, num_classes: int | None, *, debiased: bool = True) -> None:
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"`num_classes` expects 1 or more, or None for real-valued labels; got {num_classes}.")
        super().__init__(num_layers, features, 1 if num_classes is None else num_classes, y_layers=1)
        self.num_classes = num_classes
        self.debiased = debiased

    @override
    def update(self, x: Tensor, labels: Tensor, /) -> None:
        """Add a batch.

        Args:
            x: Shape `(layers, rows, features)`.
            labels: Shape `(rows,)`: class indices, int64, or real values, floating point.

        Raises:
            ValueError: A shape or dtype is not the one the metric was made for, a class is out of range, rows differ
                or are not finite.
        """
        super().update(x, self._targets(x, labels))

    def compute(self) -> Tensor:
        """Alignment of every layer.

        Returns:
            float64, shape `(layers,)`; NaN for a constant layer, and everywhere if labels are all the same.

        Raises:
            ValueError: Fewer than 4 rows came.
        """
        self.require_enough_rows()
        return cka_of_moments(self.xy, self.xx, self.yy, debiased=self.debiased)

    def _targets(self, x: Tensor, labels: Tensor) -> Tensor:
        """Labels as one layer, float64 of shape `(1, rows, classes)`."""
        if labels.ndim != 1:
            raise ValueError(f"`labels` expect the shape (rows,); got {tuple(labels.shape)}.")
        if x.ndim == 3:
            require_same_rows(x.shape[1], len(labels), y_name="labels")
        if labels.is_floating_point() != (self.num_classes is None):
            expected = "real values (`num_classes` is None)" if self.num_classes is None else "class indices, int64"
            raise ValueError(f"`labels` expect {expected}; got {labels.dtype}. Set `num_classes` to match.")
        if self.num_classes is None:
            require_finite_rows(labels, name="a batch of `labels`")
            return labels.double()[None, :, None]  # (1, rows, 1)
        _require_classes(labels, self.num_classes)
        return functional.one_hot(labels.long(), self.num_classes).to(torch.float64)[None]


def _require_classes(labels: Tensor, num_classes: int) -> None:
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside) > 0:
        raise ValueError(
            f"`labels` expect class indices from 0 to {num_classes - 1}; got {outside[0].item()}. Set `num_classes`."
        )


class MinibatchCKA(Metric):
    """`minibatch_cka`: between every layer of x and every layer of y, from summed HSICs of minibatches.

    The states are `x_layers` × `y_layers` numbers, whatever the number of features. Batches of all ranks count.

    Args:
        x_layers: Layers of x.
        y_layers: Layers of y.
    """

    full_state_update = False
    is_differentiable = False
    between: Tensor
    within_x: Tensor
    within_y: Tensor
    num_batches: Tensor

    def __init__(self, x_layers: int, y_layers: int) -> None:
        super().__init__()
        self.x_layers, self.y_layers = x_layers, y_layers
        for name, shape in (("between", (x_layers, y_layers)), ("within_x", (x_layers,)), ("within_y", (y_layers,))):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_batches", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a minibatch.

        Args:
            x: Shape `(x_layers, rows, x_features)`, at least 4 rows.
            y: Shape `(y_layers, rows, y_features)`, rows as in `x`.

        Raises:
            ValueError: The layers are not those the metric was made for, rows are fewer than 4, differ or are not
                finite.
        """
        if x.ndim != 3 or y.ndim != 3 or (len(x), len(y)) != (self.x_layers, self.y_layers):
            raise ValueError(
                f"MinibatchCKA expects batches (layers, rows, features) of {self.x_layers} layers of `x` and "
                f"{self.y_layers} of `y`, as it was made for; got {tuple(x.shape)} and {tuple(y.shape)}."
            )
        require_same_rows(x.shape[1], y.shape[1])
        hsic = minibatch_hsic(x, y)
        self.between = self.between + hsic.between
        self.within_x = self.within_x + hsic.within_x
        self.within_y = self.within_y + hsic.within_y
        self.num_batches = self.num_batches + 1

    def compute(self) -> Tensor:
        """CKA of all pairs of layers.

        Returns:
            float64, shape `(x_layers, y_layers)`; NaN where a layer is constant within every batch.

        Raises:
            ValueError: No batch came.
        """
        if self.num_batches == 0:
            raise ValueError("MinibatchCKA expects at least one batch of at least 4 rows; none came.")
        return PairHSIC(self.between, self.within_x, self.within_y).cka()
