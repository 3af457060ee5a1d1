"""Mean cosine of matched rows, on all rows, from sums."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from probes.analysis.streaming.batches import require_batch, require_enough_rows, require_same_rows
from probes.analysis.streaming.feature_range import FeatureRange


class MatchedCosine(Metric):
    """`matched_cosine` of layer k of x with layer k of y in one feature space, over rows that come in batches.

    Args:
        num_layers: Layers of both sides.
        features: Features of both sides.
    """

    full_state_update = False
    is_differentiable = False
    total: Tensor
    directed_rows: Tensor
    rows: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(self, num_layers: int, features: int) -> None:
        super().__init__()
        self.num_layers, self.features = num_layers, features
        self.add_state("total", torch.zeros(num_layers, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("directed_rows", torch.zeros(num_layers, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")
        unseen = FeatureRange.empty(2 * num_layers, features)
        self.add_state("lowest", unseen.lowest, dist_reduce_fx="min")
        self.add_state("highest", unseen.highest, dist_reduce_fx="max")

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a batch.

        Args:
            x: Shape `(layers, rows, features)`.
            y: The same shape; rows as in `x`.

        Raises:
            ValueError: A shape is not what the metric was made for, rows differ or are not finite.
        """
        require_batch(x, layers=self.num_layers, features=self.features, name="x")
        require_batch(y, layers=self.num_layers, features=self.features, name="y")
        require_same_rows(x.shape[1], y.shape[1])
        if x.shape[1] > 0:
            total, directed_rows = sum_of_cosines(x, y)
            self.total, self.directed_rows = self.total + total, self.directed_rows + directed_rows
            self.rows = self.rows + x.shape[1]
            self.lowest, self.highest = FeatureRange(self.lowest, self.highest).widened(torch.cat([x, y]))

    def compute(self) -> Tensor:
        """Mean cosine of every layer.

        Returns:
            float64, shape `(layers,)`; NaN where a layer is constant or no row is left that is not all zeros.

        Raises:
            ValueError: Fewer than 4 rows came.
        """
        require_enough_rows(int(self.rows), metric="MatchedCosine")
        constant = FeatureRange(self.lowest, self.highest).constant_layers().view(2, -1).any(dim=0)
        return (self.total / self.directed_rows).masked_fill(constant, torch.nan)


def sum_of_cosines(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of matched rows summed, and how many there are: rows not all zeros on either side.

    Args:
        x: Shape `(layers, rows, features)`.
        y: The same shape.

    Returns:
        float64, shape `(layers,)` twice.
    """
    x, y = x.double(), y.double()
    x_lengths, y_lengths = (torch.linalg.vector_norm(side, dim=-1, keepdim=True) for side in (x, y))
    cosines = ((x / x_lengths) * (y / y_lengths)).sum(-1)
    directed = ((x_lengths > 0) & (y_lengths > 0)).squeeze(-1)
    return torch.where(directed, cosines, 0).sum(-1), directed.double().sum(-1)
