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

    In place of the usual two loops over pairs, their inner products with each other are kept, and each loop becomes a
    small triangular system between two products of a vector with all pairs: the same direction, but each pair is read
    twice for it and not eight times, in few operations.

    Args:
        memory: Pairs kept.

    Source:
        Nocedal and Wright 2006, algorithm 7.4; Byrd, Nocedal and Schnabel 1994, section 3.
    """

    def __init__(self, memory: int = 10) -> None:
        self.memory = memory
        self._added = 0
        self._steps = self._changes = self._products = torch.empty(0)

    def add(self, step: Tensor, change: Tensor) -> None:
        """Remember a step and the change of the gradient over it; problems that stood still learn nothing."""
        useful = inner(step, change) > 0
        step, change = ((vector * useful).flatten(2) for vector in (step, change))
        if self._added == 0:
            self._steps, self._changes = (step.new_empty(*v.shape[:2], self.memory, v.shape[2]) for v in (step, change))
            self._products = step.new_zeros(*step.shape[:2], self.memory, self.memory)
        slot = self._added % self.memory
        self._added += 1
        self._steps[:, :, slot], self._changes[:, :, slot] = step, change
        held = slice(min(self._added, self.memory))
        self._products[:, :, held, slot] = _with_each(self._steps[:, :, held], change)
        self._products[:, :, slot, slot] += ~useful[..., 0, 0]  # 1 for a pair of zeros: a system it takes no part in

    def keep(self, problems: tuple[slice | Tensor, ...]) -> None:
        """Drop all but these, an index into the first axes."""
        if self._added > 0:
            self._steps, self._changes, self._products = (
                kept[problems] for kept in (self._steps, self._changes, self._products)
            )

    def direction(self, gradient: Tensor, precondition: Callable[[Tensor], Tensor]) -> Tensor:
        """Descent direction of each problem: minus the inverse Hessian times the gradient."""
        if self._added == 0:
            return -precondition(gradient)
        oldest_first = torch.arange(max(0, self._added - self.memory), self._added) % self.memory
        by_age = oldest_first.argsort()
        held = slice(len(by_age))
        steps, changes = self._steps[:, :, held], self._changes[:, :, held]
        upper = self._products[:, :, oldest_first[:, None], oldest_first].triu()
        descent = -gradient.flatten(2)
        first = torch.linalg.solve_triangular(upper, _with_each(steps, descent)[..., oldest_first, None], upper=True)
        descent = descent - _combined(changes, first[..., by_age, 0])
        descent = precondition(descent.view_as(gradient)).flatten(2)
        rest = upper.diagonal(dim1=-2, dim2=-1)[..., None] * first
        rest = rest - _with_each(changes, descent)[..., oldest_first, None]
        second = torch.linalg.solve_triangular(upper.mT, rest, upper=False)
        return (descent + _combined(steps, second[..., by_age, 0])).view_as(gradient)


def _with_each(vectors: Tensor, vector: Tensor) -> Tensor:
    """Inner products `(layers, slices, vectors)`; a row times a matrix, which on a CPU is faster than the reverse."""
    return (vector[:, :, None] @ vectors.mT)[:, :, 0]


def _combined(vectors: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of vectors, shape `(layers, slices, parameters)`."""
    return (weights[:, :, None] @ vectors)[:, :, 0]
