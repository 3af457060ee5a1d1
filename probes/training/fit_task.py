"""From activations and labels to the probes of every layer and their scores: for a task, or from plain tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from probes.analysis import result_rows
from probes.architectures import reads_tokens
from probes.files import digest_of_json
from probes.metrics import LARGER_IS_BETTER, MAIN_METRIC, OBJECTIVE_METRIC, Predictions, TargetKind
from probes.seeds import derive_seed
from probes.token_values import TokenActivations
from probes.trainers import TrainerFactory, default_trainer
from probes.training.bank.minibatch_module import class_weights
from probes.training.bank.probe_bank import build_probe
from probes.training.bank.probe_module import Standardiser, row_batched_logits
from probes.training.best_layers import best_layers_of
from probes.training.data_module import Rows
from probes.training.layer_probes import LayerProbes
from probes.training.probe_settings import ProbeSettings
from probes.training.ragged import RaggedRows, RowValues, layers_of, rows_at
from probes.training.saved_probes import save_probes
from probes.training.scoring import SplitLogits, TaskScorer
from probes.training.selection import Selection, fold_of_rows, select, with_shuffled_controls, with_word_type_controls
from probes.training.task_data import LabelledActivations, TaskData
from probes.training.train_bank import BankSpec, is_exact
from probes.training.training_sets import refitted_logits
from probes.values import NO_READING, SPLITS, Activations, BestLayers, Layer, LayerProfile, Result


@dataclass(frozen=True)
class TaskProbes:
    """A task's probes at every layer and what they score.

    Attributes:
        probes: The chosen probe of each layer.
        profiles: Every metric of the probes and of their baselines, on every split, over all layers.
        best_layers: The layer with the best validation score, and those that validation rows cannot tell from it;
            `None` if no layer has a score, such as if every layer is constant.
        predictions: What the probes predict for the test rows; `None` if no layer has a probe.
    """

    probes: LayerProbes
    profiles: tuple[LayerProfile, ...]
    best_layers: BestLayers | None
    predictions: Predictions | None

    @property
    def results(self) -> list[Result]:
        """The scores as rows of `results.csv`, without the names that a study fills in."""
        return result_rows(self.profiles)

    @property
    def objective_metric(self) -> str:
        """Metric that `objective` and the best layer go by: `macro_f1`, or `mse` for regression."""
        return OBJECTIVE_METRIC[self.probes.kind]

    @property
    def validation_best_layer(self) -> Layer | None:
        """Layer with the best validation score, the first of equals; `None` if every layer is constant."""
        return None if self.best_layers is None else self.best_layers.layer

    @property
    def objective(self) -> float:
        """Validation macro-F1, or negative mean squared error, at the validation-best layer; NaN if there is none."""
        if self.best_layers is None:
            return float("nan")
        return self.best_layers.score if LARGER_IS_BETTER[self.objective_metric] else -self.best_layers.score

    def profile(self, metric: str, *, split: str = "test", control: str = "") -> LayerProfile:
        """The profile of one metric, such as `macro_f1` or `selectivity`.

        Raises:
            KeyError: There is none.
        """
        for profile in self.profiles:
            if (profile.metric, profile.split, profile.control) == (metric, split, control):
                return profile
        there = sorted({profile.metric for profile in self.profiles})
        raise KeyError(f"Task '{self.probes.task}' has no {split} score '{metric}' {control}. There are {there}.")

    def save(self, path: str | Path, metadata: Mapping[str, Any] | None = None) -> Path:
        """Write the probes to one file, see `save_probes`."""
        return save_probes(self.probes, path, metadata)


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
    _check_reads(probe, data)
    if data.streamed:
        settings = settings.for_streamed_rows(data.task, validation_rows=len(data.validation.targets))
    exact = is_exact(settings, probe)
    _, constant = Standardiser.of(data.train.values if data.streamed else data.train.activations.values)  # pyright: ignore[reportArgumentType]
    live = (~constant).nonzero()[:, 0]
    layers = tuple(data.layers[i] for i in live.tolist())
    spec = BankSpec(data, layers, data.num_classes, exact, settings, trainer_factory, seed)
    rows = {split: _rows(data, split, live, settings, seed) for split in SPLITS}
    selection = select(rows["train"], rows["validation"], spec) if layers else None
    logits_by_split = {} if selection is None else _logits_by_split(data, selection, rows, spec)
    profiles = tuple(_profiles(data, spec, selection, rows, logits_by_split))
    return TaskProbes(
        probes=_chosen_probes(data, spec, selection),
        profiles=profiles,
        best_layers=None if selection is None else _best_layers(data, spec, selection),
        predictions=_predictions(data, spec, logits_by_split["test"], profiles) if logits_by_split else None,
    )


def _rows(data: TaskData, split: str, live: Tensor, settings: ProbeSettings, seed: int) -> Rows:
    labelled: LabelledActivations = getattr(data, split)
    sentences = None if data.sentences is None else data.sentences[split]
    if data.word_types is None:
        targets = with_shuffled_controls(labelled.targets, settings.controls, seed=seed, split=split)
    else:
        types, train = data.word_types[split], data.train.targets
        targets = with_word_type_controls(labelled.targets, types, train, settings.controls, seed=seed)
    weights = torch.ones(targets.shape[:2])
    if settings.class_weights == "balanced" and data.kind == "classification":
        weights = class_weights(data.train.targets, data.num_classes)[targets]
    values, groups = _of_layers(labelled.values, live), data.groups_of(split)
    return Rows(values, targets, weights, sentences=sentences, groups=groups)


def _of_layers(values: RowValues, layers: Tensor) -> RowValues:
    """Layers in ascending order; neighbours are not copied."""
    if len(layers) == 0:
        return layers_of(values, slice(0, 0))
    first, last = int(layers[0]), int(layers[-1])
    return layers_of(values, slice(first, last + 1) if len(layers) == last - first + 1 else layers)


def _check_reads(probe: nn.Module, data: TaskData) -> None:
    """Refuse a probe of tokens for rows of one vector, and the other way round."""
    if reads_tokens(probe) == data.of_tokens:
        return
    name, given = type(probe).__name__, f"rows of {'tokens' if data.of_tokens else 'one vector'} ({data.reading})"
    wanted, remedy = ("one vector a row", "probe=attention") if data.of_tokens else ("all tokens", "probe=linear")
    raise ValueError(f"{name} reads {wanted}; task '{data.task}' has {given}. Set `{remedy}`.")


def _chosen_probes(data: TaskData, spec: BankSpec, selection: Selection | None) -> LayerProbes:
    penalties = dict.fromkeys(data.layers, float("nan"))
    if selection is not None:
        penalties |= zip(spec.layers, selection.penalties(spec.settings), strict=True)
    return LayerProbes(
        task=data.task,
        kind=data.kind,
        labels=data.labels,
        layers=data.layers,
        constant=tuple(layer for layer in data.layers if layer not in spec.layers),
        reading=data.reading,
        penalties=tuple(penalties.values()),
        in_features=data.in_features,
        architecture=spec.settings.architecture,
        bank=None if selection is None else selection.bank(controls=False),
        standardiser=None if selection is None else selection.trained.standardiser,
        target_mean=0.0 if selection is None else selection.trained.target_mean,
        target_deviation=1.0 if selection is None else selection.trained.target_deviation,
    )


def _best_layers(data: TaskData, spec: BankSpec, selection: Selection) -> BestLayers | None:
    return best_layers_of(
        data.kind,
        selection.logits[:, 0],
        selection.rows.targets[0],
        task=data.task,
        layers=spec.layers,
        samples=spec.settings.bootstrap_samples,
        seed=derive_seed(spec.seed, "bootstrap", "validation"),
        groups=data.row_groups(*selection.splits),
    )


def _profiles(
    data: TaskData,
    spec: BankSpec,
    selection: Selection | None,
    rows: Mapping[str, Rows],
    logits_by_split: Mapping[str, SplitLogits],
) -> Iterator[LayerProfile]:
    """Scores of the chosen probes, their controls and the majority baseline on every split."""
    settings = spec.settings
    scorer = TaskScorer(
        data=data,
        probe=settings.name,
        probed_layers=spec.layers,
        penalties=[] if selection is None else selection.penalties(settings),
        remarks=[] if selection is None else selection.notes(settings),
        bootstrap_samples=settings.bootstrap_samples,
        permutations=settings.permutations,
        seed=spec.seed,
    )
    for outputs in logits_by_split.values():
        yield from scorer.profiles(outputs)
    train_targets = rows["train"].targets[0]
    metrics: list[str] = []
    for split in SPLITS:
        scored = logits_by_split[split].targets[0] if split in logits_by_split else rows[split].targets[0]
        if len(scored) > 0:
            majority = scorer.majority_profiles(split, train_targets, scored)
            metrics = [profile.metric for profile in majority]
            yield from majority
            if data.word_types is not None and data.kind == "classification":
                train = (train_targets, data.word_types["train"])
                of_split = rows[split].targets[0], data.word_types[split]
                yield from scorer.word_majority_profiles(split, train, *of_split)
    if selection is None:
        for split in SPLITS:
            yield from scorer.missing_profiles(split, metrics)


def _predictions(data: TaskData, spec: BankSpec, outputs: SplitLogits, profiles: Sequence[LayerProfile]) -> Predictions:
    """Predictions for the test rows, with the errors of the main metric over training sets."""
    predictions = Predictions.of_logits(
        outputs.logits[:, 0],
        outputs.targets[0],
        task=data.task,
        kind=data.kind,
        reading=data.reading,
        labels=data.labels,
        layers=spec.layers,
        row_ids=data.test.activations.row_ids,
        groups=outputs.groups,
        depth=data.depth,
    )
    main = next(p for p in profiles if (p.metric, p.split, p.control) == (MAIN_METRIC[data.kind], "test", ""))
    if outputs.refits is None or main.estimates.errors is None:
        return predictions
    sets, groups = outputs.refits.shape[2], data.groups_of("train")
    halved = [spec.seed, sets, data.train.activations.row_ids, *([] if groups is None else groups.tolist())]
    probed = [data.layers.index(layer) for layer in spec.layers]
    return replace(
        predictions,
        training_errors=main.estimates.errors[-sets:, probed].astype(np.float32),
        training_seed=digest_of_json(halved),
    )


def _logits_by_split(
    data: TaskData, selection: Selection, rows: Mapping[str, Rows], spec: BankSpec
) -> dict[str, SplitLogits]:
    """Logits of the chosen probes and their controls on every split, out of fold if cross-validated, and of refits."""
    trained, bank = selection.trained, selection.bank(controls=True)
    found = {}
    for split in SPLITS:
        if split == "validation":
            remark = f"out of fold, {selection.folds}-fold cross-validation" if selection.folds else ""
            groups = data.row_groups(*selection.splits)
            found[split] = SplitLogits(split, selection.logits, selection.rows.targets, remark, groups=groups)
            continue
        if split == "train" and data.streamed:
            continue  # their logits would not fit either
        logits = row_batched_logits(bank, trained.standardiser, rows[split].values)
        logits = logits * trained.target_deviation + trained.target_mean
        found[split] = SplitLogits(split, logits, rows[split].targets, groups=data.row_groups(split))
    sets = spec.settings.sets_to_refit(len(rows["train"]), exact=spec.exact)
    if sets > 0:
        refits = refitted_logits(
            rows["train"], rows["validation"], rows["test"].values, selection=selection, spec=spec, sets=sets
        )
        found["test"] = replace(found["test"], refits=refits)
    return found


Array = Tensor | np.ndarray | Sequence[Any]
Vectors = Array | RaggedRows
"""Activations: one vector a row, or one for each token of a row."""


def fit_probes(
    x: Vectors,
    y: Array,
    *,
    layers: Sequence[Layer] | None = None,
    labels: Sequence[str] | None = None,
    x_validation: Vectors | None = None,
    y_validation: Array | None = None,
    x_test: Vectors | None = None,
    y_test: Array | None = None,
    ordered: bool = False,
    groups: Array | None = None,
    seed: int = 0,
    trainer_factory: TrainerFactory = default_trainer,
    **settings: Any,
) -> TaskProbes:
    """Probe every layer for one task.

    Args:
        x: Activations, shape `(layers, rows, features)`, or `(rows, features)` for one layer; `RaggedRows` for probes
            that read every token.
        y: Whole numbers 0, 1, … `(rows,)` are classes, 0/1 entries `(rows, labels)` are labels, real numbers `(rows,)`
            a regression target.
        layers: Names of the layers; 0, 1, … by default.
        labels: Names of the classes or labels; their numbers by default.
        x_validation: Rows to choose by; without them, choices are cross-validated on `x`.
        y_validation: Their targets.
        x_test: Rows to report; without them, a fifth of the rows of `x` is held out, seeded and stratified.
        y_test: Their targets.
        ordered: Whether the classes are in order, so that Spearman's correlation is reported too.
        groups: Number of the group of each row of `x`, `(rows,)`, such as that of its text: rows of a group are never
            divided among folds, halves or held-out test rows. By default every row is one of its own.
        seed: Decides every random choice; 0 is a seed like any other.
        trainer_factory: Makes the Lightning trainers; one quiet CPU process by default.
        **settings: Fields of `ProbeSettings`.

    Raises:
        ValueError: Shapes or targets do not fit together.

    Example:
        >>> x = torch.randn(2, 100, 4, generator=torch.Generator().manual_seed(0))
        >>> fit = fit_probes(x, (x[1, :, 0] > 0).long())
        >>> fit.validation_best_layer
        1
    """
    train, test = (_layers_first(x), _targets(y)), _pair(x_test, y_test, "test")
    kind = _kind(train[1])
    numbers = None if groups is None else torch.as_tensor(groups).long()
    if test is None:
        train, test, numbers = _hold_out(kind, *train, numbers, seed=seed)
    validation = _pair(x_validation, y_validation, "validation")
    if validation is None:
        validation = rows_at(train[0], slice(0, 0)), train[1][:0]
    names = tuple(range(len(train[0]))) if layers is None else tuple(layers)
    splits: dict[str, Any] = {
        split: _labelled(split, values, targets, names)
        for split, (values, targets) in (("train", train), ("validation", validation), ("test", test))
    }
    if numbers is not None:  # every validation row is a group of its own
        splits["groups"] = {"train": numbers, "validation": numbers.max() + 1 + torch.arange(len(validation[1]))}
    data = TaskData(task="task", kind=kind, labels=_labels(kind, train[1], labels), ordered=ordered, **splits)
    return fit_task(data, ProbeSettings(**settings), trainer_factory, seed)


def _layers_first(x: Vectors) -> RowValues:
    if isinstance(x, RaggedRows):
        return RaggedRows(x.tokens.float(), x.lengths)
    values = torch.as_tensor(x, dtype=torch.float32)
    return values[None] if values.ndim == 2 else values


def _targets(y: Array) -> Tensor:
    targets = torch.as_tensor(y)
    return targets.float() if targets.is_floating_point() or targets.ndim == 2 else targets.long()


def _pair(x: Vectors | None, y: Array | None, split: str) -> tuple[RowValues, Tensor] | None:
    if (x is None) != (y is None):
        raise ValueError(f"`x_{split}` and `y_{split}` come together; got only one of them.")
    return None if x is None or y is None else (_layers_first(x), _targets(y))


def _kind(targets: Tensor) -> TargetKind:
    if targets.ndim == 2:
        return "multilabel"
    return "regression" if targets.is_floating_point() else "classification"


def _labels(kind: TargetKind, targets: Tensor, labels: Sequence[str] | None) -> tuple[str, ...]:
    if kind == "regression":
        return ()
    count = targets.shape[1] if kind == "multilabel" else int(targets.max()) + 1
    return tuple(map(str, range(count))) if labels is None else tuple(labels)


def _hold_out(
    kind: TargetKind, x: RowValues, y: Tensor, groups: Tensor | None, *, seed: int
) -> tuple[tuple[RowValues, Tensor], tuple[RowValues, Tensor], Tensor | None]:
    fold = fold_of_rows(kind, y, 5, seed=derive_seed(seed, "test"), groups=groups)
    kept, held_out = (fold != 0).nonzero()[:, 0], (fold == 0).nonzero()[:, 0]
    return (rows_at(x, kept), y[kept]), (rows_at(x, held_out), y[held_out]), None if groups is None else groups[kept]


def _labelled(split: str, values: RowValues, targets: Tensor, layers: tuple[Layer, ...]) -> LabelledActivations:
    ids = tuple(f"{split}/{row}" for row in range(values.shape[1]))
    if isinstance(values, RaggedRows):
        offsets = torch.cat([values.lengths.new_zeros(1), values.lengths.cumsum(0)])
        positions = torch.arange(int(offsets[-1])) - offsets[:-1].repeat_interleave(values.lengths)
        tokens = TokenActivations(values.tokens, offsets, positions, layers, ids, NO_READING)
        return LabelledActivations(tokens, targets)
    return LabelledActivations(Activations(cast(Tensor, values), layers, ids, NO_READING), targets)
