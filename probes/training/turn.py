"""How parameters are turned as rows are, to be sought along the axes of few rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .row_span import RowSpan


class Turn(NamedTuple):
    """Turns weights onto the axes of rows that are fewer than their features; else leaves them as they are.

    Attributes:
        onto: What the rows span, and orthonormal columns in the coordinates of the span, shape `(layers, rank, rank)`;
            `None` if rows were left as they are.
    """

    onto: tuple[RowSpan, Tensor] | None = None

    def enter(self, weights: Tensor, biases: Tensor) -> Tensor:
        """Turn weights `(layers, ..., features)` and put biases after them: `(layers, ..., rank + 1)`."""
        if self.onto is not None:
            span, axes = self.onto
            weights = (span.enter(weights.flatten(1, -2)) @ axes).view(*weights.shape[:-1], -1)
        return torch.cat([weights, biases[..., None]], dim=-1)

    def leave(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `enter`."""
        weights, biases = parameters[..., :-1], parameters[..., -1]
        if self.onto is not None:
            span, axes = self.onto
            weights = span.leave(weights.flatten(1, -2) @ axes.mT).view(*weights.shape[:-1], -1)
        return weights, biases
