"""Sums over rows that come in batches, which streaming measures share, and the checks of a batch."""

from __future__ import annotations

from abc import ABC

import torch
from torch import Tensor
from torchmetrics import Metric

from probes.analysis.invariances import require_finite_rows
from probes.analysis.moments import cross_moments, merge_moments, row_count, scatter
from probes.analysis.similarity.hsic import MIN_ROWS


class LayerMoments(Metric, ABC):
    """Packed moments of every layer with itself; see `probes.analysis.moments`.

    The state is the same in every subclass, so that a `MetricCollection` keeps it once. Memory, float64: `num_layers` ×
    features², 83 MB for 31 layers of 576 features.

    Args:
        num_layers: Layers.
        features: Features of a layer.
    """

    full_state_update = False
    is_differentiable = False
    moments: Tensor

    def __init__(self, num_layers: int, features: int) -> None:
        super().__init__()
        self.num_layers, self.features = num_layers, features
        empty = torch.zeros(num_layers, features + 2, features + 2, dtype=torch.float64)
        self.add_state("moments", empty, dist_reduce_fx=merge_moments)

    def update(self, x: Tensor) -> None:
        """Add a batch.

        Args:
            x: Shape `(layers, rows, features)`.

        Raises:
            ValueError: The shape is not the one the metric was made for, or rows are not finite.
        """
        require_batch(x, layers=self.num_layers, features=self.features)
        if x.shape[1] > 0:
            self.moments = merge_moments((self.moments, cross_moments(x, x)))

    @property
    def num_rows_seen(self) -> int:
        """Rows in the sums."""
        return row_count(self.moments)

    def scatter(self) -> Tensor:
        """Sums of products about the mean, float64, shape `(layers, features, features)`.

        Raises:
            ValueError: Fewer than 4 rows came.
        """
        require_enough_rows(self.num_rows_seen, metric=type(self).__name__)
        return scatter(self.moments)


class PairMoments(Metric, ABC):
    """Packed moments of two matched sides with each other and of each with itself; see `probes.analysis.moments`.

    Each state holds its row count and means, so that states of different rows merge exactly with `merge_moments`: over
    batches, in `merge_state` and over ranks. Measures of the same shape share their states in a `MetricCollection`.

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
            ValueError: A shape is not the one the metric was made for, rows differ or are not finite.
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
        """Check that there are enough rows to compute from.

        Raises:
            ValueError: Fewer than 4 rows came.
        """
        require_enough_rows(self.num_rows_seen, metric=type(self).__name__)


def require_batch(batch: Tensor, *, layers: int, features: int, name: str = "x") -> None:
    """Check a batch of activations against the shape that the metric was made for.

    Raises:
        ValueError: It is not `(layers, rows, features)`, or a number is NaN or infinite.
    """
    if batch.ndim != 3 or batch.shape[0] != layers or batch.shape[2] != features:
        raise ValueError(
            f"`{name}` expects batches of shape (layers, rows, features) = ({layers}, rows, {features}), as the metric "
            f"was made for; got {tuple(batch.shape)}."
        )
    require_finite_rows(batch.movedim(1, 0), name=f"a batch of `{name}`")


def require_same_rows(x_rows: int, y_rows: int, *, y_name: str = "y") -> None:
    """Check that both sides of a batch have as many rows.

    Raises:
        ValueError: The numbers of rows differ.
    """
    if x_rows != y_rows:
        raise ValueError(
            f"A batch expects the same rows on both sides; got {x_rows} of `x` and {y_rows} of `{y_name}`. Join both "
            "on their row ids first."
        )


def require_enough_rows(rows: int, *, metric: str) -> None:
    """Check that a metric has seen enough rows to compute from.

    Raises:
        ValueError: There are fewer than 4.
    """
    if rows < MIN_ROWS:
        raise ValueError(f"{metric} expects at least {MIN_ROWS} rows; {rows} came. `update` it with more batches.")
