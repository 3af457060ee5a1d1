"""The full-batch quasi-Newton loop: every layer and slice walks alone, finished layers leave."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .eigenbasis import Eigenbasis
from .lbfgs import CurvaturePairs, inner
from .linear_losses import LinearLoss

STALL = 40
"""Iterations without a smaller gap after which rounding, not the method, is taken to be the limit."""


@dataclass
class _State:
    """The problems still running, first axis the layers in `layers`."""

    layers: Tensor
    rows: Tensor
    eigenvalues: Tensor
    parameters: Tensor
    logits: Tensor
    running: Tensor
    best_gap: Tensor
    stalled: Tensor

    def keep(self, chosen: Tensor) -> None:
        for name, value in vars(self).items():
            setattr(self, name, value[chosen])


def minimise(
    loss: LinearLoss, basis: Eigenbasis, start: Tensor, *, penalty: float, tolerance: float, max_iterations: int
) -> tuple[Tensor, int]:
    """Minimise mean loss + penalty/2 · ‖weights‖² of every layer's slices.

    L-BFGS with an exact line search, preconditioned by the rows' second moments times each output's present mean
    curvature, plus the penalty: diagonal in the eigenbasis. A slice stops where its gap, bounded by
    ‖gradient‖² / (2 · penalty), is half the tolerance, or stalls for rounding.

    Args:
        loss: Loss of the slices.
        basis: Rows of each layer.
        start: Shape `(layers, slices, outputs, rank + 1)`, the bias last.
        penalty: λ, above 0.
        tolerance: Wanted gap to the optimum, relative to the objective.
        max_iterations: Iterations at most.

    Returns:
        Parameters of the shape of `start`, and the iterations run.
    """
    ridge = torch.cat([start.new_full((start.shape[-1] - 1,), penalty), start.new_zeros(1)])
    result = start.clone()
    state = _begin(basis, start)
    pairs, previous, iteration = CurvaturePairs(), None, 0
    for iteration in range(max_iterations + 1):
        means = loss.means(state.logits)
        gradient = (loss.residual(means).flatten(1, 2) @ state.rows).view_as(
            state.parameters
        ) + ridge * state.parameters
        curvature = loss.curvature(means).clamp_min(1e-6)
        _update_running(state, loss, gradient, curvature, ridge, tolerance)
        result[state.layers] = state.parameters
        if iteration == max_iterations or not state.running.any():
            break
        if previous is not None:
            pairs.add(previous[0], gradient - previous[1])
        scale = 1 / (curvature * state.eigenvalues[:, None, None] + ridge)
        live = state.running.any(1)
        if live.float().mean() < 0.75:
            state.keep(live)
            pairs.keep(live)
            gradient, scale = gradient[live], scale[live]
        step = _step(state, loss, gradient, scale, pairs, ridge)
        previous = (step, gradient)
    return result, iteration


def _begin(basis: Eigenbasis, start: Tensor) -> _State:
    slices = start.shape[:2]
    return _State(
        layers=torch.arange(len(start), device=start.device),
        rows=basis.rows,
        eigenvalues=basis.eigenvalues,
        parameters=start.clone(),
        logits=_logits(start, basis.rows),
        running=torch.ones(slices, dtype=torch.bool, device=start.device),
        best_gap=torch.full(slices, torch.inf, dtype=start.dtype, device=start.device),
        stalled=torch.zeros(slices, dtype=torch.long, device=start.device),
    )


def _logits(parameters: Tensor, rows: Tensor) -> Tensor:
    return (parameters.flatten(1, 2) @ rows.mT).view(*parameters.shape[:3], -1)


def _update_running(
    state: _State, loss: LinearLoss, gradient: Tensor, curvature: Tensor, ridge: Tensor, tolerance: float
) -> None:
    penalty = ridge[0]
    objective = loss.value(state.logits) + (ridge * state.parameters.square()).sum((-1, -2)) / 2
    by_weights = gradient[..., :-1].square().sum((-1, -2)) / (2 * penalty)
    by_bias = (gradient[..., -1:].square() / (2 * curvature)).sum((-1, -2))
    gap = by_weights + by_bias
    better = gap < state.best_gap
    state.best_gap = torch.where(better, gap, state.best_gap)
    state.stalled = torch.where(better, 0, state.stalled + 1)
    state.running &= (gap > tolerance / 2 * objective) & (state.stalled < STALL)


def _step(
    state: _State, loss: LinearLoss, gradient: Tensor, scale: Tensor, pairs: CurvaturePairs, ridge: Tensor
) -> Tensor:
    """Move every running slice along its direction to the minimum there; return the steps."""
    direction = pairs.direction(gradient, lambda g: g * scale)
    descends = inner(gradient, direction) < 0
    direction = torch.where(descends, direction, -gradient * scale) * state.running[..., None, None]
    change = _logits(direction, state.rows)
    start_slope = (ridge * state.parameters * direction).sum((-1, -2))
    bend = (ridge * direction.square()).sum((-1, -2))
    length = _line_search(loss, state.logits, change, start_slope, bend)[..., None, None]
    step = length * direction
    state.parameters = state.parameters + step
    state.logits = state.logits + length * change
    return step


def _line_search(loss: LinearLoss, logits: Tensor, change: Tensor, slope: Tensor, bend: Tensor) -> Tensor:
    """Find step lengths `(layers, slices)` where the slope has nearly vanished, by Newton's method kept in a bracket.

    The penalty adds `slope + length · bend` to the slope of the loss.
    """
    first = (loss.residual(loss.means(logits)) * change).sum((-1, -2)) + slope
    length, low, high = torch.ones_like(slope), torch.zeros_like(slope), torch.full_like(slope, torch.inf)
    for _ in range(8):
        means = loss.means(logits + length[..., None, None] * change)
        now = (loss.residual(means) * change).sum((-1, -2)) + slope + length * bend
        done = now.abs() <= 0.3 * first.abs()
        if done.all():
            break
        low, high = torch.where(now < 0, length, low), torch.where(now > 0, length, high)
        newton = length - now / (loss.along(means, change) + bend).clamp_min(1e-30)
        fallback = torch.where(high.isinf(), 2 * length, (low + high) / 2)
        length = torch.where(done, length, torch.where((newton > low) & (newton < high), newton, fallback))
    return length
