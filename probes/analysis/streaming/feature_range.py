"""Which layers never changed over a stream of batches."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class FeatureRange(NamedTuple):
    """Smallest and largest value of every feature of every layer, shape `(layers, features)` each.

    Attributes:
        lowest: Infinity before the first row.
        highest: Minus infinity before the first row.
    """

    lowest: Tensor
    highest: Tensor

    @classmethod
    def empty(cls, layers: int, features: int) -> FeatureRange:
        """The range of no rows."""
        infinite = torch.full((layers, features), torch.inf, dtype=torch.float64)
        return cls(infinite, -infinite)

    def widened(self, x: Tensor) -> FeatureRange:
        """With the rows of `x`, shape `(layers, rows, features)`, at least one."""
        wide = x.double()
        return FeatureRange(self.lowest.minimum(wide.amin(1)), self.highest.maximum(wide.amax(1)))

    def constant_layers(self) -> Tensor:
        """Which layers are the same in all rows, bool of shape `(layers,)`."""
        return (self.lowest == self.highest).all(dim=1)
