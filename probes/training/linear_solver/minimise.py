"""The full-batch quasi-Newton loop: every slice of every layer walks alone, finished ones leave."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.training.linear_solver.eigenbasis import Eigenbasis
from probes.training.linear_solver.lbfgs import CurvaturePairs, inner, line_search
from probes.training.linear_solver.losses import LinearLoss

MARGIN = 0.9
"""Share of the tolerance at which a slice stops; the rest is for rounding."""
STALL = 40
"""Iterations in float32 without a smaller gap after which rounding, not the method, is taken to be the limit."""
OWN_MOMENTS_FROM = 32
"""Iterations, a power of 2, after which those still running get moments of their own; and at each next power."""
WORTH_LEAVING = 0.75
"""Share of layers, or of slices, still running below which it pays to copy these and leave the others behind."""
FEW_OUTPUTS = 5
"""Outputs up to which rows times weights takes half the time of weights times rows, on a CPU."""

_OF_EACH_PROBLEM = (
    "parameters", "logits", "means", "gradient", "curvature", "moments", "objective", "running", "best_gap", "stalled"
)  # fmt: skip


@dataclass
class _State:
    """The problems still running: every slice in `slices` of every layer in `layers`."""

    layers: Tensor
    slices: Tensor
    basis: Eigenbasis
    loss: LinearLoss
    ridge: Tensor
    pairs: CurvaturePairs
    parameters: Tensor
    logits: Tensor
    means: Tensor
    gradient: Tensor
    curvature: Tensor
    moments: Tensor
    objective: Tensor
    running: Tensor
    best_gap: Tensor
    stalled: Tensor

    def keep_layers(self, kept: Tensor) -> None:
        """Go on with these only, a mask over the layers that are left."""
        self.layers, self.basis = self.layers[kept], self.basis.keep(kept)
        self._keep((kept,))

    def keep_slices(self, kept: Tensor) -> None:
        """Go on with these only, a mask over the slices that are left."""
        self.slices, self.loss, self.ridge = self.slices[kept], self.loss.keep(kept), self.ridge[kept]
        self._keep((slice(None), kept))

    def _keep(self, index: tuple[slice | Tensor, ...]) -> None:
        self.pairs.keep(index)
        for name in _OF_EACH_PROBLEM:
            setattr(self, name, getattr(self, name)[index])


def minimise(
    loss: LinearLoss, basis: Eigenbasis, start: Tensor, *, penalties: Tensor, tolerance: float, max_iterations: int
) -> tuple[Tensor, int]:
    """Minimise mean loss + penalty/2 · ‖weights‖² of every layer's slices.

    L-BFGS with a line search, preconditioned along the axes by second moments times each output's present mean
    curvature, plus the penalty. For slices that take long, moments weigh each row by its curvature. A slice stops where
    its gap, bounded by ‖gradient‖² / (2 · penalty) at the best biases, is within the tolerance, or stalls for rounding.

    Args:
        loss: Loss of the slices.
        basis: Rows of each layer.
        start: Shape `(layers, slices, outputs, rank + 1)`, the bias last.
        penalties: λ of each slice, above 0, shape `(slices,)`.
        tolerance: Wanted gap to the optimum, relative to the objective.
        max_iterations: Iterations at most.

    Returns:
        Parameters of the shape of `start`, and the iterations run.
    """
    result = start.clone()
    state = _begin(loss, basis, start, penalties)
    iteration = 0
    for iteration in range(max_iterations + 1):
        _update_running(state, tolerance)
        layers, slices = state.running.any(1), state.running.any(0)
        if iteration == max_iterations or not layers.any():
            break
        few_layers, few_slices = (left.float().mean() < WORTH_LEAVING for left in (layers, slices))
        if few_layers or few_slices:
            result[state.layers[:, None], state.slices] = state.parameters
        if few_layers:
            state.keep_layers(layers)
        if few_slices:
            state.keep_slices(slices)
        if iteration >= OWN_MOMENTS_FROM and iteration.bit_count() == 1:
            state.moments = state.basis.weighted_moments(_curvature_by_row(state.loss, state.means))
        _step(state)
    result[state.layers[:, None], state.slices] = state.parameters
    return result, iteration


def _begin(loss: LinearLoss, basis: Eigenbasis, start: Tensor, penalties: Tensor) -> _State:
    cells, device = start.shape[:2], start.device
    weighted = torch.ones(start.shape[-1]).to(start)
    weighted[-1] = 0
    ridge = penalties.to(start)[:, None, None] * weighted
    logits = _logits(start, basis.rows)
    means = loss.means(logits)
    return _State(
        layers=torch.arange(cells[0], device=device),
        slices=torch.arange(cells[1], device=device),
        basis=basis,
        loss=loss,
        ridge=ridge,
        pairs=CurvaturePairs(),
        parameters=start,
        logits=logits,
        means=means,
        gradient=_gradient(loss.residual(means), basis.rows) + ridge * start,
        curvature=_curvature(loss, means),
        moments=basis.eigenvalues[:, None, None].expand(*start.shape[:3], -1),
        objective=torch.full(cells, torch.inf, dtype=start.dtype, device=device),
        running=torch.ones(cells, dtype=torch.bool, device=device),
        best_gap=torch.full(cells, torch.inf, dtype=start.dtype, device=device),
        stalled=torch.zeros(cells, dtype=torch.long, device=device),
    )


def _logits(parameters: Tensor, rows: Tensor) -> Tensor:
    weights, biases = parameters[..., :-1].flatten(1, 2), parameters[..., -1:]
    products = (rows @ weights.mT).mT if weights.shape[1] <= FEW_OUTPUTS else weights @ rows.mT
    return products.unflatten(1, parameters.shape[1:3]) + biases


def _gradient(residual: Tensor, rows: Tensor) -> Tensor:
    by_weights = (residual.flatten(1, 2) @ rows).unflatten(1, residual.shape[1:3])
    return torch.cat([by_weights, residual.sum(-1, keepdim=True)], dim=-1)


def _curvature(loss: LinearLoss, means: Tensor) -> Tensor:
    return loss.curvature(means).clamp_min(1e-6)


def _curvature_by_row(loss: LinearLoss, means: Tensor) -> Tensor:
    """What `_curvature` sums."""
    return (loss.spread(means) * loss.scale).clamp_min(torch.finfo(means.dtype).tiny)


def _update_running(state: _State, tolerance: float) -> None:
    by_bias = (state.gradient[..., -1:].square() / (2 * state.curvature)).sum((-1, -2))
    gap = _bound(state.gradient, state.ridge) + by_bias
    better = gap < state.best_gap
    state.best_gap = torch.where(better, gap, state.best_gap)
    state.stalled = torch.where(better, 0, state.stalled + 1)
    near = state.running & (gap <= tolerance * state.objective)
    if near.any():  # the objective falls: what is not near by its last value, is not by its present one
        state.objective[near] = _objectives(state, near)
        near &= gap <= tolerance * state.objective
        if near.any():
            reached = _gaps_at_best_biases(state, near) <= MARGIN * tolerance * state.objective[near]
            near = near.masked_scatter(near, reached)
    rounded = (state.stalled >= STALL) & (gap.dtype == torch.float32)
    state.running = state.running & ~near & ~rounded


def _bound(gradient: Tensor, ridge: Tensor) -> Tensor:
    """‖gradient of the weights‖² / (2 · penalty), shape `(layers, slices)`."""
    return gradient[..., :-1].square().sum((-1, -2)) / (2 * ridge[:, 0, 0])


def _objectives(state: _State, cells: Tensor) -> Tensor:
    """Of these cells, a mask `(layers, slices)`; shape `(cells,)`."""
    slices = cells.nonzero()[:, 1]
    penalty_terms = (state.ridge[slices] * state.parameters[cells].square()).sum((-1, -2)) / 2
    return state.loss.keep(slices).value(state.logits[cells][None])[0] + penalty_terms


def _gaps_at_best_biases(state: _State, cells: Tensor) -> Tensor:
    """The bound of these cells, a mask `(layers, slices)`, once their biases have taken a Newton step of their own."""
    slices = cells.nonzero()[:, 1]
    loss, ridge = state.loss.keep(slices), state.ridge[slices]
    step = loss.bias_step(state.means[cells][None], state.gradient[cells][None, ..., -1])
    residual = loss.residual(loss.means(state.logits[cells][None] - step[..., None]))
    by_layer = zip(residual.split(cells.sum(1).tolist(), dim=1), state.basis.rows, strict=True)
    gradient = torch.cat([_gradient(own, rows[None]) for own, rows in by_layer if own.shape[1] > 0], dim=1)[0]
    return _bound(gradient + ridge * state.parameters[cells], ridge)


def _step(state: _State) -> None:
    """Move every running slice along its direction to about the minimum there, and look around."""

    def precondition(vector: Tensor) -> Tensor:
        return state.basis.precondition(vector, state.curvature, state.moments, state.ridge[..., :1])

    direction = state.pairs.direction(state.gradient, precondition)
    slope = inner(state.gradient, direction)
    if not (slope < 0).all():
        direction = torch.where(slope < 0, direction, -precondition(state.gradient))
        slope = inner(state.gradient, direction)
    direction = direction * state.running[..., None, None]
    change = _logits(direction, state.basis.rows)
    by_penalty = inner(state.ridge * state.parameters, direction), inner(state.ridge * direction, direction)
    length, state.logits, state.means = line_search(state.loss, state.logits, change, slope, by_penalty)
    step = length * direction
    state.parameters = state.parameters + step
    before = state.gradient
    state.gradient = _gradient(state.loss.residual(state.means), state.basis.rows) + state.ridge * state.parameters
    state.curvature = _curvature(state.loss, state.means)
    state.pairs.add(step, state.gradient - before)
