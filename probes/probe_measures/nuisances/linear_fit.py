"""Linear probes solved exactly at a penalty chosen on validation rows, with covariates that are dropped afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.metrics import MAIN_METRIC, TargetKind, score_rows
from probes.probe_measures.linear_refits import linear_penalties
from probes.seeds import derive_seed
from probes.training import ProbeSettings, solve_linear
from probes.training.bank.minibatch_module import class_weights
from probes.training.selection import best_penalties, convergence_notes, fold_of_rows

FOLDS = 5
_COVARIATE_SCALE = 30.0
"""Covariates are scaled up by this factor, so that their weights are hardly penalised."""


@dataclass(frozen=True)
class Labelled:
    """What probes are trained and chosen on.

    Attributes:
        kind: Kind of task.
        classes: Width of the logits.
        targets: Split → targets, as in `LabelledActivations`.
        settings: Penalties (`linear_penalties`), tolerance and class weights.
        seed: Decides folds.
        groups: Of the training rows, as in `TaskData.groups`.
    """

    kind: TargetKind
    classes: int
    targets: Mapping[str, Tensor]
    settings: ProbeSettings
    seed: int
    groups: Tensor | None = None

    @property
    def has_validation(self) -> bool:
        """Whether there are enough validation rows to choose penalties by; else training rows out of fold serve."""
        return len(self.targets["validation"]) >= max(1, self.settings.min_validation_rows)

    @property
    def fold(self) -> Tensor:
        """Fold of each training row, int64 `(rows,)`, stratified by the targets."""
        seed = derive_seed(self.seed, "nuisances")
        return fold_of_rows(self.kind, self.targets["train"], FOLDS, seed=seed, groups=self.groups).clamp(0)


@dataclass(frozen=True)
class LinearFit:
    """One linear probe for each layer.

    Attributes:
        weights: Shape `(layers, classes, features)`.
        biases: Shape `(layers, classes)`.
        chosen: Index of each layer's penalty, int64 `(layers,)`.
        remarks: For each layer, a note if the probe did not converge, or `""`.
        out_of_fold: Logits of the training rows by probes that were not trained on them, `(layers, rows, classes)`;
            `None` unless they were asked for.
    """

    weights: Tensor
    biases: Tensor
    chosen: Tensor
    remarks: tuple[str, ...]
    out_of_fold: Tensor | None = None

    def logits(self, x: Tensor) -> Tensor:
        """Logits `(layers, rows, classes)`, or numbers in the unit of the targets; x is `(layers, rows, features)`."""
        return x @ self.weights.mT + self.biases[:, None]


def fit_linear(
    x: Mapping[str, Tensor], labelled: Labelled, *, covariates: Tensor | None = None, out_of_fold: bool = False
) -> LinearFit:
    """Solve the probes of all layers, and choose each layer's penalty by the main metric.

    The rows are taken as they are: they should be centred, and features be in comparable units. With fewer than
    `min_validation_rows` validation rows, penalties are chosen by cross-validation on the training rows.

    Args:
        x: Split → `(layers, rows, features)`.
        labelled: Targets and settings.
        covariates: Further features of the training rows, `(rows, covariates)`, which help to predict their labels
            almost without penalty and are left out of the probe: it learns what they do not tell. They are centred.
        out_of_fold: Whether to compute logits of training rows out of fold, too.
    """
    rows = x["train"]
    width = rows.shape[-1]
    if covariates is not None and covariates.shape[1] > 0:
        deviation, mean = torch.std_mean(covariates, dim=0, correction=0)
        scaled = (covariates - mean) / deviation.clamp_min(1e-6) * _COVARIATE_SCALE
        rows = torch.cat([rows, scaled.to(rows).expand(len(rows), -1, -1)], dim=2)
    settings, targets = labelled.settings, labelled.targets
    weights, biases, gaps = _solve(rows, targets["train"], labelled)
    held_out = None if labelled.has_validation and not out_of_fold else _out_of_fold(rows, width, labelled)
    if labelled.has_validation:
        logits, scored = _logits(x["validation"], weights[..., :width], biases), targets["validation"]
    else:
        assert held_out is not None
        logits, scored = held_out, targets["train"]
    chosen = best_penalties(labelled.kind, logits, scored, linear_penalties(settings))
    layers = torch.arange(len(chosen))
    own = None if held_out is None or not out_of_fold else held_out[layers, chosen]
    remarks = tuple(convergence_notes(gaps[layers, chosen], settings.tolerance))
    return LinearFit(weights[layers, chosen, :, :width], biases[layers, chosen], chosen, remarks, own)


def _solve(rows: Tensor, targets: Tensor, labelled: Labelled) -> tuple[Tensor, Tensor, Tensor]:
    """Weights `(layers, penalties, classes, features)` and biases without `features`; gaps `(layers, penalties)`."""
    settings, row_weights = labelled.settings, None
    if settings.class_weights == "balanced" and labelled.kind == "classification":
        row_weights = class_weights(targets, labelled.classes)[targets][None]
    mean, deviation = torch.zeros(()), torch.ones(())
    if labelled.kind == "regression":
        mean, deviation = targets.mean(), targets.std(correction=0).clamp_min(1e-12)
    solution = solve_linear(
        labelled.kind,
        rows,
        ((targets - mean) / deviation if labelled.kind == "regression" else targets)[None],
        torch.tensor(linear_penalties(settings), dtype=torch.float64),
        classes=labelled.classes,
        row_weights=row_weights,
        tolerance=settings.tolerance,
        max_iterations=settings.max_iterations,
    )
    weights, biases = solution.weights[:, :, 0] * deviation, solution.biases[:, :, 0] * deviation + mean
    return weights, biases, solution.gaps[:, :, 0]


def _out_of_fold(rows: Tensor, width: int, labelled: Labelled) -> Tensor:
    """Logits `(layers, penalties, rows, classes)` of training rows by probes trained on the other folds."""
    targets, fold = labelled.targets["train"], labelled.fold
    found = rows.new_empty(len(rows), len(linear_penalties(labelled.settings)), rows.shape[1], labelled.classes)
    for number in fold.unique().tolist():
        held_out, kept = (fold == number).nonzero()[:, 0], (fold != number).nonzero()[:, 0]
        weights, biases, _ = _solve(rows[:, kept], targets[kept], labelled)
        found[:, :, held_out] = _logits(rows[:, held_out, :width], weights[..., :width], biases)
    return found


def _logits(x: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
    """`(layers, penalties, rows, classes)`."""
    return x[:, None] @ weights.mT + biases[:, :, None]


def main_score(kind: TargetKind, logits: Tensor, targets: Tensor) -> Tensor:
    """The main metric of each layer's logits, float64 `(layers,)`."""
    metric = MAIN_METRIC[kind]
    return score_rows(kind, logits, targets, names={metric}).values[metric]
