"""Linear probes of many layers solved to their optimum at several penalties."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from probes.metrics import TargetKind
from probes.threads import cores, map_on_cores
from probes.training.linear_solver.eigenbasis import Eigenbasis
from probes.training.linear_solver.losses import LinearLoss, SigmoidLoss, SoftmaxLoss, SquaredLoss
from probes.training.linear_solver.minimise import minimise


def certify(
    loss: LinearLoss, x: Tensor, weights: Tensor, biases: Tensor, penalties: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Bound the gap between each probe's objective and the optimum.

    The biases, which bear no penalty, are first set to their own optimum given the weights. The objective as a function
    of the weights alone is then λ-strongly convex with the returned gradient, so the gap is at most ‖gradient‖² / 2λ
    (the duality gap of these losses is that very number).

    Args:
        loss: Loss of the slices in float64, targets `(slices, outputs, rows)`.
        x: One layer's standardised rows, shape `(rows, features)`.
        weights: Shape `(penalties, slices, outputs, features)`.
        biases: Shape `(penalties, slices, outputs)`.
        penalties: λ, shape `(penalties,)`.

    Returns:
        Polished biases of the shape of `biases`; objectives and gaps `(penalties, slices)`; all float64.
    """
    wide, weights = x.double(), weights.double()
    penalties = penalties.to(wide)[:, None]
    without_bias = (weights.flatten(0, 2) @ wide.T).view(*biases.shape, -1)
    biases = _polish(loss, without_bias, biases.double())
    logits = without_bias + biases[..., None]
    residual = loss.residual(loss.means(logits))
    gradient = (residual.flatten(0, 2) @ wide).view_as(weights) + penalties[..., None, None] * weights
    objective = loss.value(logits) + penalties / 2 * weights.square().sum((-1, -2))
    return biases, objective, gradient.square().sum((-1, -2)) / (2 * penalties)


def _polish(loss: LinearLoss, without_bias: Tensor, biases: Tensor, steps: int = 20) -> Tensor:
    """Newton steps on the biases alone; one that does not lower the loss is taken by an eighth."""
    value = loss.value(without_bias + biases[..., None])
    for _ in range(steps):
        means = loss.means(without_bias + biases[..., None])
        gradient = loss.residual(means).sum(-1)
        if gradient.abs().max() < 1e-9:  # its square is what the objective lacks
            break
        move = loss.bias_step(means, gradient)
        trial = loss.value(without_bias + (biases - move)[..., None])
        lower = (trial <= value)[..., None]
        biases = torch.where(lower, biases - move, biases - move / 8)
        value = loss.value(without_bias + biases[..., None])
    return biases


_Answer = TypeVar("_Answer")

MOST_LAYERS = 8
"""Layers that a core solves together at most, so that few of them leave a core without work."""
CACHE_BYTES = 20_000_000
"""Rows that a core solves together, so that they stay in its cache; many layers outweigh Python's share."""


def map_layers(solve: Callable[[Tensor], _Answer], x: Tensor) -> list[_Answer]:
    """Call `solve` with neighbouring layers' indices, on a CPU some at a time on each core, else all in one call.

    Args:
        solve: Given the indices of some layers.
        x: Activations, shape `(layers, rows, features)`.

    Returns:
        An answer for each call, in the order of the layers.
    """
    at_once = len(x) if cores(x.device) == 1 else min(MOST_LAYERS, max(1, CACHE_BYTES // x[0].nbytes))
    return map_on_cores(solve, torch.arange(len(x)).split(at_once), x.device)


_COLUMNS = 64
"""Outputs of all penalties and slices solved together; many fill the cores without company."""


def penalties_at_once(outputs: int) -> int:
    """How many penalties are solved together.

    Args:
        outputs: Of all slices at one penalty.
    """
    return max(1, _COLUMNS // outputs)


@dataclass(frozen=True)
class LinearSolution:
    """Linear probes at their optimum.

    Attributes:
        weights: Shape `(layers, penalties, controls, classes, features)`.
        biases: Shape `(layers, penalties, controls, classes)`.
        gaps: Certificate: bound on (objective − optimum) / objective, shape `(layers, penalties, controls)`; the
            largest over the labels of a multi-label task.
        iterations: Quasi-Newton iterations of the slowest layer and penalty, summed where penalties take turns.
    """

    weights: Tensor
    biases: Tensor
    gaps: Tensor
    iterations: int


def solve_linear(
    kind: TargetKind,
    x: Tensor,
    targets: Tensor,
    penalties: Tensor,
    *,
    classes: int,
    row_weights: Tensor | None = None,
    tolerance: float = 2e-4,
    max_iterations: int = 500,
) -> LinearSolution:
    """Minimise mean loss + λ/2 · ‖W‖² for every layer, penalty and control; biases bear no penalty.

    The loss is cross-entropy (softmax), the sum over labels of binary cross-entropies (multi-label), or squared error.
    In scikit-learn's terms C = 1/(λ rows), 2/(λ rows) for a binary task against its single logit, and Ridge's alpha =
    λ rows / 2. Few outputs are solved at several penalties together (`penalties_at_once`), in float32; what rounding
    keeps from the tolerance is finished in float64.

    Args:
        kind: Kind of task.
        x: Standardised activations, shape `(layers, rows, features)`.
        targets: Shape `(controls, rows)`, or `(controls, rows, labels)` for multi-label tasks.
        penalties: λ > 0, shape `(penalties,)`.
        classes: Classes or labels; 1 for regression.
        row_weights: Shape `(controls, rows)`, mean 1; `None` for equal weights.
        tolerance: Wanted relative gap to the optimum.
        max_iterations: Iterations at most for each penalty and precision.
    """
    loss = _loss(kind, targets, classes, row_weights).to(x)
    own_penalties = _own_penalties(kind, penalties, classes)

    def solve(layers: Tensor) -> _Problems:
        problems = _Problems(loss, x[layers[0] : layers[-1] + 1], own_penalties)
        problems.solve(tolerance, max_iterations)
        return problems

    parts = map_layers(solve, x)
    weights, biases = torch.cat([p.weights for p in parts]), torch.cat([p.biases for p in parts]).to(x)
    if kind == "classification" and classes == 2:
        weights = torch.cat([-weights / 2, weights / 2], dim=3)
        biases = torch.cat([-biases / 2, biases / 2], dim=3)
    head = (*weights.shape[:2], len(targets), classes)
    gaps = torch.cat([p.gaps for p in parts]).view(*head[:3], -1).amax(-1)
    iterations = max(p.iterations for p in parts)
    return LinearSolution(weights.reshape(*head, -1), biases.reshape(head), gaps, iterations)


class _Problems:
    """Solutions of all layers and penalties so far, in the solver's own outputs (one for a binary task)."""

    def __init__(self, loss: LinearLoss, x: Tensor, penalties: Tensor) -> None:
        self.loss, self.x, self.penalties = loss, x, penalties.to(x.device, torch.float64)
        slices, outputs, _ = loss.targets.shape
        shape = (len(x), len(penalties), slices, outputs)
        self.weights = x.new_zeros(*shape, x.shape[-1])
        self.biases = torch.zeros(shape, dtype=torch.float64, device=x.device)
        self.gaps = torch.full(shape[:3], torch.inf, dtype=torch.float64, device=x.device)
        self.iterations = 0

    @torch.no_grad()
    def solve(self, tolerance: float, max_iterations: int) -> None:
        """Solve all layers in float32, then in float64 those that fell short."""
        everything = list(range(len(self.penalties)))
        self._solve(self.x, torch.arange(len(self.x)), everything, tolerance, max_iterations)
        short = self.gaps > tolerance
        for layer in short.flatten(1).any(1).cpu().nonzero():
            penalties = [p for p in everything if short[layer, p].any()]
            self._solve(self.x[layer].double(), layer, penalties, tolerance, max_iterations)

    def _solve(self, x: Tensor, layers: Tensor, penalties: list[int], tolerance: float, max_iterations: int) -> None:
        """Solve these layers at these penalties, from where they are and in the precision of their rows `x`."""
        basis, basis_change = Eigenbasis.of(x)
        loss = self.loss.to(x)
        slices, outputs, _ = loss.targets.shape
        at_once = penalties_at_once(slices * outputs)
        for start in range(0, len(penalties), at_once):
            group = penalties[start : start + at_once]
            cells = torch.meshgrid(layers, torch.tensor(group), indexing="ij")
            parameters, iterations = minimise(
                loss.keep(torch.arange(slices).repeat(len(group))),
                basis,
                basis_change.enter(self.weights[cells].to(x), self.biases[cells].to(x)).flatten(1, 2),
                penalties=self.penalties[group].repeat_interleave(slices),
                tolerance=tolerance,
                max_iterations=max_iterations,
            )
            self.iterations += iterations
            weights, biases = basis_change.leave(parameters.unflatten(1, (len(group), slices)))
            self.weights[cells] = weights.to(self.weights)
            self.biases[cells] = biases.double()
        self._certify(layers, penalties)

    def _certify(self, layers: Tensor, order: list[int]) -> None:
        loss = self.loss.to(self.biases)
        for layer in layers.tolist():
            biases, objectives, gaps = certify(
                loss, self.x[layer], self.weights[layer, order], self.biases[layer, order], self.penalties[order]
            )
            self.biases[layer, order] = biases
            self.gaps[layer, order] = torch.where(gaps > 0, gaps / objectives, 0.0)


def _own_penalties(kind: TargetKind, penalties: Tensor, classes: int) -> Tensor:
    """Halve λ for a binary task: logits ∓w·x/2 have ‖W‖² = ‖w‖²/2."""
    return penalties / 2 if kind == "classification" and classes == 2 else penalties


def _loss(kind: TargetKind, targets: Tensor, classes: int, row_weights: Tensor | None) -> LinearLoss:
    weights = None if row_weights is None else row_weights[:, None]
    if kind == "regression":
        return SquaredLoss(targets[:, None].float(), weights)
    if kind == "multilabel":
        by_label = targets.transpose(1, 2).flatten(0, 1)[:, None].float()
        return SigmoidLoss(by_label, None if weights is None else weights.repeat_interleave(classes, 0))
    if classes == 2:
        return SigmoidLoss(targets[:, None].float(), weights)
    return SoftmaxLoss(functional.one_hot(targets, classes).transpose(1, 2).float(), weights)
