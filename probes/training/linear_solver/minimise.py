"""Batched L-BFGS: all problems of several layers advance together, and converged ones are dropped from the batch.

Axes and terms are those of the package's docstring. One iteration, for each problem with parameters w = (W, b):

    g = ∇(loss + λ/2 ‖W‖²)              gradient, (layers, problems, outputs, rank + 1)
    d = −H g                            direction: `CurvaturePairs`, from `Eigenbasis.precondition`
    w ← w + t d                         length t: `line_search`

A problem is converged once its objective f is certain to be near the optimum f*. Minimised over the biases, f is a
λ-strongly convex function of the weights alone, so f − f* ≤ ‖∇f‖² / 2λ with the gradient at the optimal biases.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from probes.threads import stop_if_abandoned
from probes.training.linear_solver.eigenbasis import Eigenbasis
from probes.training.linear_solver.lbfgs import CurvaturePairs, inner, line_search
from probes.training.linear_solver.losses import LinearLoss

TOLERANCE_SHARE = 0.9
"""Share of the tolerance at which a problem stops; the certificate in float64 differs by rounding."""
STALL_ITERATIONS = 40
"""Iterations in float32 without a smaller gap after which rounding, not the method, is taken to be the limit."""
WEIGHTED_MOMENTS_FROM = 32
"""Iteration, a power of 2, at which and at each later power of 2 the moments are weighted by present curvatures."""
DROP_BELOW = 0.75
"""Share of layers, or of problems, still running below which copying these costs less than computing all."""
FEW_OUTPUTS = 5
"""Outputs up to which the product rows × weights takes about half the time of weights × rows, on a CPU."""


def minimise(
    loss: LinearLoss, basis: Eigenbasis, start: Tensor, *, penalties: Tensor, tolerance: float, max_iterations: int
) -> tuple[Tensor, int]:
    """Minimise the mean loss + λ/2 · ‖weights‖² of every layer's problems.

    The preconditioner approximates the Hessian by a diagonal along the axes of each layer's rows: each output's mean
    curvature times the rows' second moments, plus λ. For problems that take long, the moments weight each row by its
    curvature. A problem stops when the bound on its gap is within the tolerance or, in float32, stalls.

    Args:
        loss: Loss of the problems.
        basis: Rows of each layer.
        start: Parameters, shape `(layers, problems, outputs, rank + 1)`.
        penalties: λ of each problem, above 0, shape `(problems,)`.
        tolerance: Gap to the optimum to reach, relative to the objective.
        max_iterations: Iterations at most.

    Returns:
        Parameters of the shape of `start`, and the number of iterations run.
    """
    solution = start.clone()
    objective = _Objective.of(loss, basis, penalties.to(start))
    iterate = _first_iterate(objective, start)
    iteration = 0
    for iteration in range(max_iterations + 1):
        stop_if_abandoned()
        iterate = _stop_converged(objective, iterate, tolerance)
        if iteration == max_iterations or not iterate.running.any():
            break
        objective, iterate = _drop_stopped(objective, iterate, solution)
        if iteration >= WEIGHTED_MOMENTS_FROM and iteration.bit_count() == 1:  # a power of 2
            iterate = replace(iterate, moments=objective.weighted_moments(iterate.means))
        iterate = _advance(objective, iterate)
    objective.write(iterate.parameters, solution)
    return solution, iteration


@dataclass(frozen=True, eq=False)
class _Objective:
    """The penalised losses of the problems in the batch: each of `problems` at each of `layers`.

    Attributes:
        layers: Indices of these layers among those of `minimise`, shape `(layers,)`.
        problems: Indices of these problems among those of `minimise`, shape `(problems,)`.
        loss: Loss of these problems.
        basis: Rows of these layers.
        ridge: λ at every weight and 0 at the bias, shape `(problems, 1, rank + 1)`.
    """

    layers: Tensor
    problems: Tensor
    loss: LinearLoss
    basis: Eigenbasis
    ridge: Tensor

    @classmethod
    def of(cls, loss: LinearLoss, basis: Eigenbasis, penalties: Tensor) -> _Objective:
        """The objectives of all problems at all layers."""
        device, (layers, _, rank) = penalties.device, basis.rows.shape
        penalised = torch.ones(rank + 1).to(penalties)
        penalised[-1] = 0  # the bias
        ridge = penalties[:, None, None] * penalised
        return cls(torch.arange(layers, device=device), torch.arange(len(penalties), device=device), loss, basis, ridge)

    def of_layers(self, layers: Tensor) -> _Objective:
        """The objectives of some layers, a mask."""
        return replace(self, layers=self.layers[layers], basis=self.basis.of_layers(layers))

    def of_problems(self, problems: Tensor) -> _Objective:
        """The objectives of some problems, a mask."""
        return replace(
            self,
            problems=self.problems[problems],
            loss=self.loss.of_problems(problems),
            ridge=self.ridge[problems],
        )

    def write(self, parameters: Tensor, solution: Tensor) -> None:
        """Write these problems' parameters to their places in the solution of all."""
        solution[self.layers[:, None], self.problems] = parameters

    def logits(self, parameters: Tensor) -> Tensor:
        """W X + b, from parameters `(layers, problems, outputs, rank + 1)` to `(layers, problems, outputs, rows)`."""
        weights, biases = parameters[..., :-1].flatten(1, 2), parameters[..., -1:]
        rows = self.basis.rows
        # (layers, problems · outputs, rows), as (X Wᵀ)ᵀ or as W Xᵀ
        products = (rows @ weights.mT).mT if weights.shape[1] <= FEW_OUTPUTS else weights @ rows.mT
        return products.unflatten(1, parameters.shape[1:3]) + biases

    def gradient(self, parameters: Tensor, means: Tensor) -> Tensor:
        """Gradient of loss + λ/2 ‖W‖² by the parameters, of their shape."""
        return _loss_gradient(self.loss.logit_gradient(means), self.basis.rows) + self.ridge * parameters

    def curvature(self, means: Tensor) -> Tensor:
        """Mean second derivative by each output, at least 1e-6 to divide by; `(layers, problems, outputs, 1)`."""
        return self.loss.mean_curvature(means).clamp_min(1e-6)

    def weighted_moments(self, means: Tensor) -> Tensor:
        """Second moments of rows weighted by their curvature, shape `(layers, problems, outputs, rank)`."""
        by_row = self.loss.logit_curvature(means) * self.loss.row_shares
        return self.basis.weighted_moments(by_row.clamp_min(torch.finfo(means.dtype).tiny))


@dataclass(frozen=True, eq=False)
class _Iterate:
    """Where each problem in the batch is; the first two axes of every field are layers and problems.

    Attributes:
        parameters: Shape `(layers, problems, outputs, rank + 1)`.
        logits: Of the parameters, shape `(layers, problems, outputs, rows)`.
        means: Of the logits, same shape.
        gradient: Of the objective by the parameters, in their shape.
        curvature: Mean second derivative of the loss by each output, shape `(layers, problems, outputs, 1)`.
        moments: Of the rows along the axes, for the preconditioner, shape `(layers, problems, outputs, rank)`.
        pairs: Steps and gradient changes of the last iterations.
        objective: When last computed, infinite before; an upper bound, as the objective falls. `(layers, problems)`.
        running: Whether the problem still moves, shape `(layers, problems)`, as of all that follow.
        smallest_gap: Smallest estimate of the gap so far.
        stalled: Iterations since then.
    """

    parameters: Tensor
    logits: Tensor
    means: Tensor
    gradient: Tensor
    curvature: Tensor
    moments: Tensor
    pairs: CurvaturePairs
    objective: Tensor
    running: Tensor
    smallest_gap: Tensor
    stalled: Tensor

    def __getitem__(self, index: Tensor | tuple[slice | Tensor, ...]) -> Self:
        """Some of the problems, by an index into the axes of layers and problems."""
        return type(self)(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


def _first_iterate(objective: _Objective, parameters: Tensor) -> _Iterate:
    batch = parameters.shape[:2]  # (layers, problems)
    logits = objective.logits(parameters)
    means = objective.loss.means(logits)
    return _Iterate(
        parameters=parameters,
        logits=logits,
        means=means,
        gradient=objective.gradient(parameters, means),
        curvature=objective.curvature(means),
        moments=objective.basis.eigenvalues[:, None, None].expand(*parameters.shape[:3], -1),
        pairs=CurvaturePairs(),
        objective=parameters.new_full(batch, torch.inf),
        running=torch.ones(batch, dtype=torch.bool, device=parameters.device),
        smallest_gap=parameters.new_full(batch, torch.inf),
        stalled=torch.zeros(batch, dtype=torch.long, device=parameters.device),
    )


def _advance(objective: _Objective, iterate: _Iterate) -> _Iterate:
    """Move every running problem along its direction to about the minimum on that line."""

    def precondition(vectors: Tensor) -> Tensor:
        return objective.basis.precondition(vectors, iterate.curvature, iterate.moments, objective.ridge[..., :1])

    gradient, ridge = iterate.gradient, objective.ridge
    direction = iterate.pairs.direction(gradient, precondition)
    slope = inner(gradient, direction)
    if not (slope < 0).all():  # rounding can turn a direction uphill; the preconditioned gradient descends
        direction = torch.where(slope < 0, direction, -precondition(gradient))
        slope = inner(gradient, direction)
    direction = direction * iterate.running[..., None, None]
    length, logits, means = line_search(
        objective.loss,
        iterate.logits,
        objective.logits(direction),  # logits are linear in the parameters
        slope=slope,
        penalty_slope=inner(ridge * iterate.parameters, direction),
        penalty_curvature=inner(ridge * direction, direction),
    )
    step = length * direction
    parameters = iterate.parameters + step
    new_gradient = objective.gradient(parameters, means)
    return replace(
        iterate,
        parameters=parameters,
        logits=logits,
        means=means,
        gradient=new_gradient,
        curvature=objective.curvature(means),
        pairs=iterate.pairs.add(step, new_gradient - gradient),
    )


def _drop_stopped(objective: _Objective, iterate: _Iterate, solution: Tensor) -> tuple[_Objective, _Iterate]:
    """Write the solutions, then drop layers and problems that have stopped altogether, if these are enough."""
    layers, problems = iterate.running.any(1), iterate.running.any(0)
    drop_layers, drop_problems = (running.float().mean() < DROP_BELOW for running in (layers, problems))
    if drop_layers or drop_problems:
        objective.write(iterate.parameters, solution)
    if drop_layers:
        objective, iterate = objective.of_layers(layers), iterate[layers]
    if drop_problems:
        objective, iterate = objective.of_problems(problems), iterate[:, problems]
    return objective, iterate


def _stop_converged(objective: _Objective, iterate: _Iterate, tolerance: float) -> _Iterate:
    """Stop the problems that are within the tolerance, and those that rounding keeps from it.

    Three tests, each made only for the problems that passed the one before, as each costs more: an estimate of the gap
    relative to an older, larger objective; relative to the present objective; and the bound at the best biases.
    """
    # At the best biases the loss is lower by about g_b² / 2c, which is added to ‖g_W‖² / 2λ.
    by_bias = (iterate.gradient[..., -1:].square() / (2 * iterate.curvature)).sum((-1, -2))
    gap = _gap_bound(iterate.gradient, objective.ridge) + by_bias  # (layers, problems)
    smaller = gap < iterate.smallest_gap
    iterate = replace(
        iterate,
        smallest_gap=torch.where(smaller, gap, iterate.smallest_gap),
        stalled=torch.where(smaller, 0, iterate.stalled + 1),
    )
    near = iterate.running & (gap <= tolerance * iterate.objective)
    if near.any():
        values = iterate.objective.masked_scatter(near, _objectives(objective, iterate, near))
        iterate = replace(iterate, objective=values)
        near &= gap <= tolerance * values
        if near.any():
            bounds = _gaps_at_best_biases(objective, iterate, near)
            near = near.masked_scatter(near, bounds <= TOLERANCE_SHARE * tolerance * values[near])
    limited_by_rounding = (iterate.stalled >= STALL_ITERATIONS) & (gap.dtype == torch.float32)
    return replace(iterate, running=iterate.running & ~near & ~limited_by_rounding)


def _objectives(objective: _Objective, iterate: _Iterate, chosen: Tensor) -> Tensor:
    """The objectives of the problems chosen by a mask `(layers, problems)`, in the order of the mask: `(chosen,)`."""
    problems = chosen.nonzero()[:, 1]
    penalty_terms = (objective.ridge[problems] * iterate.parameters[chosen].square()).sum((-1, -2)) / 2
    # Chosen problems of all layers stand side by side on the axis of problems of a single layer.
    return objective.loss.of_problems(problems).value(iterate.logits[chosen][None])[0] + penalty_terms


def _gaps_at_best_biases(objective: _Objective, iterate: _Iterate, chosen: Tensor) -> Tensor:
    """Bounds on the gaps of the problems chosen by a mask `(layers, problems)`, after a Newton step of their biases."""
    problems = chosen.nonzero()[:, 1]
    loss, ridge = objective.loss.of_problems(problems), objective.ridge[problems]
    # Chosen problems of all layers stand side by side on the axis of problems of a single layer.
    step = loss.bias_newton_step(iterate.means[chosen][None], iterate.gradient[chosen][None, ..., -1])
    by_logits = loss.logit_gradient(loss.means(iterate.logits[chosen][None] - step[..., None]))
    by_layer = by_logits.split(chosen.sum(1).tolist(), dim=1)  # (1, chosen at the layer, outputs, rows)
    gradients = [
        _loss_gradient(part, rows[None])
        for part, rows in zip(by_layer, objective.basis.rows, strict=True)
        if part.shape[1] > 0
    ]
    return _gap_bound(torch.cat(gradients, dim=1)[0] + ridge * iterate.parameters[chosen], ridge)


def _loss_gradient(by_logits: Tensor, rows: Tensor) -> Tensor:
    """Gradient by the parameters `(layers, problems, outputs, rank + 1)` of one by the logits `(..., rows)`."""
    by_weights = (by_logits.flatten(1, 2) @ rows).unflatten(1, by_logits.shape[1:3])
    return torch.cat([by_weights, by_logits.sum(-1, keepdim=True)], dim=-1)


def _gap_bound(gradient: Tensor, ridge: Tensor) -> Tensor:
    """‖gradient by the weights‖² / 2λ, shape `(layers, problems)`."""
    return gradient[..., :-1].square().sum((-1, -2)) / (2 * ridge[:, 0, 0])
