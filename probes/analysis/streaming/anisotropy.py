"""Mean cosine of distinct rows, on all rows, from sums."""

from __future__ import annotations

import torch
from torch import Tensor

from probes.analysis.anisotropy import mean_cosine_of_sums, sum_of_directions
from probes.analysis.streaming.batches import require_batch
from probes.analysis.streaming.direction_sums import DirectionSums


class Anisotropy(DirectionSums):
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
            ValueError: The shape is not what the metric was made for, or rows are not finite.
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
