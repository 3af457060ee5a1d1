"""From a task's activations to its probes, their scores and the doubt about them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from probes.values import Result

from .layer_probes import LayerProbes
from .losses import class_weights
from .module import row_batched_logits
from .one_probe import build_probe
from .rows import Rows
from .scoring import ScoreSheet, SplitLogits, SplitScores
from .selection import Selection, select
from .settings import ProbeSettings
from .splits import with_shuffled_controls
from .standardiser import Standardiser
from .task_data import TaskData
from .task_probes import TaskProbes
from .train_bank import Recipe, TrainerFactory, is_exact

SPLITS = ("train", "validation", "test")


def fit_task(data: TaskData, settings: ProbeSettings, trainer_factory: TrainerFactory, seed: int) -> TaskProbes:
    """Train a task's probes at every layer, choose on validation, report on test.

    Args:
        data: Activations and targets.
        settings: How to train and score.
        trainer_factory: Makes a Lightning trainer with given overrides, for each fit.
        seed: Decides starts, dropout, order of rows, folds, controls and resamples; 0 is a seed like any other.

    Raises:
        ValueError: The settings do not suit the architecture.
    """
    probe = build_probe(settings.architecture, data.in_features, data.num_classes, seed=0)
    exact = is_exact(settings, probe)
    _, constant = Standardiser.of(data.train.activations.values)
    live = (~constant).nonzero()[:, 0]
    layers = tuple(data.layers[i] for i in live.tolist())
    recipe = Recipe(data, layers, data.num_classes, exact, settings, trainer_factory, seed)
    rows = {split: _rows(data, split, live, settings, seed) for split in SPLITS}
    selection = select(rows["train"], rows["validation"], recipe) if layers else None
    probes = _chosen_probes(data, recipe, selection)
    answers = [] if selection is None else _answers(selection, rows)
    sheet = _sheet(data, recipe, selection)
    scores = [sheet.score(answer) for answer in answers]
    estimates = sheet.estimates(scores[-1], data.layers) if scores else {}
    return TaskProbes(probes, _results(probes, scores, rows, sheet), estimates)


def _rows(data: TaskData, split: str, live: Tensor, settings: ProbeSettings, seed: int) -> Rows:
    activations, targets = getattr(data, split)
    targets = with_shuffled_controls(targets, settings.controls, seed=seed, split=split)
    weights = torch.ones(targets.shape[:2])
    if settings.class_weights == "balanced" and data.kind == "classification":
        weights = class_weights(data.train.targets, data.num_classes)[targets]
    return Rows(_of_layers(activations.values, live), targets, weights)


def _of_layers(values: Tensor, layers: Tensor) -> Tensor:
    """Layers in ascending order; neighbours are not copied."""
    if len(layers) == 0:
        return values[:0]
    first, last = int(layers[0]), int(layers[-1])
    return values[first : last + 1] if len(layers) == last - first + 1 else values[layers]


def _chosen_probes(data: TaskData, recipe: Recipe, selection: Selection | None) -> LayerProbes:
    penalties = dict.fromkeys(data.layers, float("nan"))
    if selection is not None:
        penalties |= zip(recipe.layers, selection.penalties(recipe.settings), strict=True)
    return LayerProbes(
        task=data.task,
        kind=data.kind,
        labels=data.labels,
        layers=data.layers,
        constant=tuple(layer for layer in data.layers if layer not in recipe.layers),
        reading=data.reading,
        penalties=tuple(penalties.values()),
        in_features=data.in_features,
        architecture=recipe.settings.architecture,
        bank=None if selection is None else selection.bank(controls=False),
        standardiser=None if selection is None else selection.trained.standardiser,
        target_mean=0.0 if selection is None else selection.trained.target_mean,
        target_deviation=1.0 if selection is None else selection.trained.target_deviation,
    )


def _answers(selection: Selection, rows: Mapping[str, Rows]) -> list[SplitLogits]:
    """Apply the chosen probes and their controls to every split."""
    trained, bank = selection.trained, selection.bank(controls=True)
    answers = []
    for split in SPLITS:
        if split == "validation":
            note = f"out of fold, {selection.folds}-fold cross-validation" if selection.folds else ""
            answers.append(SplitLogits(split, selection.logits, selection.rows.targets, note))
            continue
        logits = row_batched_logits(bank, trained.standardiser, rows[split].values)
        logits = logits * trained.target_deviation + trained.target_mean
        answers.append(SplitLogits(split, logits, rows[split].targets))
    return answers


def _sheet(data: TaskData, recipe: Recipe, selection: Selection | None) -> ScoreSheet:
    settings, reading = recipe.settings, data.reading
    common = {
        "task": data.task,
        "stack": reading.stack,
        "site": reading.site,
        "pooling": reading.pooling,
        "probe": settings.name,
        "seed": recipe.seed,
    }
    return ScoreSheet(
        kind=data.kind,
        common=common,
        layers=recipe.layers,
        penalties=[] if selection is None else selection.penalties(settings),
        notes=[] if selection is None else selection.notes(settings),
        samples=settings.bootstrap_samples,
        seed=recipe.seed,
    )


def _results(
    probes: LayerProbes, scores: list[SplitScores], rows: Mapping[str, Rows], sheet: ScoreSheet
) -> list[Result]:
    results, train_targets = [], rows["train"].targets[0]
    for split_scores in scores:
        results += sheet.results(split_scores)
    for split in SPLITS:
        scored = next((s.answers.targets[0] for s in scores if s.answers.split == split), rows[split].targets[0])
        if len(scored) > 0:
            results += sheet.majority_rows(split, train_targets, scored, probes.num_classes)
    metrics = dict.fromkeys(result.metric for result in results)
    return results + sheet.constant_rows(SPLITS, tuple(metrics), probes.constant)
