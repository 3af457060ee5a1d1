"""The models of a layer-by-layer study: which are tuned or merged, and the suite's activations in each of them."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback

from probes.activations import ExtractionSettings
from probes.backbones import FrozenBackbone
from probes.studies.layer_by_layer.comparison import TaskModels
from probes.studies.layer_by_layer.job_graph import (
    BASE,
    MIXTURE,
    is_wanted,
    numbered_models,
    seeds_of_models,
    split_replicate,
)
from probes.studies.layer_by_layer.mixture import (
    MixtureSettings,
    mixture_examples,
    refuse_contradictions,
    task_examples,
)
from probes.studies.suite_activations import SuiteActivations, read_suite
from probes.tasks import Suite, Task
from probes.trainers import TrainerFactory
from probes.tuning import (
    AnswerScores,
    TunedBackbone,
    TunedModel,
    TuningExamples,
    TuningSettings,
    encode_splits,
    merge_adapters,
    tune,
)
from probes.values import Estimates, LayerProfile, Reading

_log = logging.getLogger(__name__)
MERGED = "merged"
ANSWER_METRICS = {
    "answer_loss_nats": ("test_loss", "nats"),
    "exact_match": ("exact_match", "share of answers"),
    "rouge_l": ("rouge_l", "mean F1"),
    "chrf": ("chrf", "F-score"),
}
"""Metric in `results.csv` → field of `AnswerScores`, and unit."""


@dataclass(frozen=True)
class ModelTuner:
    """Tunes models from one base, and reads their activations.

    Attributes:
        base: The model all others are tuned from.
        suite: Tasks with answers.
        tuning: How models are tuned.
        trainer: Makes their Lightning trainers.
        extraction: How their activations are read.
        seed: Of the first controls and the experimental model.
        cache_dir: Weights and activations are kept under it.
        callbacks: Of the tuning on the mixture.
    """

    base: FrozenBackbone
    suite: Suite
    tuning: TuningSettings
    trainer: TrainerFactory
    extraction: ExtractionSettings
    seed: int
    cache_dir: Path
    callbacks: Sequence[Callback] = ()

    def check_answers(self) -> None:
        """Refuse answers that cannot be tuned on, of any task, before the first model is tuned.

        Raises:
            ValueError: An answer is empty, longer than allowed, or leaves no room for its prompt.
        """
        for task in self.suite.tasks:
            encode_splits(task.name, self.base, task_examples(task), self.tuning)

    def control(self, task: Task, *, replicate: int = 0) -> TunedModel:
        """The base tuned on one task alone; each replicate with another seed."""
        return self._tune(task.name, task_examples(task), seed=self.seed + replicate)

    def mixture(self, rows_per_cluster: int, *, replicate: int = 0) -> TunedModel:
        """The base tuned on all seen tasks; each replicate on the same rows with another seed."""
        rows = mixture_examples(self.suite, rows_per_cluster=rows_per_cluster, seed=self.seed)
        callbacks = () if replicate else self.callbacks
        return self._tune(MIXTURE, rows, seed=self.seed + replicate, callbacks=callbacks)

    def merged(self, controls: Sequence[TunedModel], coefficient: float) -> TunedModel:
        """The base plus a multiple of what tuning changed in each control, without training; its answers are unscored.

        Raises:
            ValueError: A control is unchanged or no plain LoRA adapter.
        """
        folders = [control.folder for control in controls]
        known = [folder for folder in folders if folder is not None]
        if len(known) < len(folders):
            raise ValueError(
                "Controls tuned for 0 steps cannot be merged. Set `tuning.max_epochs` and `tuning.max_steps` above 0."
            )
        folder = merge_adapters(self.base, known, coefficient=coefficient, out=self.cache_dir / "adapters")
        unscored = AnswerScores(
            validation_loss=math.nan, test_loss=math.nan, exact_match=math.nan, rouge_l=math.nan, chrf=math.nan,
            n_validation=0, n_test=0, n_answered=0,
        )  # fmt: skip
        return TunedModel(
            name=MERGED, kind="adapter", folder=folder, key=folder.name, steps=0, validation_losses={}, base=unscored,
            tuned=unscored, reused=False,
        )  # fmt: skip

    def read(self, tuned: TunedModel, tasks: Sequence[Task], *, splits: Sequence[str]) -> SuiteActivations:
        """Activations of some tasks' rows in a tuned model, which is loaded only if some are not in the store."""
        suite = Suite(self.suite.name, tuple(tasks))
        backbone = TunedBackbone(self.base, tuned, self.cache_dir)
        return read_suite(suite, backbone, self.extraction, self.cache_dir, splits=splits)

    def _tune(
        self, name: str, examples: dict[str, TuningExamples], *, seed: int, callbacks: Sequence[Callback] = ()
    ) -> TunedModel:
        _log.info("Tuning on '%s', seed %d.", name, seed)
        return tune(
            name,
            self.base,
            examples,
            self.tuning,
            trainer=self.trainer,
            seed=seed,
            cache_dir=self.cache_dir,
            callbacks=callbacks,
        )


@dataclass(frozen=True)
class TunedModels:
    """The tuned models of a study.

    Attributes:
        controls: Task → its controls, the study's seed first.
        experimental: The multi-task models, the study's seed first; none where they were not asked for.
        replicates: Task or `mixture` → which of its models these are, where not all were asked for.
    """

    controls: Mapping[str, Sequence[TunedModel]]
    experimental: Sequence[TunedModel]
    replicates: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)

    def numbered(self, name: str) -> list[tuple[int, TunedModel]]:
        """The models of a task, or of the mixture, with their numbers, of which 0 has the study's seed."""
        models = self.experimental if name == MIXTURE else self.controls[name]
        return list(zip(self.replicates.get(name, range(len(models))), models, strict=True))

    def facts(self) -> list[dict[str, Any]]:
        """What `provenance.json` records of each model."""
        models = [model for controls in self.controls.values() for model in controls]
        return [
            {
                "name": model.name,
                "kind": model.kind,
                "folder": str(model.folder) if model.folder is not None else None,
                "steps": model.steps,
                "reused": model.reused,
                "validation_losses": dict(model.validation_losses),
            }
            for model in [*models, *self.experimental]
        ]


def check_models(suite: Suite, settings: MixtureSettings, only: Sequence[str] | None) -> None:
    """Refuse what cannot be tuned before anything is loaded.

    Args:
        suite: Tasks, some of them marked unseen.
        settings: With how many seeds each model is tuned.
        only: Names of tasks, `mixture` or `base`, with `:0`, `:1` … for one model of several seeds; `None` is all.

    Raises:
        ValueError: A name is neither a task, `mixture` nor `base`, or its number is of no model; none is named; a
            mixture is asked for and no task is seen, or two seen tasks contradict each other.
    """
    names = [task.name for task in suite.tasks]
    seeds = seeds_of_models(names, settings)
    known = {*seeds, *(model for name, number in seeds.items() for model in numbered_models(name, number))}
    unknown = sorted(set(only or ()) - known)
    if unknown or (only is not None and not only):
        there = [name if number == 1 else f"{name}:0 to {name}:{number - 1}" for name, number in seeds.items()]
        wrong = f"No model is called {', '.join(unknown)}." if unknown else "`study.only_models` names no model."
        raise ValueError(
            f"{wrong} There are {', '.join(there[:-1])} and {there[-1]}. Set `study.only_models` among these, or to "
            "null for all."
        )
    if only is not None and MIXTURE not in {split_replicate(model)[0] for model in only}:
        return
    if all(task.unseen for task in suite.tasks):
        raise ValueError(
            f"Suite '{suite.name}' has no seen task to mix: all {len(names)} are marked unseen. "
            "Set `study.mixture.unseen` to fewer."
        )
    refuse_contradictions(suite)


def tune_models(tuner: ModelTuner, settings: MixtureSettings, *, only: Sequence[str] | None = None) -> TunedModels:
    """Tune every model of a study, or those named; models that are on disk already are reused.

    Args:
        tuner: Tunes the models.
        settings: How the experimental model is made, and which controls are repeated.
        only: As in `check_models`.

    Raises:
        ValueError: As in `check_models` and `ModelTuner.check_answers`, or the controls cannot be merged.
    """
    check_models(tuner.suite, settings, only)
    tuner.check_answers()
    tasks = tuner.suite.tasks
    controls: dict[str, list[TunedModel]] = {}
    replicates: dict[str, list[int]] = {}
    seeds = seeds_of_models([task.name for task in tasks], settings)
    for task in tasks:
        if wanted := [replicate for replicate in range(seeds[task.name]) if is_wanted(task.name, replicate, only)]:
            controls[task.name] = [tuner.control(task, replicate=replicate) for replicate in wanted]
            replicates[task.name] = wanted
    experimental: list[TunedModel] = []
    wanted = [replicate for replicate in range(seeds[MIXTURE]) if is_wanted(MIXTURE, replicate, only)]
    if settings.experimental == "merged" and wanted:
        first = {task: models[0] for task, models in controls.items() if replicates[task][0] == 0}
        seen = [first[task.name] if task.name in first else tuner.control(task) for task in tasks if not task.unseen]
        experimental.append(tuner.merged(seen, settings.merge_coefficient))
    else:
        experimental += [tuner.mixture(settings.rows_per_cluster, replicate=replicate) for replicate in wanted]
    return TunedModels(controls, experimental, replicates | {MIXTURE: wanted})


@dataclass(frozen=True)
class ReadModels:
    """A suite's activations in every model of a study.

    Attributes:
        base: Those of all splits that were asked for.
        experimental: Likewise for the first experimental model; those of test rows for the others.
        controls: Task → its controls, of which only the task's test rows are read.
    """

    base: SuiteActivations
    experimental: Sequence[SuiteActivations]
    controls: Mapping[str, Sequence[SuiteActivations]]

    def passes(self) -> dict[str, int]:
        """The forward passes of all models together, for `provenance.json`."""
        controls = [read for reads in self.controls.values() for read in reads]
        models = [self.base, *self.experimental, *controls]
        names = ("texts_computed", "tokens_computed", "forward_passes")
        return {name: sum(getattr(model.report, name) for model in models) for name in names}

    def task(self, task: Task, reading: Reading) -> TaskModels:
        """One task's test rows in all its models."""
        experimental, controls = (
            [model.rows(task, "test", reading) for model in models]
            for models in (self.experimental, self.controls[task.name])
        )
        return TaskModels.joined(self.base.rows(task, "test", reading), experimental, controls)


def read_models(tuner: ModelTuner, models: TunedModels, *, splits: Sequence[str]) -> ReadModels:
    """Read the suite with base and experimental model, and each task's test rows with its controls.

    Args:
        tuner: Reads tuned models.
        models: All models of a study, the experimental one included.
        splits: Splits that are read with base and first experimental model.
    """
    tasks = tuner.suite.tasks
    base = read_suite(tuner.suite, tuner.base, tuner.extraction, tuner.cache_dir, splits=splits)
    first, *others = models.experimental  # only `only_models` leaves them out
    experimental = [tuner.read(first, tasks, splits=splits)]
    experimental += [tuner.read(model, tasks, splits=("test",)) for model in others]
    controls = {
        task.name: [tuner.read(model, [task], splits=("test",)) for model in models.controls[task.name]]
        for task in tasks
    }
    return ReadModels(base, experimental, controls)


def read_only(tuner: ModelTuner, models: TunedModels, *, only: Sequence[str], splits: Sequence[str]) -> None:
    """Read some models only, as `read_models` reads them, for the activations that this leaves in the store.

    Args:
        tuner: Reads tuned models.
        models: The tuned ones among those named.
        only: As in `check_models`.
        splits: Splits that are read with base and first experimental model.
    """
    if is_wanted(BASE, 0, only):
        read_suite(tuner.suite, tuner.base, tuner.extraction, tuner.cache_dir, splits=splits)
    for replicate, model in models.numbered(MIXTURE):
        tuner.read(model, tuner.suite.tasks, splits=("test",) if replicate else splits)
    for task in tuner.suite.tasks:
        for model in models.controls.get(task.name, ()):
            tuner.read(model, [task], splits=("test",))


def answer_profiles(models: TunedModels, *, seed: int) -> list[LayerProfile]:
    """Did every tuned model learn its task? Scores of its answers, beside those of the base.

    Args:
        models: The tuned models.
        seed: That of the first control and experimental models; replicates count up from it.
    """
    profiles = []
    for task, controls in models.controls.items():
        profiles += _answer_profiles(task, "base", controls[0].base)
        for replicate, model in models.numbered(task):
            profiles += _answer_profiles(task, "control", model.tuned, seed=seed + replicate, model=model)
    if models.experimental:
        profiles += _answer_profiles(MIXTURE, "base", models.experimental[0].base)
    for replicate, model in models.numbered(MIXTURE):
        profiles += _answer_profiles(MIXTURE, "experimental", model.tuned, seed=seed + replicate, model=model)
    return profiles


def _answer_profiles(
    task: str, role: str, scores: AnswerScores, *, seed: int | None = None, model: TunedModel | None = None
) -> list[LayerProfile]:
    profiles = []
    for metric, (field, unit) in ANSWER_METRICS.items():
        rows = scores.n_test if field == "test_loss" else scores.n_answered
        remark = "not scored" if rows == 0 else "" if model is None else f"{model.steps} steps"
        value = np.array([getattr(scores, field)], dtype=np.float64)
        estimates = Estimates(value, rows, note="", remarks=(remark,))
        profiles.append(
            LayerProfile(
                quantity=metric, unit=unit, task=task, role=role, seed=seed, layers=(None,), estimates=estimates
            )
        )
    return profiles
