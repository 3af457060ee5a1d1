"""Linear probes of every layer on many weighted sets of the same rows, solved together.

Prefixes of an online code, subsets of a learning curve and folds of a cross-validation are all weights of rows: a row
outside a set has weight 0. A set is then one more labelling for the exact solver (`probes.training.linear_solver`),
which solves all sets, penalties and layers at once. Logits of all of them together may not fit in memory, so that they
are handed over a few layers at a time, to be reduced to what is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from probes.metrics import TargetKind
from probes.seeds import derive_seed
from probes.threads import map_on_cores
from probes.training import ProbeSettings, Standardiser, TaskData, solve_linear
from probes.training.selection import fold_of_rows
from probes.training.training_sets import training_set_errors

_LAYERS_SOLVED_TOGETHER = 2
"""Layers that one core solves together: few, so that their problems fit in its cache and no core is idle at the end."""


@dataclass(frozen=True)
class SolvedLayers:
    """Probes of some layers at every penalty and set of rows, beside the rows to apply them to.

    Attributes:
        weights: Shape `(layers, penalties, sets, classes, features)`.
        biases: Shape `(layers, penalties, sets, classes)`.
        rows: Standardised activations to apply them to, shape `(layers, rows, features)`.
        target_mean: Mean of a regression target; otherwise 0.
        target_deviation: Standard deviation of a regression target; otherwise 1.
    """

    weights: Tensor
    biases: Tensor
    rows: Tensor
    target_mean: float = 0.0
    target_deviation: float = 1.0

    def logits(self, number: int, rows: Tensor | slice = slice(None)) -> Tensor:
        """Logits of the probes of one set on some of the rows, shape `(layers, penalties, rows, classes)`."""
        weights = self.weights[:, :, number]
        products = (weights.flatten(1, 2) @ self.rows[:, rows].mT).unflatten(1, weights.shape[1:3])
        logits = products.mT + self.biases[:, :, number, None]
        return logits * self.target_deviation + self.target_mean


def solve_sets(
    kind: TargetKind,
    values: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    apply_to: Tensor,
    classes: int,
    settings: ProbeSettings,
    reduce: Callable[[SolvedLayers], Tensor],
    chosen: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Solve linear probes for every layer, penalty and set of rows, and reduce them a few layers at a time.

    Args:
        kind: Kind of task.
        values: Raw activations, shape `(layers, rows, features)`; all rows together give the statistics that
            standardise.
        targets: Shape `(rows,)`, or `(rows, labels)`.
        weights: Weight of each row in each set, shape `(sets, rows)`; only their proportions within a set count.
        apply_to: Raw activations that `reduce` may apply the probes to, shape `(layers, any rows, features)`.
        classes: Number of classes or labels; 1 for regression.
        settings: Penalties, tolerance and iterations; where the penalties do not suit an exact solution, those of
            `linear_penalties`.
        reduce: Called with the probes of some layers; returns a tensor with these layers first. It may run in a thread.
        scale: Factor of all standardised activations.
        chosen: Index of the only penalty at which each layer is solved, int64 `(layers,)`; default all at every layer.

    Returns:
        What `reduce` returned, for all layers in their order; NaN at a layer that is constant over all rows.

    Raises:
        ValueError: Every layer is constant.
    """
    penalties = torch.tensor(linear_penalties(settings), dtype=torch.float64)
    standardiser, constant = Standardiser.of(values)
    live = (~constant).nonzero()[:, 0]
    if len(live) == 0:
        raise ValueError("Every layer is constant over the training rows; no probe can be trained.")
    mean, deviation = _target_scale(kind, targets)
    scaled = (targets - mean) / deviation if kind == "regression" else targets
    shares = weights / weights.mean(1, keepdim=True)

    def solve(layers: Tensor) -> Tensor:
        of_chunk = standardiser[layers]
        solution = solve_linear(
            kind,
            of_chunk(values[layers]) * scale,
            scaled.expand(len(shares), *scaled.shape),
            penalties if chosen is None else penalties[chosen[layers[:1]]],
            classes=classes,
            row_weights=shares,
            tolerance=settings.tolerance,
            max_iterations=settings.max_iterations,
        )
        return reduce(
            SolvedLayers(solution.weights, solution.biases, of_chunk(apply_to[layers]) * scale, mean, deviation)
        )

    groups = [live] if chosen is None else [live[chosen[live] == index] for index in chosen[live].unique()]
    chunks = [some for group in groups for some in group.split(_LAYERS_SOLVED_TOGETHER)]
    parts = torch.cat(map_on_cores(solve, chunks, values.device))
    reduced = parts.new_full((len(values), *parts.shape[1:]), torch.nan)
    reduced[torch.cat(chunks)] = parts
    return reduced


def has_independent_vectors(data: TaskData) -> bool:
    """Whether each row is one vector and independent of the others, which measures that refit linear probes need.

    Rows of tokens are read by other probes; rows that are words of a sentence depend on each other.
    """
    return not data.of_tokens and data.sentences is None


def linear_penalties(settings: ProbeSettings) -> tuple[float, ...]:
    """The penalties of the settings where linear probes can be solved at them, else the default grid."""
    return settings.penalties if min(settings.penalties) > 0 else ProbeSettings().penalties


def bits_of_targets(kind: TargetKind, logits: Tensor, targets: Tensor) -> Tensor:
    """−log2 of the probability of each row's target: of its class, or the mean over its labels, each 0 or 1.

    Args:
        kind: `classification` or `multilabel`.
        logits: Shape `(..., rows, classes)`.
        targets: Shape `(rows,)`, or `(rows, labels)`.

    Returns:
        float64 bits per label, shape `(..., rows)`.
    """
    if kind == "classification":
        of_target = logits.double().log_softmax(-1).gather(-1, targets.expand(logits.shape[:-1])[..., None])
        return -of_target[..., 0] / math.log(2)
    signs = 2 * targets.double() - 1
    return -functional.logsigmoid(signs * logits.double()).mean(-1) / math.log(2)


def errors_over_sets(refits: Tensor) -> Tensor:
    """`training_set_errors` where some layers are constant: these are NaN in `refits`, and in the errors."""
    live = refits[0].isfinite().any(0)
    of_live = training_set_errors(refits[:, :, live])
    errors = of_live.new_full((len(of_live), len(live)), torch.nan)
    errors[:, live] = of_live
    return errors


@dataclass(frozen=True)
class LossSelected:
    """Linear probes whose penalty was chosen by cross-entropy, applied to test rows.

    Attributes:
        chosen: Index of each layer's penalty among `linear_penalties`, int64 `(layers,)`.
        logits: On test rows, shape `(layers, rows, classes)`; NaN at constant layers.
    """

    chosen: Tensor
    logits: Tensor


def select_by_loss(data: TaskData, settings: ProbeSettings, *, seed: int) -> LossSelected:
    """Choose each layer's penalty by cross-entropy on validation rows, and solve its probe on the training rows.

    The reported scores choose by macro-F1, which may prefer a probe that is often right and far too sure of itself.
    Whatever is measured in bits needs the penalty that predicts best in bits. With fewer than
    `probe.min_validation_rows` validation rows, cross-validation on training and validation rows decides.
    """
    train, validation, test = (split.activations.values for split in (data.train, data.validation, data.test))
    rows = train.shape[1]
    if validation.shape[1] >= max(1, settings.min_validation_rows):
        values, targets = train, data.train.targets
        weights, folds = torch.ones(1, rows), None
        held_out, held_out_targets = validation, data.validation.targets
    else:
        values = held_out = torch.cat([train, validation], dim=1)
        targets = held_out_targets = torch.cat([data.train.targets, data.validation.targets])
        groups = data.groups_of("train", "validation")
        folds = fold_of_rows(
            data.kind, targets, settings.folds, seed=derive_seed(seed, "loss selection"), groups=groups
        )
        in_train = (torch.arange(len(targets)) < rows).float()
        weights = torch.stack([(folds != fold).float() for fold in range(settings.folds)] + [in_train])
    count = held_out.shape[1]

    def reduce(solved: SolvedLayers) -> Tensor:
        """Held-out bits and test logits, `(layers, penalties, 1 + test rows · classes)`."""
        if folds is None:
            bits = bits_of_targets(data.kind, solved.logits(0, slice(count)), held_out_targets).mean(-1)
        else:
            places = [(fold, (folds == fold).nonzero()[:, 0]) for fold in range(settings.folds)]
            by_fold = [
                bits_of_targets(data.kind, solved.logits(fold, at), held_out_targets[at]).sum(-1) for fold, at in places
            ]
            bits = torch.stack(by_fold).sum(0) / (folds >= 0).sum()
        logits = solved.logits(len(weights) - 1, slice(count, None))
        return torch.cat([bits[..., None], logits.double().flatten(2)], dim=-1)

    reduced = solve_sets(
        data.kind,
        values,
        targets,
        weights,
        apply_to=torch.cat([held_out, test], dim=1),
        classes=data.num_classes,
        settings=settings,
        reduce=reduce,
    )
    # From the largest penalty down, as `argmin` returns the first of equal losses.
    order = torch.tensor(linear_penalties(settings)).argsort(descending=True)
    chosen = order[reduced[:, order, 0].nan_to_num(torch.inf).argmin(1)]
    logits = reduced[torch.arange(len(chosen)), chosen, 1:]
    return LossSelected(chosen, logits.unflatten(1, (test.shape[1], data.num_classes)))


def _target_scale(kind: TargetKind, targets: Tensor) -> tuple[float, float]:
    if kind != "regression":
        return 0.0, 1.0
    return targets.double().mean().item(), targets.double().std(correction=0).item() or 1.0
