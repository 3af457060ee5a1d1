"""Choosing a penalty for each layer on validation rows, or by cross-validation where those are few."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.metrics import MAIN_METRIC, TargetKind, score_rows
from probes.seeds import derive_seed
from probes.training.bank.probe_bank import ProbeBank
from probes.training.data_module import Rows
from probes.training.probe_settings import ProbeSettings
from probes.training.train_bank import BankSpec, TrainedBank, train_bank


def fold_of_rows(kind: TargetKind, targets: Tensor, folds: int, *, seed: int) -> Tensor:
    """Deal rows to folds at random, every class (or range of numbers) evenly.

    Args:
        kind: Kind of task. Regression targets are dealt in order of size, multi-label rows by their set of labels.
        targets: Shape `(rows,)`, or `(rows, labels)`.
        folds: How many.
        seed: Decides the deal; 0 is a seed like any other.

    Returns:
        Fold of each row, int64 `(rows,)`; −1 for the only row of a class, which no fold may take from training.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "folds"))
    if kind == "regression":
        blocks = targets.argsort().split(folds)
        deal = [torch.randperm(folds, generator=generator)[: len(block)] for block in blocks]
        return torch.empty(len(targets), dtype=torch.long).index_copy_(0, torch.cat(blocks), torch.cat(deal))
    classes = targets if targets.ndim == 1 else targets.unique(dim=0, return_inverse=True)[1]
    shuffled = torch.randperm(len(classes), generator=generator)
    order = shuffled[classes[shuffled].argsort(stable=True)]
    fold = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)) % folds)
    if kind == "classification":
        fold[(torch.bincount(classes) == 1)[classes]] = -1
    return fold


def with_shuffled_controls(targets: Tensor, controls: int, *, seed: int, split: str) -> Tensor:
    """Put control labels beside true ones: the same labels, each control in an order of its own.

    Args:
        targets: Shape `(rows, ...)`.
        controls: How many.
        seed: Decides the orders; 0 is a seed like any other.
        split: Labels are shuffled within a split; its name parts the streams.

    Returns:
        Shape `(1 + controls, rows, ...)`, the true targets first.
    """
    orders = [torch.arange(len(targets))]
    for control in range(controls):
        generator = torch.Generator().manual_seed(derive_seed(seed, "control", split, control))
        orders.append(torch.randperm(len(targets), generator=generator))
    return torch.stack([targets[order] for order in orders])


@dataclass(frozen=True)
class Selection:
    """The chosen probes and what they answer on the rows they were chosen by.

    Attributes:
        trained: Probes of every penalty, trained on the training rows.
        chosen: Index of each layer's penalty, int64 `(layers,)`.
        logits: The chosen probes' and their controls' logits `(layers, 1 + controls, rows, classes)` on `rows`: the
            validation rows, or all rows out of fold.
        rows: Rows that decided.
        folds: 0 if validation rows decided, else the folds of the cross-validation.
    """

    trained: TrainedBank
    chosen: Tensor
    logits: Tensor
    rows: Rows
    folds: int

    def penalties(self, settings: ProbeSettings) -> list[float]:
        """Return λ of each layer."""
        return [settings.penalties[i] for i in self.chosen.tolist()]

    def bank(self, *, controls: bool) -> ProbeBank:
        """Return the chosen probe of each layer, with its controls after it or without."""
        count = self.trained.gaps.shape[2]
        replicas = self.chosen[:, None] * count + torch.arange(count if controls else 1)
        return self.trained.bank.select(replicas)

    def notes(self, settings: ProbeSettings) -> list[str]:
        """Say of each layer whether its probe or a control of it is not what was asked for; empty if all is well."""
        notes = []
        for gap in pick(self.trained.gaps, self.chosen).amax(1).tolist():
            if gap == float("inf"):
                notes.append("diverged: never a finite loss")
            elif gap > settings.tolerance:
                notes.append(
                    f"not converged: objective within {gap:.1e} of the optimum, {settings.tolerance:.1e} wanted"
                )
            else:
                notes.append("")
        return notes


def select(train: Rows, validation: Rows, spec: BankSpec) -> Selection:
    """Train, and choose for each layer the penalty whose probe of the true labels scores best; never on test.

    The score is the main metric that is reported: macro-F1, or R² for regression. (By cross-entropy, a hard and
    unbalanced task would get the penalty that always predicts the majority.) Equal scores go to the larger penalty. A
    control keeps the penalty of its probe, so that both have the same capacity. With fewer than
    `probe.min_validation_rows` validation rows, the scores are those of rows held out in turn from train and validation
    together; standardisation and stopping, too, see a fold's training rows only. The probes kept are then trained on
    the training rows.
    """
    settings = spec.settings
    if len(validation) >= max(1, settings.min_validation_rows):
        trained, rows, folds = train_bank(train, validation, spec), validation, 0
        logits = trained.logits(validation.values)
    else:
        logits, rows = _out_of_fold(_joined(train, validation), spec)
        folds = settings.folds
        trained = train_bank(*_refit_rows(train, validation, spec), spec)
    chosen = _best(logits[:, :, 0], rows, spec)
    return Selection(trained, chosen, pick(logits, chosen), rows, folds)


def pick(by_penalty: Tensor, chosen: Tensor) -> Tensor:
    """Take each layer's chosen penalty: `(layers, penalties, ...)` → `(layers, ...)`."""
    return by_penalty[torch.arange(len(chosen)), chosen]


def _best(logits: Tensor, rows: Rows, spec: BankSpec) -> Tensor:
    order = torch.tensor(spec.settings.penalties).argsort(descending=True)
    metric = MAIN_METRIC[spec.kind]
    by_penalty = [score_rows(spec.kind, logits[:, p], rows.targets[0]).values[metric] for p in order.tolist()]
    scores = torch.stack(by_penalty, dim=1)
    return order[scores.where(scores.isfinite(), -torch.inf).argmax(1)]


def _out_of_fold(rows: Rows, spec: BankSpec) -> tuple[Tensor, Rows]:
    """Logits `(layers, penalties, 1 + controls, rows, classes)` by probes that never saw the row, and the rows."""
    fold = fold_of_rows(spec.kind, rows.targets[0], spec.settings.folds, seed=derive_seed(spec.seed, "selection"))
    parts, order = [], []
    for number in range(spec.settings.folds):
        held_out, kept = (fold == number).nonzero()[:, 0], (fold != number).nonzero()[:, 0]
        if len(held_out) == 0:
            continue
        trained = train_bank(rows.at(kept), rows.at(held_out), spec)
        parts.append(trained.logits(rows.values[:, held_out]))
        order.append(held_out)
    return torch.cat(parts, dim=3), rows.at(torch.cat(order))


def _refit_rows(train: Rows, validation: Rows, spec: BankSpec) -> tuple[Rows, Rows]:
    """Rows to train on and rows to stop by; without validation rows, a fold of train."""
    if len(validation) > 0 or spec.exact:
        return train, validation
    fold = fold_of_rows(spec.kind, train.targets[0], spec.settings.folds, seed=derive_seed(spec.seed, "stopping"))
    return train.at((fold != 0).nonzero()[:, 0]), train.at((fold == 0).nonzero()[:, 0])


def _joined(train: Rows, validation: Rows) -> Rows:
    return Rows(
        torch.cat([train.values, validation.values], dim=1),
        torch.cat([train.targets, validation.targets], dim=1),
        torch.cat([train.weights, validation.weights], dim=1),
    )
