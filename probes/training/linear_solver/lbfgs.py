"""The two steps of limited-memory BFGS, for many independent problems at once: search direction and step length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probes.training.linear_solver.losses import LinearLoss

WOLFE_CURVATURE = 0.3
"""Constant of the strong Wolfe curvature condition: |slope at the end| ≤ 0.3 · |slope at the start|."""
SEARCH_STEPS = 8
"""Newton steps of a line search at most; most searches end after one or two."""


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product over the last two axes, kept with length 1: `(layers, problems, m, n)` → `(..., 1, 1)`."""
    return (a * b).sum((-1, -2), keepdim=True)


@dataclass(frozen=True, eq=False)
class CurvaturePairs:
    """The latest steps and gradient changes, from which L-BFGS builds each problem's inverse Hessian.

    Attributes:
        memory: Number of pairs kept.
        pairs: Steps s, gradient changes y, both `(layers, problems, outputs, rank + 1)`, and rho = 1 / sᵀy,
            `(layers, problems, 1, 1)`; the oldest first.

    Source:
        Nocedal and Wright 2006, "Numerical optimization", algorithm 7.4.
    """

    memory: int = 10
    pairs: tuple[tuple[Tensor, Tensor, Tensor], ...] = ()

    def __getitem__(self, index: Tensor | tuple[slice | Tensor, ...]) -> CurvaturePairs:
        """The pairs of some problems, by an index into the axes of layers and problems."""
        return replace(self, pairs=tuple((s[index], y[index], rho[index]) for s, y, rho in self.pairs))

    def add(self, step: Tensor, change: Tensor) -> CurvaturePairs:
        """Append the step of every problem and the change of its gradient, and drop the oldest pair if there are more.

        A problem with sᵀy ≤ 0, which would make its inverse Hessian indefinite, gets rho = 0: its pair has no effect.
        """
        s_y = inner(step, change)
        rho = torch.where(s_y > 0, 1 / s_y.clamp_min(torch.finfo(step.dtype).tiny), 0.0)
        return replace(self, pairs=(*self.pairs, (step, change, rho))[-self.memory :])

    def direction(self, gradient: Tensor, precondition: Callable[[Tensor], Tensor]) -> Tensor:
        """Each problem's search direction −H g, by the two-loop recursion.

        Args:
            gradient: g, shape `(layers, problems, outputs, rank + 1)`.
            precondition: Multiplies by H₀, the inverse Hessian that the pairs update.
        """
        direction, alphas = -gradient, []
        for s, y, rho in reversed(self.pairs):
            alphas.append(rho * inner(s, direction))  # (layers, problems, 1, 1)
            direction = torch.addcmul(direction, alphas[-1], y, value=-1)  # d ← d − alpha · y
        direction = precondition(direction)  # d ← H₀ d
        for (s, y, rho), alpha in zip(self.pairs, reversed(alphas), strict=True):
            direction = torch.addcmul(direction, alpha - rho * inner(y, direction), s)  # d ← d + (alpha − rho · yᵀd) s
        return direction


def line_search(
    loss: LinearLoss, logits: Tensor, change: Tensor, *, slope: Tensor, penalty_slope: Tensor, penalty_curvature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Find each problem's step length t at which the objective's slope along the direction is small.

    With logits z, their change Δ, parameters w, direction d and Λ = λ on weights, 0 on biases, the slope is

        slope(t) = ⟨∇loss(z + t Δ), Δ⟩ + wᵀΛd + t · dᵀΛd

    Its root is sought by Newton's method from t = 1, kept between the largest t known to have a negative slope and the
    smallest known to have a positive one.

    Args:
        loss: Loss of the problems.
        logits: z, shape `(layers, problems, outputs, rows)`.
        change: Δ, the change of the logits over a step of length 1, same shape.
        slope: slope(0), at most 0, shape `(layers, problems, 1, 1)`, as of all that follow.
        penalty_slope: wᵀΛd.
        penalty_curvature: dᵀΛd.

    Returns:
        The lengths t, and the logits and the loss's means there.
    """
    length, low, high = torch.ones_like(slope), torch.zeros_like(slope), torch.full_like(slope, torch.inf)
    for _ in range(SEARCH_STEPS):
        new_logits = torch.addcmul(logits, length, change)
        means = loss.means(new_logits)
        new_slope = inner(loss.logit_gradient(means), change) + penalty_slope + length * penalty_curvature
        done = new_slope.abs() <= -WOLFE_CURVATURE * slope
        if done.all():
            return length, new_logits, means
        low, high = torch.where(new_slope < 0, length, low), torch.where(new_slope > 0, length, high)
        curvature = loss.curvature_along(means, change)[..., None, None] + penalty_curvature  # derivative of slope(t)
        newton = length - new_slope / curvature.clamp_min(1e-30)
        bisection = torch.where(high.isinf(), 2 * length, (low + high) / 2)
        length = torch.where(done, length, torch.where((newton > low) & (newton < high), newton, bisection))
    new_logits = torch.addcmul(logits, length, change)
    return length, new_logits, loss.means(new_logits)
