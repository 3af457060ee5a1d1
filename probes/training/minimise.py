"""The full-batch quasi-Newton loop: every layer and slice walks alone, finished layers leave."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .eigenbasis import Eigenbasis
from .lbfgs import CurvaturePairs, inner
from .line_search import line_search
from .linear_losses import LinearLoss

MARGIN = 0.9
"""Share of the tolerance at which a slice stops; the rest is for rounding."""
STALL = 40
"""Iterations without a smaller gap after which rounding, not the method, is taken to be the limit."""


@dataclass
class _State:
    """The problems still running, first axis the layers in `layers`."""

    layers: Tensor
    basis: Eigenbasis
    parameters: Tensor
    logits: Tensor
    means: Tensor
    objective: Tensor
    running: Tensor
    best_gap: Tensor
    stalled: Tensor

    def keep(self, chosen: Tensor) -> None:
        for name, value in vars(self).items():
            setattr(self, name, value.keep(chosen) if isinstance(value, Eigenbasis) else value[chosen])


def minimise(
    loss: LinearLoss, basis: Eigenbasis, start: Tensor, *, penalty: float, tolerance: float, max_iterations: int
) -> tuple[Tensor, int]:
    """Minimise mean loss + penalty/2 · ‖weights‖² of every layer's slices.

    L-BFGS with a line search, preconditioned by the rows' second moments times each output's present mean curvature,
    plus the penalty. A slice stops where its gap, bounded by ‖gradient‖² / (2 · penalty) at the best biases, is within
    the tolerance, or stalls for rounding.

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
    state = _begin(loss, basis, start)
    pairs, previous, iteration = CurvaturePairs(), None, 0
    for iteration in range(max_iterations + 1):
        gradient = _gradient(loss.residual(state.means), state.basis.rows) + ridge * state.parameters
        curvature = loss.curvature(state.means).clamp_min(1e-6)
        _update_running(state, loss, gradient, curvature, ridge, tolerance)
        live = state.running.any(1)
        if iteration == max_iterations or not live.any():
            break
        if previous is not None:
            pairs.add(previous[0], gradient - previous[1])
        if live.float().mean() < 0.75:
            result[state.layers] = state.parameters
            state.keep(live)
            pairs.keep(live)
            gradient, curvature = gradient[live], curvature[live]
        step = _step(state, loss, gradient, curvature, pairs, ridge)
        previous = (step, gradient)
    result[state.layers] = state.parameters
    return result, iteration


def _begin(loss: LinearLoss, basis: Eigenbasis, start: Tensor) -> _State:
    slices = start.shape[:2]
    logits = _logits(start, basis.rows)
    return _State(
        layers=torch.arange(len(start), device=start.device),
        basis=basis,
        parameters=start,
        logits=logits,
        means=loss.means(logits),
        objective=torch.full(slices, torch.inf, dtype=start.dtype, device=start.device),
        running=torch.ones(slices, dtype=torch.bool, device=start.device),
        best_gap=torch.full(slices, torch.inf, dtype=start.dtype, device=start.device),
        stalled=torch.zeros(slices, dtype=torch.long, device=start.device),
    )


def _logits(parameters: Tensor, rows: Tensor) -> Tensor:
    return (parameters.flatten(1, 2) @ rows.mT).unflatten(1, parameters.shape[1:3])


def _gradient(residual: Tensor, rows: Tensor) -> Tensor:
    return (residual.flatten(1, 2) @ rows).unflatten(1, residual.shape[1:3])


def _update_running(
    state: _State, loss: LinearLoss, gradient: Tensor, curvature: Tensor, ridge: Tensor, tolerance: float
) -> None:
    by_bias = (gradient[..., -1:].square() / (2 * curvature)).sum((-1, -2))
    gap = gradient[..., :-1].square().sum((-1, -2)) / (2 * ridge[0]) + by_bias
    better = gap < state.best_gap
    state.best_gap = torch.where(better, gap, state.best_gap)
    state.stalled = torch.where(better, 0, state.stalled + 1)
    near = state.running & (gap <= tolerance * state.objective)
    if near.any():  # the objective falls: what is not near by its last value, is not by its present one
        penalty_term = (ridge * state.parameters.square()).sum((-1, -2)) / 2
        state.objective = loss.value(state.logits) + penalty_term
        near &= gap <= tolerance * state.objective
        if near.any():
            near &= _gap_at_best_bias(state, loss, gradient, ridge) <= MARGIN * tolerance * state.objective
    state.running = state.running & ~near & (state.stalled < STALL)


def _gap_at_best_bias(state: _State, loss: LinearLoss, gradient: Tensor, ridge: Tensor) -> Tensor:
    """The bound ‖gradient of the weights‖² / (2 · penalty), once the biases have taken a Newton step of their own."""
    step = loss.bias_step(state.means, gradient[..., -1])
    means = loss.means(state.logits - step[..., None])
    own = (_gradient(loss.residual(means), state.basis.rows) + ridge * state.parameters)[..., :-1]
    return own.square().sum((-1, -2)) / (2 * ridge[0])


def _step(
    state: _State, loss: LinearLoss, gradient: Tensor, curvature: Tensor, pairs: CurvaturePairs, ridge: Tensor
) -> Tensor:
    """Move every running slice along its direction to about the minimum there; return the steps."""

    def precondition(vector: Tensor) -> Tensor:
        return state.basis.precondition(vector, curvature, ridge[0])

    direction = pairs.direction(gradient, precondition)
    slope = inner(gradient, direction)
    if not (slope < 0).all():
        direction = torch.where(slope < 0, direction, -precondition(gradient))
        slope = inner(gradient, direction)
    direction = direction * state.running[..., None, None]
    change = _logits(direction, state.basis.rows)
    by_penalty = inner(ridge * state.parameters, direction), inner(ridge * direction, direction)
    length, state.logits, state.means = line_search(loss, state.logits, change, slope, by_penalty)
    step = length * direction
    state.parameters = state.parameters + step
    return step
