"""Limited-memory BFGS for many independent problems at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


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
