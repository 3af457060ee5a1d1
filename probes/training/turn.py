"""How parameters are turned as rows are, to be sought along the axes of few rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .row_span import RowSpan


class Turn(NamedTuple):
    """Turns weights onto the axes of rows that are fewer than their features; else leaves them as they are.

    Attributes:
        span: What the rows span, if they were turned.
        axes: Orthonormal columns in the coordinates of the span, shape `(layers, rank, rank)`.
    """

    span: RowSpan | None = None
    axes: Tensor | None = None

    def enter(self, weights: Tensor, biases: Tensor) -> Tensor:
        """Turn weights `(layers, ..., features)` and put biases after them: `(layers, ..., rank + 1)`."""
        if self.span is not None and self.axes is not None:
            weights = (self.span.enter(weights.flatten(1, -2)) @ self.axes).view(*weights.shape[:-1], -1)
        return torch.cat([weights, biases[..., None]], dim=-1)

    def leave(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `enter`."""
        weights, biases = parameters[..., :-1], parameters[..., -1]
        if self.span is not None and self.axes is not None:
            weights = self.span.leave(weights.flatten(1, -2) @ self.axes.mT).view(*weights.shape[:-1], -1)
        return weights, biases
