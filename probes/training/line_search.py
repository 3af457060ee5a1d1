"""How far to go along a direction."""

from __future__ import annotations

import torch
from torch import Tensor

from .linear_losses import LinearLoss

FLATTER = 0.3
"""Share of the slope at the start that may be left where a search ends."""


def line_search(
    loss: LinearLoss, logits: Tensor, change: Tensor, slope: Tensor, by_penalty: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Find step lengths `(layers, slices, 1, 1)` where the slope is much flatter, by Newton's method kept in a bracket.

    Args:
        loss: Loss of the slices.
        logits: Where the search starts, shape `(layers, slices, outputs, rows)`.
        change: Change of the logits over a step of length 1.
        slope: Slope of the objective at the start, `(layers, slices, 1, 1)`.
        by_penalty: What the penalty adds to the slope of the loss at the start, and to that per length.

    Returns:
        The lengths, and the logits and means where the search ended.
    """
    length, low, high = torch.ones_like(slope), torch.zeros_like(slope), torch.full_like(slope, torch.inf)
    start, bend = by_penalty
    for _ in range(8):
        there = torch.addcmul(logits, length, change)
        means = loss.means(there)
        now = _sum(loss.residual(means) * change) + start + length * bend
        done = now.abs() <= -FLATTER * slope
        if done.all():
            return length, there, means
        low, high = torch.where(now < 0, length, low), torch.where(now > 0, length, high)
        newton = length - now / (loss.along(means, change)[..., None, None] + bend).clamp_min(1e-30)
        fallback = torch.where(high.isinf(), 2 * length, (low + high) / 2)
        length = torch.where(done, length, torch.where((newton > low) & (newton < high), newton, fallback))
    there = torch.addcmul(logits, length, change)
    return length, there, loss.means(there)


def _sum(values: Tensor) -> Tensor:
    return values.sum((-1, -2), keepdim=True)
