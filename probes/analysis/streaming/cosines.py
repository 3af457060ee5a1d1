"""Mean cosines of distinct rows (anisotropy) and of matched rows, over all rows, from sums over batches."""

from __future__ import annotations

from abc import ABC

import torch
from torch import Tensor
from torchmetrics import Metric

from probes.analysis.geometry.point_cloud import mean_cosine_of_sums, sum_of_directions
from probes.analysis.streaming.running_sums import require_batch, require_enough_rows, require_same_rows


class CosineSums(Metric, ABC):
    """A sum over rows, the number of rows it is over, and the range of every feature, which shows constant layers.

    Args:
        num_layers: Layers of a side.
        features: Features of a layer.
        total_shape: Shape of the sum.
        sides: How many stacks of layers a batch has.
    """

    full_state_update = False
    is_differentiable = False
    total: Tensor
    directed_rows: Tensor
    rows: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(self, num_layers: int, features: int, *, total_shape: tuple[int, ...], sides: int = 1) -> None:
        super().__init__()
        self.num_layers, self.features = num_layers, features
        self.add_state("total", torch.zeros(total_shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("directed_rows", torch.zeros(num_layers, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")
        infinite = torch.full((sides * num_layers, features), torch.inf, dtype=torch.float64)
        self.add_state("lowest", infinite, dist_reduce_fx="min")
        self.add_state("highest", -infinite, dist_reduce_fx="max")

    def add(self, total: Tensor, directed_rows: Tensor, *sides: Tensor) -> None:
        """Add the sum over a batch.

        Args:
            total: The sum, of `total_shape`.
            directed_rows: Rows that have a direction, that is are not all zeros, shape `(layers,)`.
            *sides: The batch, shape `(layers, rows, features)` each, at least one row.
        """
        self.total, self.directed_rows = self.total + total, self.directed_rows + directed_rows
        self.rows = self.rows + sides[0].shape[1]
        x = torch.cat(sides).double()  # (sides × layers, rows, features)
        self.lowest, self.highest = self.lowest.minimum(x.amin(1)), self.highest.maximum(x.amax(1))

    def constant_layers(self) -> Tensor:
        """Which layers are equal in all rows of a side, bool of shape `(layers,)`.

        Raises:
            ValueError: Fewer than 4 rows came.
        """
        require_enough_rows(int(self.rows), metric=type(self).__name__)
        return (self.lowest == self.highest).all(dim=1).view(-1, self.num_layers).any(dim=0)


class Anisotropy(CosineSums):
    """`anisotropy` over rows that come in batches.

    Args:
        num_layers: Layers.
        features: Features of a layer.
    """

    def __init__(self, num_layers: int, features: int) -> None:
        super().__init__(num_layers, features, total_shape=(num_layers, features))

    def update(self, x: Tensor) -> None:
        """Add a batch.

        Args:
            x: Shape `(layers, rows, features)`.

        Raises:
            ValueError: The shape is not the one the metric was made for, or rows are not finite.
        """
        require_batch(x, layers=self.num_layers, features=self.features)
        if x.shape[1] > 0:
            self.add(*sum_of_directions(x), x)

    def compute(self) -> Tensor:
        """Anisotropy of every layer.

        Returns:
            float64, shape `(layers,)`; NaN where a layer is constant or has fewer than 2 rows that are not all zeros.

        Raises:
            ValueError: Fewer than 4 rows came.
        """
        constant = self.constant_layers()
        return mean_cosine_of_sums(self.total, self.directed_rows).masked_fill(constant, torch.nan)


class MatchedCosine(CosineSums):
    """`matched_cosine` of layer k of x with layer k of y in one feature space, over rows that come in batches.

    Args:
        num_layers: Layers of both sides.
        features: Features of both sides.
    """

    def __init__(self, num_layers: int, features: int) -> None:
        super().__init__(num_layers, features, total_shape=(num_layers,), sides=2)

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a batch.

        Args:
            x: Shape `(layers, rows, features)`.
            y: The same shape; rows as in `x`.

        Raises:
            ValueError: A shape is not the one the metric was made for, rows differ or are not finite.
        """
        require_batch(x, layers=self.num_layers, features=self.features, name="x")
        require_batch(y, layers=self.num_layers, features=self.features, name="y")
        require_same_rows(x.shape[1], y.shape[1])
        if x.shape[1] > 0:
            self.add(*_sum_of_cosines(x, y), x, y)

    def compute(self) -> Tensor:
        """Mean cosine of every layer.

        Returns:
            float64, shape `(layers,)`; NaN where a layer is constant or no row is left that is not all zeros.

        Raises:
            ValueError: Fewer than 4 rows came.
        """
        return (self.total / self.directed_rows).masked_fill(self.constant_layers(), torch.nan)


def _sum_of_cosines(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the cosines of matched rows, and the number of rows that are all zeros on neither side.

    Args:
        x: Shape `(layers, rows, features)`.
        y: The same shape.

    Returns:
        float64, shape `(layers,)` twice.
    """
    x, y = x.double(), y.double()
    x_lengths, y_lengths = (torch.linalg.vector_norm(side, dim=-1, keepdim=True) for side in (x, y))
    cosines = ((x / x_lengths) * (y / y_lengths)).sum(-1)  # (layers, rows); NaN for rows of zeros
    directed = ((x_lengths > 0) & (y_lengths > 0)).squeeze(-1)
    return torch.where(directed, cosines, 0).sum(-1), directed.double().sum(-1)
