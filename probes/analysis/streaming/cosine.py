"""Mean cosine of matched rows, on all rows, from sums."""

from __future__ import annotations

import torch
from torch import Tensor

from probes.analysis.streaming.batches import require_batch, require_same_rows
from probes.analysis.streaming.direction_sums import DirectionSums


class MatchedCosine(DirectionSums):
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
            ValueError: A shape is not what the metric was made for, rows differ or are not finite.
        """
        require_batch(x, layers=self.num_layers, features=self.features, name="x")
        require_batch(y, layers=self.num_layers, features=self.features, name="y")
        require_same_rows(x.shape[1], y.shape[1])
        if x.shape[1] > 0:
            self.add(*sum_of_cosines(x, y), x, y)

    def compute(self) -> Tensor:
        """Mean cosine of every layer.

        Returns:
            float64, shape `(layers,)`; NaN where a layer is constant or no row is left that is not all zeros.

        Raises:
            ValueError: Fewer than 4 rows came.
        """
        return (self.total / self.directed_rows).masked_fill(self.constant_layers(), torch.nan)


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
