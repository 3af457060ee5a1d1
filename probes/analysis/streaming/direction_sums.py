"""The running sums behind every streaming mean of cosines."""

from __future__ import annotations

from abc import ABC

import torch
from torch import Tensor
from torchmetrics import Metric

from probes.analysis.streaming.batches import require_enough_rows
from probes.analysis.streaming.feature_range import FeatureRange


class DirectionSums(Metric, ABC):
    """What is summed over rows, over how many of them, and which layers ever changed.

    Args:
        num_layers: Layers of a side.
        features: Features of a layer.
        total_shape: Shape of what is summed.
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
        unseen = FeatureRange.empty(sides * num_layers, features)
        self.add_state("lowest", unseen.lowest, dist_reduce_fx="min")
        self.add_state("highest", unseen.highest, dist_reduce_fx="max")

    def add(self, total: Tensor, directed_rows: Tensor, *sides: Tensor) -> None:
        """Add what a batch sums to.

        Args:
            total: Its sum, of `total_shape`.
            directed_rows: Rows that have a direction, shape `(layers,)`.
            *sides: The batch, shape `(layers, rows, features)` each, at least one row.
        """
        self.total, self.directed_rows = self.total + total, self.directed_rows + directed_rows
        self.rows = self.rows + sides[0].shape[1]
        self.lowest, self.highest = FeatureRange(self.lowest, self.highest).widened(torch.cat(sides))

    def constant_layers(self) -> Tensor:
        """Which layers are the same in all rows of a side, bool of shape `(layers,)`.

        Raises:
            ValueError: Fewer than 4 rows came.
        """
        require_enough_rows(int(self.rows), metric=type(self).__name__)
        return FeatureRange(self.lowest, self.highest).constant_layers().view(-1, self.num_layers).any(dim=0)
