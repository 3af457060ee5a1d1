"""Limited-memory BFGS for many independent problems at once: directions, and how far to go along them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from probes.training.linear_solver.losses import LinearLoss


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each problem's parameters `(layers, slices, outputs, parameters)` → `(layers, slices, 1, 1)`."""
    return (a * b).sum((-1, -2), keepdim=True)


class CurvaturePairs:
    """The last few steps and gradient changes, from which L-BFGS builds each problem's inverse Hessian.

    Args:
        memory: Pairs kept.

    Source:
        Nocedal and Wright 2006, algorithm 7.4.
    """

    def __init__(self, memory: int = 10) -> None:
        self.memory = memory
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, step: Tensor, change: Tensor) -> None:
        """Remember a step and the change of the gradient over it; problems that stood still learn nothing."""
        curvature = inner(step, change)
        inverse = torch.where(curvature > 0, 1 / curvature.clamp_min(torch.finfo(step.dtype).tiny), 0.0)
        self.pairs = [*self.pairs, (step, change, inverse)][-self.memory :]

    def keep(self, problems: tuple[slice | Tensor, ...]) -> None:
        """Drop all but these, an index into the first axes."""
        self.pairs = [(step[problems], change[problems], inverse[problems]) for step, change, inverse in self.pairs]

    def direction(self, gradient: Tensor, precondition: Callable[[Tensor], Tensor]) -> Tensor:
        """Descent direction of each problem: minus the inverse Hessian times the gradient."""
        direction = -gradient
        weights = []
        for step, change, inverse in reversed(self.pairs):
            weights.append(inverse * inner(step, direction))
            direction = torch.addcmul(direction, weights[-1], change, value=-1)
        direction = precondition(direction)
        for (step, change, inverse), weight in zip(self.pairs, reversed(weights), strict=True):
            direction = torch.addcmul(direction, weight - inverse * inner(change, direction), step)
        return direction


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
