"""Choosing a penalty for each layer on validation rows, or by cross-validation where those are few."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.metrics import MAIN_METRIC, TargetKind, score_rows
from probes.seeds import derive_seed
from probes.training.bank.probe_bank import ProbeBank
from probes.training.closed_form import CLOSED_FORMS
from probes.training.data_module import Rows
from probes.training.probe_settings import ProbeSettings
from probes.training.ragged import concatenated_rows, rows_at
from probes.training.train_bank import BankSpec, TrainedBank, train_bank

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """The chosen probes, and their logits on the rows by which they were chosen.

    Attributes:
        trained: Probes of every penalty, trained on the training rows.
        chosen: Index of each layer's penalty, int64 `(layers,)`.
        logits: Logits of the chosen probes and their controls on `rows`, shape `(layers, 1 + controls, rows, classes)`.
        rows: The validation rows; or with cross-validation all training and validation rows, where the logits are those
            of probes that were not trained on the row.
        folds: Number of folds of the cross-validation; 0 if the validation rows decided.
    """

    trained: TrainedBank
    chosen: Tensor
    logits: Tensor
    rows: Rows
    folds: int

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of `rows`, in their order."""
        return ("train", "validation") if self.folds else ("validation",)

    def penalties(self, settings: ProbeSettings) -> list[float]:
        """Return λ of each layer."""
        return [settings.penalties[i] for i in self.chosen.tolist()]

    def bank(self, *, controls: bool) -> ProbeBank:
        """Return the chosen probe of each layer, with its controls after it if `controls`."""
        per_penalty = self.trained.gaps.shape[2]  # replicas are ordered by penalty, then control
        replicas = self.chosen[:, None] * per_penalty + torch.arange(per_penalty if controls else 1)
        return self.trained.bank.select(replicas)

    def notes(self, settings: ProbeSettings) -> list[str]:
        """Return a note per layer that says whether its probe, or a control, diverged or did not converge; or `""`."""
        return convergence_notes(_of_chosen(self.trained.gaps, self.chosen).amax(1), settings.tolerance)


def convergence_notes(gaps: Tensor, tolerance: float) -> list[str]:
    """Say of each probe that it diverged or did not converge; or `""`.

    Args:
        gaps: Bounds on (objective − optimum) / objective, shape `(probes,)`; NaN of minibatches, which have none.
        tolerance: The largest bound that needs no note.
    """
    notes = []
    for gap in gaps.tolist():
        if gap == float("inf"):
            notes.append("diverged: the loss was never finite")
        elif gap > tolerance:  # never true for NaN
            notes.append(f"not converged: objective within {gap:.1e} of the optimum; the tolerance is {tolerance:.1e}")
        else:
            notes.append("")
    return notes


def select(train: Rows, validation: Rows, spec: BankSpec) -> Selection:
    """Train, and choose for each layer the penalty whose probe of the true labels scores best; never on test.

    The score is the reported main metric: macro-F1, or R² for regression. (Cross-entropy would give a hard and
    unbalanced task the penalty that always predicts the majority.) Among equal scores the larger penalty is chosen. A
    control keeps the penalty of its probe, so that both have the same capacity.

    With fewer than `probe.min_validation_rows` validation rows, the scores come from cross-validation on training and
    validation rows together. In each fold, the rows trained on give the statistics that standardise, and the rows held
    out decide when minibatch training stops. The returned probes are then trained on the training rows.
    """
    settings = spec.settings
    if len(validation) >= max(1, settings.min_validation_rows):
        trained, rows, folds = train_bank(train, validation, spec), validation, 0
        logits = trained.logits(validation.values)
    else:
        logits, rows = _out_of_fold_logits(_concatenated(train, validation), spec)
        folds = settings.folds
        trained = train_bank(*refit_rows(train, validation, spec), spec)
    chosen = best_penalties(spec.kind, logits[:, :, 0], rows.targets[0], settings.penalties)
    return Selection(trained, chosen, _of_chosen(logits, chosen), rows, folds)


def fold_of_rows(
    kind: TargetKind,
    targets: Tensor,
    folds: int,
    *,
    seed: int,
    sentences: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    """Assign rows to folds at random, stratified by their targets; or whole sentences at random.

    Rows of one group are in one fold, which is drawn by the target of the first of them. A group that holds all rows of
    a class stays in training. Where fewer than two groups can be held out, groups are ignored, with a warning.

    Args:
        kind: Kind of task. Classes, and in multi-label tasks sets of labels, are spread evenly over the folds; so are
            regression targets, by their order.
        targets: Shape `(rows,)`, or `(rows, labels)`.
        folds: Number of folds.
        seed: Decides the assignment; 0 is a seed like any other.
        sentences: Number of each row's sentence, where those of a sentence stay together.
        groups: As in `TaskData.groups`, of the same rows.

    Returns:
        Fold of each row, int64 `(rows,)`; −1 for the only row, or group, of a class, which always stays in training.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "folds"))
    if sentences is not None:
        number = (sentences if groups is None else groups).unique(return_inverse=True)[1]
        return (torch.randperm(int(number.max()) + 1, generator=generator) % folds)[number]
    if groups is not None and len(groups.unique()) < len(groups):
        number = groups.unique(return_inverse=True)[1]
        first = torch.full((int(number.max()) + 1,), len(number)).scatter_reduce(
            0, number, torch.arange(len(number)), "amin"
        )
        held_out = _without_whole_classes(targets, number) if kind == "classification" else torch.ones_like(first) > 0
        if held_out.sum() >= 2:
            fold = torch.full_like(first, -1)
            fold[held_out] = _spread(kind, targets[first[held_out]], folds, generator)
            return fold[number]
        _log.warning(
            "Of %d groups of rows (with one text, or one value of `suite.group`), fewer than two can be held out with "
            "every class left to train on. Folds divide the rows without regard to groups.",
            len(first),
        )
    fold = _spread(kind, targets, folds, generator)
    if kind == "classification":
        fold[(torch.bincount(targets) == 1)[targets]] = -1
    return fold


def _without_whole_classes(targets: Tensor, group: Tensor) -> Tensor:
    """Whether each group, numbered from 0, leaves rows of every class to the others, bool `(groups,)`."""
    pairs = torch.stack([targets, group], dim=1).unique(dim=0)  # (pairs, class and group)
    groups_of_class = torch.bincount(pairs[:, 0])
    leaves = torch.ones(int(group.max()) + 1, dtype=torch.bool)
    leaves[pairs[groups_of_class[pairs[:, 0]] == 1, 1]] = False
    return leaves


def _spread(kind: TargetKind, targets: Tensor, folds: int, generator: torch.Generator) -> Tensor:
    """A fold for each row, so that targets are spread evenly over folds."""
    if kind == "regression":
        # Of each block of neighbouring targets, one row goes to each fold.
        blocks = targets.argsort().split(folds)
        folds_by_block = [torch.randperm(folds, generator=generator)[: len(block)] for block in blocks]
        fold = torch.empty(len(targets), dtype=torch.long)
        return fold.index_copy_(0, torch.cat(blocks), torch.cat(folds_by_block))
    classes = targets if targets.ndim == 1 else targets.unique(dim=0, return_inverse=True)[1]
    shuffled = torch.randperm(len(classes), generator=generator)
    order = shuffled[classes[shuffled].argsort(stable=True)]  # by class, at random within a class
    return torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)) % folds)


def with_word_type_controls(
    targets: Tensor, types: Sequence[str], train_targets: Tensor, controls: int, *, seed: int
) -> Tensor:
    """Add control labels to the true ones: a random label for each word, the same wherever the word occurs.

    What a probe learns of them it must have learnt by heart, word by word. A word gets the label of a random training
    row, so that control labels are about as frequent as true ones.

    Args:
        targets: Shape `(rows, ...)`.
        types: The word of each row.
        train_targets: Of all training rows.
        controls: Number of controls.
        seed: Decides the labels, for all splits alike; 0 is a seed like any other.

    Returns:
        Shape `(1 + controls, rows, ...)`, the true targets first.

    Source:
        Hewitt and Liang 2019, "Designing and interpreting probes with control tasks".
    """
    replicas = [targets]
    for control in range(controls):
        drawn = {word: derive_seed(seed, "control", word, control) % len(train_targets) for word in set(types)}
        replicas.append(train_targets[torch.tensor([drawn[word] for word in types], dtype=torch.long)])
    return torch.stack(replicas)


def with_shuffled_controls(targets: Tensor, controls: int, *, seed: int, split: str) -> Tensor:
    """Add control labels to the true ones: the same labels, shuffled within the split.

    Args:
        targets: Shape `(rows, ...)`.
        controls: Number of controls.
        seed: Decides the orders; 0 is a seed like any other.
        split: Name of the split, so that each split is shuffled independently.

    Returns:
        Shape `(1 + controls, rows, ...)`, the true targets first.
    """
    orders = [torch.arange(len(targets))]
    for control in range(controls):
        generator = torch.Generator().manual_seed(derive_seed(seed, "control", split, control))
        orders.append(torch.randperm(len(targets), generator=generator))
    return torch.stack([targets[order] for order in orders])


def best_penalties(kind: TargetKind, logits: Tensor, targets: Tensor, penalties: Sequence[float]) -> Tensor:
    """Choose for each layer the penalty with the best main metric, the largest among equals.

    Args:
        kind: Kind of task.
        logits: Shape `(layers, penalties, rows, classes)`.
        targets: Of the same rows.
        penalties: λ of each penalty.

    Returns:
        Index of each layer's penalty, int64 `(layers,)`.
    """
    # From the largest penalty down, as `argmax` returns the first of equal scores.
    order = torch.tensor(penalties).argsort(descending=True)
    metric = MAIN_METRIC[kind]
    by_penalty = [score_rows(kind, logits[:, p], targets, names={metric}).values[metric] for p in order.tolist()]
    scores = torch.stack(by_penalty, dim=1)  # (layers, penalties)
    return order[scores.where(scores.isfinite(), -torch.inf).argmax(1)]


def _of_chosen(by_penalty: Tensor, chosen: Tensor) -> Tensor:
    """Index by each layer's chosen penalty: `(layers, penalties, ...)` → `(layers, ...)`."""
    return by_penalty[torch.arange(len(chosen)), chosen]


def _out_of_fold_logits(rows: Rows, spec: BankSpec) -> tuple[Tensor, Rows]:
    """Logits `(layers, penalties, 1 + controls, rows, classes)` of probes not trained on the row, and the rows.

    The rows come in order of their folds; those in no fold are missing.
    """
    fold = fold_of_rows(
        spec.kind,
        rows.targets[0],
        spec.settings.folds,
        seed=derive_seed(spec.seed, "selection"),
        sentences=rows.sentences,
        groups=rows.groups,
    )
    logits, order = [], []
    for number in range(spec.settings.folds):
        held_out, kept = (fold == number).nonzero()[:, 0], (fold != number).nonzero()[:, 0]
        if len(held_out) == 0:
            continue
        trained = train_bank(rows.at(kept), rows.at(held_out), spec)
        logits.append(trained.logits(rows_at(rows.values, held_out)))
        order.append(held_out)
    return torch.cat(logits, dim=3), rows.at(torch.cat(order))


def refit_rows(train: Rows, validation: Rows, spec: BankSpec) -> tuple[Rows, Rows]:
    """Rows to train on, and rows that decide when to stop: the validation rows, or without any a fold of train."""
    if len(validation) > 0 or spec.exact or spec.settings.fit in CLOSED_FORMS:
        return train, validation
    fold = fold_of_rows(
        spec.kind,
        train.targets[0],
        spec.settings.folds,
        seed=derive_seed(spec.seed, "stopping"),
        sentences=train.sentences,
        groups=train.groups,
    )
    return train.at((fold != 0).nonzero()[:, 0]), train.at((fold == 0).nonzero()[:, 0])


def _concatenated(train: Rows, validation: Rows) -> Rows:
    return Rows(
        concatenated_rows([train.values, validation.values]),
        torch.cat([train.targets, validation.targets], dim=1),
        torch.cat([train.weights, validation.weights], dim=1),
        sentences=_sentences_of_both(train, validation),
        groups=None
        if train.groups is None or validation.groups is None
        else torch.cat([train.groups, validation.groups]),
    )


def _sentences_of_both(train: Rows, validation: Rows) -> Tensor | None:
    if train.sentences is None or validation.sentences is None:
        return None
    return torch.cat([train.sentences, validation.sentences + train.sentences.max() + 1])
