"""Mean cosine of distinct rows, on all rows, from sums."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from probes.analysis.spectra import mean_cosine_of_sums, sum_of_directions
from probes.analysis.streaming.batches import require_batch, require_enough_rows
from probes.analysis.streaming.feature_range import FeatureRange


class Anisotropy(Metric):
    """`anisotropy` over rows that come in batches.

    Args:
        num_layers: Layers.
        features: Features of a layer.
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
        self.add_state("total", torch.zeros(num_layers, features, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("directed_rows", torch.zeros(num_layers, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")
        unseen = FeatureRange.empty(num_layers, features)
        self.add_state("lowest", unseen.lowest, dist_reduce_fx="min")
        self.add_state("highest", unseen.highest, dist_reduce_fx="max")

    def update(self, x: Tensor) -> None:
        """Add a batch.

        Args:
            x: Shape `(layers, rows, features)`.

        Raises:
            ValueError: The shape is not what the metric was made for, or rows are not finite.
        """
        require_batch(x, layers=self.num_layers, features=self.features)
        if x.shape[1] > 0:
            total, directed_rows = sum_of_directions(x)
            self.total, self.directed_rows = self.total + total, self.directed_rows + directed_rows
            self.rows = self.rows + x.shape[1]
            self.lowest, self.highest = FeatureRange(self.lowest, self.highest).widened(x)

    def compute(self) -> Tensor:
        """Anisotropy of every layer.

        Returns:
            float64, shape `(layers,)`; NaN where a layer is constant or has fewer than 2 rows that are not all zeros.

        Raises:
            ValueError: Fewer than 4 rows came.
        """
        require_enough_rows(int(self.rows), metric="Anisotropy")
        constant = FeatureRange(self.lowest, self.highest).constant_layers()
        return mean_cosine_of_sums(self.total, self.directed_rows).masked_fill(constant, torch.nan)
