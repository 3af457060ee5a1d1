"""Linear probes of many layers solved to their optimum at several penalties, each with a certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from probes.metrics import TargetKind
from probes.progress import MinuteLines
from probes.threads import cores, map_on_cores
from probes.training.linear_solver.eigenbasis import Eigenbasis
from probes.training.linear_solver.losses import LinearLoss, SigmoidLoss, SoftmaxLoss, SquaredLoss
from probes.training.linear_solver.minimise import minimise

MAX_LAYERS_PER_CHUNK = 8
"""Layers that one core solves together at most, so that a few layers still give every core some."""
CHUNK_BYTES = 20_000_000
"""Size of the rows that one core solves together: they fit in its cache, and small layers share Python's overhead."""
OUTPUTS_PER_BATCH = 64
"""Outputs of all problems solved together; more of them make the matrix products no more efficient."""

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class LinearSolution:
    """Linear probes at their optimum.

    Attributes:
        weights: Shape `(layers, penalties, controls, classes, features)`.
        biases: Shape `(layers, penalties, controls, classes)`.
        gaps: Certified bound on (objective − optimum) / objective, shape `(layers, penalties, controls)`; the largest
            over the labels of a multi-label task.
        iterations: L-BFGS iterations, summed over batches of penalties and precisions, of the chunk of layers that took
            most.
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
    """Minimise the mean loss + λ/2 · ‖W‖² for every layer, penalty and control; biases are not penalised.

    The loss is cross-entropy (softmax), the sum over labels of binary cross-entropies (multi-label), or squared error.
    In scikit-learn's terms C = 1/(λ rows), or 2/(λ rows) for two classes, for which scikit-learn has a single logit;
    and Ridge's alpha = λ rows / 2. Problems are solved in float32; those that rounding keeps from the tolerance are
    continued in float64.

    Args:
        kind: Kind of task.
        x: Standardised activations, shape `(layers, rows, features)`.
        targets: Shape `(controls, rows)`, or `(controls, rows, labels)` for multi-label tasks; the true targets count
            as a control here.
        penalties: λ > 0, shape `(penalties,)`.
        classes: Number of classes or labels; 1 for regression.
        row_weights: Shape `(controls, rows)`, mean 1 over rows; `None` for equal weights.
        tolerance: Gap to the optimum to reach, relative to the objective.
        max_iterations: Iterations at most, for each batch of penalties and each precision.
    """
    loss = _loss(kind, targets, classes, row_weights).to(x)
    single_logit = kind == "classification" and classes == 2
    # Two classes are solved for w, b of one logit, the difference of the two. Of the two-class weights that give it,
    # −w/2 and w/2 have the smallest norm, ‖W‖² = ‖w‖²/2, so λ is halved.
    solver_penalties = penalties / 2 if single_logit else penalties

    labellings, outputs, _ = loss.targets.shape
    batches = -(-len(penalties) // penalties_per_batch(labellings * outputs))
    progress = MinuteLines("parts of the probes solved", len(x) * batches)

    def solve(layers: Tensor) -> _ChunkSolver:
        of_chunk = x[layers[0] : layers[-1] + 1]  # a view
        solver = _ChunkSolver(
            loss,
            of_chunk,
            solver_penalties,
            tolerance=tolerance,
            max_iterations=max_iterations,
            advance=progress.advance,
        )
        solver.solve()
        return solver

    chunks = map_layer_chunks(solve, x)
    weights = torch.cat([chunk.weights for chunk in chunks])  # (layers, penalties, labellings, outputs, features)
    biases = torch.cat([chunk.biases for chunk in chunks]).to(x)
    if single_logit:
        weights = torch.cat([-weights / 2, weights / 2], dim=3)
        biases = torch.cat([-biases / 2, biases / 2], dim=3)
    shape = (*weights.shape[:2], len(targets), classes)  # labellings × outputs = controls × classes
    gaps = torch.cat([chunk.gaps for chunk in chunks]).view(*shape[:3], -1).amax(-1)
    iterations = max(chunk.iterations for chunk in chunks)
    return LinearSolution(weights.reshape(*shape, -1), biases.reshape(shape), gaps, iterations)


def penalties_per_batch(outputs: int) -> int:
    """How many penalties are solved together, at least 1, given the outputs of all problems at one penalty."""
    return max(1, OUTPUTS_PER_BATCH // outputs)


def map_layer_chunks(function: Callable[[Tensor], _Result], x: Tensor) -> list[_Result]:
    """Call a function for chunks of neighbouring layers: one chunk per core at a time, or all layers at once on a GPU.

    Args:
        function: Called with the indices of a chunk's layers, in ascending order, on the CPU.
        x: Activations, shape `(layers, rows, features)`.

    Returns:
        The results, in the order of the layers.
    """
    per_chunk = len(x) if cores(x.device) == 1 else min(MAX_LAYERS_PER_CHUNK, max(1, CHUNK_BYTES // x[0].nbytes))
    return map_on_cores(function, torch.arange(len(x)).split(per_chunk), x.device)


class Certificate(NamedTuple):
    """Proof of how near probes of one layer are to their optimum; all float64.

    Attributes:
        biases: Optimal given the weights, shape `(penalties, labellings, outputs)`.
        objectives: With these biases, shape `(penalties, labellings)`.
        gaps: Bounds on objective − optimum, same shape.
    """

    biases: Tensor
    objectives: Tensor
    gaps: Tensor


def certify(loss: LinearLoss, x: Tensor, weights: Tensor, biases: Tensor, penalties: Tensor) -> Certificate:
    """Bound the gap between each probe's objective and the optimum, in float64.

    The biases, which are not penalised, are first set to their optimum given the weights. Minimised over the biases,
    the objective is a λ-strongly convex function of the weights alone, and its gradient g is the partial derivative by
    the weights at these biases (the envelope theorem), so objective − optimum ≤ ‖g‖² / 2λ. For these losses the bound
    equals the duality gap.

    Args:
        loss: Loss of the labellings, in float64.
        x: One layer's standardised rows, shape `(rows, features)`.
        weights: Shape `(penalties, labellings, outputs, features)`.
        biases: Shape `(penalties, labellings, outputs)`.
        penalties: λ, shape `(penalties,)`.
    """
    x, weights = x.double(), weights.double()
    penalties = penalties.to(x)[:, None]
    # (penalties, labellings, outputs, rows): penalties take the place of layers in the shapes of the loss
    without_bias = (weights.flatten(0, 2) @ x.T).view(*biases.shape, -1)
    biases = _optimal_biases(loss, without_bias, biases.double())
    logits = without_bias + biases[..., None]
    by_logits = loss.logit_gradient(loss.means(logits))
    gradient = (by_logits.flatten(0, 2) @ x).view_as(weights) + penalties[..., None, None] * weights
    objectives = loss.value(logits) + penalties / 2 * weights.square().sum((-1, -2))
    return Certificate(biases, objectives, gradient.square().sum((-1, -2)) / (2 * penalties))


def _optimal_biases(loss: LinearLoss, without_bias: Tensor, biases: Tensor, steps: int = 20) -> Tensor:
    """Minimise the loss over the biases alone, by Newton steps; a step that would raise the loss is cut to an eighth.

    Args:
        loss: Loss of the labellings.
        without_bias: Logits less their bias, shape `(penalties, labellings, outputs, rows)`.
        biases: Where to start, shape `(penalties, labellings, outputs)`.
        steps: Newton steps at most.
    """
    value = loss.value(without_bias + biases[..., None])
    for _ in range(steps):
        means = loss.means(without_bias + biases[..., None])
        gradient = loss.logit_gradient(means).sum(-1)
        if gradient.abs().max() < 1e-9:  # the objective is off by about its square
            break
        step = loss.bias_newton_step(means, gradient)
        new_value = loss.value(without_bias + (biases - step)[..., None])
        biases = torch.where((new_value <= value)[..., None], biases - step, biases - step / 8)
        value = loss.value(without_bias + biases[..., None])
    return biases


class _ChunkSolver:
    """Solves all problems of some layers, and holds their solutions so far.

    Args:
        loss: Loss of the labellings.
        x: Rows of these layers, shape `(layers, rows, features)`.
        penalties: λ, shape `(penalties,)`.
        tolerance: Gap to the optimum to reach, relative to the objective.
        max_iterations: Iterations at most, for each batch of penalties and each precision.
        advance: Called for each layer and batch of penalties that was solved in float32.

    Attributes:
        weights: In the dtype of `x`, shape `(layers, penalties, labellings, outputs, features)`.
        biases: In float64, shape `(layers, penalties, labellings, outputs)`.
        gaps: Certified, relative to the objective, infinite before; shape `(layers, penalties, labellings)`.
        iterations: Run so far, of all batches.
    """

    def __init__(
        self,
        loss: LinearLoss,
        x: Tensor,
        penalties: Tensor,
        *,
        tolerance: float,
        max_iterations: int,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self.loss, self.x, self.penalties = loss, x, penalties.to(x.device, torch.float64)
        self.tolerance, self.max_iterations, self.advance = tolerance, max_iterations, advance
        labellings, outputs, _ = loss.targets.shape
        shape = (len(x), len(penalties), labellings, outputs)
        self.weights = x.new_zeros(*shape, x.shape[-1])
        self.biases = torch.zeros(shape, dtype=torch.float64, device=x.device)
        self.gaps = torch.full(shape[:3], torch.inf, dtype=torch.float64, device=x.device)
        self.iterations = 0

    @torch.no_grad()  # here, as a thread does not inherit its caller's gradient mode
    def solve(self) -> None:
        """Solve all problems in float32, then continue in float64 at layers and penalties beyond the tolerance."""
        layers, penalties = torch.arange(len(self.x)), torch.arange(len(self.penalties))
        self._minimise(self.x, layers, penalties)
        beyond = (self.gaps > self.tolerance).any(2).cpu()  # (layers, penalties)
        for layer in beyond.any(1).nonzero():  # (1,), the index of one layer
            self._minimise(self.x[layer].double(), layer, penalties[beyond[layer][0]])

    def _minimise(self, x: Tensor, layers: Tensor, penalties: Tensor) -> None:
        """Continue from the present solutions of some layers and penalties, and certify the new ones.

        Args:
            x: Rows of these layers, shape `(layers, rows, features)`, in the precision to compute in.
            layers: Indices of these layers.
            penalties: Indices of these penalties.
        """
        basis, loss = Eigenbasis.of(x), self.loss.to(x)
        labellings, outputs, _ = loss.targets.shape
        for batch in penalties.split(penalties_per_batch(labellings * outputs)):
            of_batch = (layers[:, None], batch)
            # (layers, batch, labellings, outputs, rank + 1) → (layers, problems, outputs, rank + 1)
            start = basis.to_parameters(self.weights[of_batch].to(x), self.biases[of_batch].to(x)).flatten(1, 2)
            parameters, iterations = minimise(
                loss.of_problems(torch.arange(labellings).repeat(len(batch))),
                basis,
                start,
                penalties=self.penalties[batch].repeat_interleave(labellings),
                tolerance=self.tolerance,
                max_iterations=self.max_iterations,
            )
            weights, biases = basis.to_weights(parameters.unflatten(1, (len(batch), labellings)))
            self.weights[of_batch], self.biases[of_batch] = weights.to(self.weights), biases.double()
            self.iterations += iterations
            if x.dtype == self.x.dtype:
                for _ in layers:
                    self.advance()
        self._certify(layers, penalties)

    def _certify(self, layers: Tensor, penalties: Tensor) -> None:
        loss = self.loss.to(self.biases)
        for layer in layers.tolist():  # one at a time, as their rows in float64 take twice the memory
            biases, objectives, gaps = certify(
                loss,
                self.x[layer],
                self.weights[layer, penalties],
                self.biases[layer, penalties],
                self.penalties[penalties],
            )
            self.biases[layer, penalties] = biases
            self.gaps[layer, penalties] = torch.where(gaps > 0, gaps / objectives, 0.0)


def _loss(kind: TargetKind, targets: Tensor, classes: int, row_weights: Tensor | None) -> LinearLoss:
    """The loss of all labellings: targets `(labellings, outputs, rows)`, row shares `(labellings, 1, rows)`."""
    controls, rows = targets.shape[:2]
    shares = torch.ones(controls, rows, device=targets.device) if row_weights is None else row_weights
    shares = shares[:, None] / rows
    if kind == "regression":
        return SquaredLoss(targets[:, None].float(), shares)
    if kind == "multilabel":  # a labelling for each control and label, the label varying fastest
        by_label = targets.transpose(1, 2).flatten(0, 1)[:, None].float()
        return SigmoidLoss(by_label, shares.repeat_interleave(classes, 0))
    if classes == 2:
        return SigmoidLoss(targets[:, None].float(), shares)
    return SoftmaxLoss(functional.one_hot(targets, classes).transpose(1, 2).float(), shares)
