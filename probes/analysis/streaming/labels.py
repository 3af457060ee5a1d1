"""Kernel–target alignment on all rows, from sums."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from probes.analysis.streaming.batches import require_finite, require_same_rows
from probes.analysis.streaming.cka import cka_of_moments
from probes.analysis.streaming.pair_moments import PairMoments


class LabelCKA(PairMoments):
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
            raise ValueError(f"`num_classes` wants 1 or more, or None for real-valued labels; got {num_classes}.")
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
            raise ValueError(f"`labels` want the shape (rows,); got {tuple(labels.shape)}.")
        if x.ndim == 3:
            require_same_rows(x.shape[1], len(labels), y_name="labels")
        if labels.is_floating_point() != (self.num_classes is None):
            wanted = "real values (`num_classes` is None)" if self.num_classes is None else "class indices, int64"
            raise ValueError(f"`labels` want {wanted}; got {labels.dtype}. Set `num_classes` to match.")
        if self.num_classes is None:
            require_finite(labels[:, None], name="labels")
            return labels.double()[None, :, None]
        _require_classes(labels, self.num_classes)
        return functional.one_hot(labels.long(), self.num_classes).to(torch.float64)[None]


def _require_classes(labels: Tensor, num_classes: int) -> None:
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside) > 0:
        raise ValueError(
            f"`labels` want class indices from 0 to {num_classes - 1}; got {outside[0].item()}. Set `num_classes`."
        )
