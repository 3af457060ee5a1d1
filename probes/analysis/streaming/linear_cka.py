"""Linear CKA of layers, and of layers and labels, on all rows from sums, or from minibatches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from typing_extensions import override

from probes.analysis.moments import scatter
from probes.analysis.similarity.cka import HsicSums, cka_of_sums, hsic_sums
from probes.analysis.streaming.batch_checks import require_finite, require_same_rows
from probes.analysis.streaming.pair_moments import PairMoments


class LinearCKA(PairMoments):
    """`linear_cka` of layer k of x with layer k of y, over rows that come in batches.

    The unbiased estimate is that of *all* rows together, not a sum over minibatches: with linear kernels K and L of
    centred rows u and v, Σ K∘L is ‖Σ u vᵀ‖², their diagonals are |u|² and |v|², and rows of K sum to 0, so Song's
    estimate is a function of sums over rows alone.

    Memory, float64: `num_layers` × (x_features² + x_features × y_features + y_features²), 248 MB for 31 layers of 576
    features on both sides; as much again is held to reset to, and once more while a batch is merged. Merging costs as
    much as the products of some 256 rows, so batches larger than that pay.

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
    defined = (within_x > 0) & (within_y > 0)
    return torch.where(defined, between / (within_x.sqrt() * within_y.sqrt()), torch.nan)


def hsic_of_moments(packed: Tensor, *, debiased: bool) -> Tensor:
    """Linear HSIC of every layer from packed moments, as `hsic_pairs` from rows: float64, shape `(layers,)`."""
    rows = packed[..., 0, 0]
    products = scatter(packed).square().sum((-1, -2))
    if not debiased:
        return products / (rows - 1) ** 2
    on_diagonal, totals = packed[..., -1, -1], packed[..., -1, 0] * packed[..., 0, -1]
    hollow = products - on_diagonal + totals / ((rows - 1) * (rows - 2)) - 2 * on_diagonal / (rows - 2)
    return hollow / (rows * (rows - 3))


class LinearLabelCKA(PairMoments):
    """`label_cka` over rows that come in batches: how far each layer follows the labels.

    Args:
        num_layers: Layers.
        features: Features of a layer.
        num_classes: Classes, of which some may never come; `None` for real-valued labels.
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
            ValueError: A shape or kind is not what the metric was made for, a class is out of range, rows differ or
                are not finite.
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
        if labels.ndim != 1:
            raise ValueError(f"`labels` expect the shape (rows,); got {tuple(labels.shape)}.")
        if x.ndim == 3:
            require_same_rows(x.shape[1], len(labels), y_name="labels")
        if labels.is_floating_point() != (self.num_classes is None):
            wanted = "real values (`num_classes` is None)" if self.num_classes is None else "class indices, int64"
            raise ValueError(f"`labels` expect {wanted}; got {labels.dtype}. Set `num_classes` to match.")
        if self.num_classes is None:
            require_finite(labels[:, None], name="labels")
            return labels.double()[None, :, None]
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

    States are `x_layers` × `y_layers` numbers, whatever the features. Batches over ranks count as batches.

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
        sums = hsic_sums(x, y)
        self.between = self.between + sums.between
        self.within_x = self.within_x + sums.within_x
        self.within_y = self.within_y + sums.within_y
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
        return cka_of_sums(HsicSums(self.between, self.within_x, self.within_y))
