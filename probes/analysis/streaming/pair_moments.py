"""The running sums behind every streaming measure of two matched stacks of layers."""

from __future__ import annotations

from abc import ABC

import torch
from torch import Tensor
from torchmetrics import Metric

from probes.analysis.moments import cross_moments, merge_moments, row_count
from probes.analysis.streaming.batch_checks import require_batch, require_enough_rows, require_same_rows


class PairMoments(Metric, ABC):
    """Packed moments of two sides together and of each with itself; see `probes.analysis.moments`.

    Each state carries its own row count and means, and states of parts merge exactly through `merge_moments`, over
    batches, `merge_state` and ranks alike. Measures of the same shape share their states in a `MetricCollection`.

    Args:
        num_layers: Layers of both sides.
        x_features: Features of x.
        y_features: Features of y.
        y_layers: 1 if one layer of y goes with all layers of x, as labels do; default `num_layers`.
    """

    full_state_update = False
    is_differentiable = False
    xy: Tensor
    xx: Tensor
    yy: Tensor

    def __init__(self, num_layers: int, x_features: int, y_features: int, *, y_layers: int | None = None) -> None:
        super().__init__()
        self.num_layers, self.x_features, self.y_features = num_layers, x_features, y_features
        self.y_layers = num_layers if y_layers is None else y_layers
        for name, layers, rows, columns in (
            ("xy", num_layers, x_features, y_features),
            ("xx", num_layers, x_features, x_features),
            ("yy", self.y_layers, y_features, y_features),
        ):
            empty = torch.zeros(layers, rows + 2, columns + 2, dtype=torch.float64)
            self.add_state(name, empty, dist_reduce_fx=merge_moments)

    def update(self, x: Tensor, y: Tensor, /) -> None:
        """Add a batch.

        Args:
            x: Shape `(layers, rows, x_features)`.
            y: Shape `(layers, rows, y_features)`, rows as in `x`.

        Raises:
            ValueError: A shape is not what the metric was made for, rows differ or are not finite.
        """
        require_batch(x, layers=self.num_layers, features=self.x_features, name="x")
        require_batch(y, layers=self.y_layers, features=self.y_features, name="y")
        require_same_rows(x.shape[1], y.shape[1])
        if x.shape[1] > 0:
            self.xy = merge_moments((self.xy, cross_moments(x, y)))
            self.xx = merge_moments((self.xx, cross_moments(x, x)))
            self.yy = merge_moments((self.yy, cross_moments(y, y)))

    @property
    def num_rows_seen(self) -> int:
        """Rows in the sums."""
        return row_count(self.xy)

    def require_enough_rows(self) -> None:
        """Refuse to compute from fewer than 4 rows.

        Raises:
            ValueError: It is so.
        """
        require_enough_rows(self.num_rows_seen, metric=type(self).__name__)
