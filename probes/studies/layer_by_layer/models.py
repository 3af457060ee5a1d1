"""A suite as every model of a layer-by-layer study sees it."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from lightning import Callback

from probes.activations import ExtractionSettings
from probes.backbones import FrozenBackbone, pad_right
from probes.studies.layer_by_layer.comparison import TaskModels
from probes.studies.layer_by_layer.mixture import (
    MixtureSettings,
    mixture_examples,
    refuse_contradictions,
    task_examples,
)
from probes.studies.suite_activations import SuiteActivations, read_suite
from probes.tasks import Suite, Task
from probes.training import TrainerFactory
from probes.tuning import (
    AnswerScores,
    TunedModel,
    TuningExamples,
    TuningSettings,
    merge_adapters,
    tune,
    tuned_backbone,
)
from probes.values import Reading

_log = logging.getLogger(__name__)
MIXTURE, MERGED = "mixture", "merged"


@dataclass(frozen=True)
class ModelTuner:
    """Makes tuned models of one base, and reads them.

    Attributes:
        base: The model all others are tuned from.
        suite: Tasks with answers.
        tuning: How models are tuned.
        trainer: Makes their trainers.
        extraction: How they are read.
        seed: Of the first controls and the experimental model.
        cache_dir: Keeps weights and activations.
        watchers: Callbacks that go along with the tuning on the mixture.
    """

    base: FrozenBackbone
    suite: Suite
    tuning: TuningSettings
    trainer: TrainerFactory
    extraction: ExtractionSettings
    seed: int
    cache_dir: Path
    watchers: Sequence[Callback] = ()

    def control(self, task: Task, *, replicate: int = 0) -> TunedModel:
        """The base tuned on one task alone; other replicates by other seeds."""
        return self._tune(task.name, task_examples(task), seed=self.seed + replicate)

    def mixture(self, rows_per_cluster: int) -> TunedModel:
        """The base tuned on all seen tasks."""
        rows = mixture_examples(self.suite, rows_per_cluster=rows_per_cluster, seed=self.seed)
        return self._tune(MIXTURE, rows, seed=self.seed, callbacks=self.watchers)

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
        reader = _TunedReader(self.base, tuned, self.cache_dir)
        return read_suite(suite, cast(FrozenBackbone, reader), self.extraction, self.cache_dir, splits=splits)

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


class _TunedReader:
    """What reading a suite asks of a backbone, answered without loading the tuned weights as long as that is possible.

    Tokens, layers and readings are the base's; the tuned model's fingerprint is remembered from the first time.
    """

    def __init__(self, base: FrozenBackbone, tuned: TunedModel, cache_dir: Path) -> None:
        self._base, self._tuned = base, tuned
        self._model: FrozenBackbone | None = None
        self._file = cache_dir / "adapters" / "fingerprints" / f"{tuned.key}-transformers-{transformers.__version__}"
        self.name = f"{base.name}+{tuned.name}" if tuned.folder is not None else base.name

    def fingerprint(self) -> str:
        if self._tuned.folder is None:
            return self._base.fingerprint()
        if not self._file.exists():
            self._file.parent.mkdir(parents=True, exist_ok=True)
            partial = self._file.with_suffix(f".{os.getpid()}")
            partial.write_text(self._loaded().fingerprint())
            partial.replace(self._file)
        return self._file.read_text()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._loaded()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    def _loaded(self) -> FrozenBackbone:
        if self._model is None:
            self._model = tuned_backbone(self._base, self._tuned)
            if self._tuned.folder is not None:
                _refuse_unchanged(self._base, self._model, self._tuned)
        return self._model


def _refuse_unchanged(base: FrozenBackbone, model: FrozenBackbone, tuned: TunedModel) -> None:
    before, after = (_few_activations(side) for side in (base, model))
    if all(torch.equal(before[reading], after[reading].to(before[reading].device)) for reading in before):
        raise ValueError(
            f"The model tuned on '{tuned.name}' changes nothing: hidden states with and without '{tuned.folder}' are "
            "equal. Delete that folder to have it tuned again."
        )


def _few_activations(backbone: FrozenBackbone) -> dict[Reading, torch.Tensor]:
    (ids,) = backbone.tokenize(["Does it change anything?"]).ids
    inputs = pad_right([ids], length=len(ids), pad_id=backbone.pad_id)
    return backbone(*inputs, readings=backbone.readings("mean"), layers="all")


@dataclass(frozen=True)
class TunedModels:
    """The tuned models of a study.

    Attributes:
        controls: Task → its controls, the study's seed first.
        experimental: The multi-task model; `None` where it was not asked for.
    """

    controls: Mapping[str, Sequence[TunedModel]]
    experimental: TunedModel | None

    def facts(self) -> list[dict[str, Any]]:
        """What `provenance.json` tells of each."""
        every = [model for own in self.controls.values() for model in own]
        every += [] if self.experimental is None else [self.experimental]
        return [
            {
                "name": model.name,
                "kind": model.kind,
                "folder": str(model.folder) if model.folder is not None else None,
                "steps": model.steps,
                "reused": model.reused,
                "validation_losses": dict(model.validation_losses),
            }
            for model in every
        ]


def check_models(suite: Suite, only: Sequence[str] | None) -> None:
    """Refuse what cannot be tuned before anything is loaded.

    Args:
        suite: Tasks with their marks.
        only: Names of tasks, or `mixture`; `None` is all.

    Raises:
        ValueError: A name is neither a task nor `mixture`; a mixture is wanted and no task is seen, or two seen tasks
            contradict each other.
    """
    names = [task.name for task in suite.tasks]
    unknown = sorted(set(only or ()) - {*names, MIXTURE})
    if unknown:
        raise ValueError(
            f"No model is called {', '.join(unknown)}. There are {', '.join(names)} and {MIXTURE}. "
            "Set `study.only_models` among these."
        )
    if only is not None and MIXTURE not in only:
        return
    if all(task.unseen for task in suite.tasks):
        raise ValueError(
            f"Suite '{suite.name}' has no seen task to mix: all {len(names)} are marked unseen. "
            "Set `study.mixture.unseen` to fewer."
        )
    refuse_contradictions(suite)


def tune_models(tuner: ModelTuner, settings: MixtureSettings, *, only: Sequence[str] | None = None) -> TunedModels:
    """Tune every model of a study, or those named; one that is on disk already is taken from there.

    Args:
        tuner: Makes them.
        settings: The experimental model, and which controls are repeated.
        only: Names of tasks, or `mixture`; `None` is all.

    Raises:
        ValueError: As in `check_models`, or the controls cannot be merged.
    """
    check_models(tuner.suite, only)
    tasks = tuner.suite.tasks
    controls: dict[str, list[TunedModel]] = {}
    for number, task in enumerate(tasks):
        if only is None or task.name in only:
            repeats = settings.replicate_seeds if number < settings.replicate_tasks else 0
            controls[task.name] = [tuner.control(task, replicate=replicate) for replicate in range(1 + repeats)]
    experimental = None
    if only is None or MIXTURE in only:
        if settings.experimental == "merged":
            seen = [
                controls[task.name][0] if task.name in controls else tuner.control(task)
                for task in tasks
                if not task.unseen
            ]
            experimental = tuner.merged(seen, settings.merge_coefficient)
        else:
            experimental = tuner.mixture(settings.rows_per_cluster)
    return TunedModels(controls, experimental)


@dataclass(frozen=True)
class ReadModels:
    """A suite as every model of a study sees it; each control sees its own task's test rows only."""

    base: SuiteActivations
    experimental: SuiteActivations
    controls: Mapping[str, Sequence[SuiteActivations]]

    def passes(self) -> dict[str, int]:
        """What reading all models took, for `provenance.json`."""
        models = [self.base, self.experimental, *(own for controls in self.controls.values() for own in controls)]
        names = ("texts_computed", "tokens_computed", "forward_passes")
        return {name: sum(getattr(model.report, name) for model in models) for name in names}

    def task(self, task: Task, reading: Reading) -> TaskModels:
        """One task's test rows in all its models."""
        base, experimental = (side.rows(task, "test", reading) for side in (self.base, self.experimental))
        controls = [control.rows(task, "test", reading) for control in self.controls[task.name]]
        return TaskModels.joined(base, experimental, controls)


def read_models(tuner: ModelTuner, models: TunedModels, *, splits: Sequence[str]) -> ReadModels:
    """Read the suite with base and experimental model, and each task's test rows with its controls.

    Args:
        tuner: Reads tuned models.
        models: All of a study's; the experimental model is among them.
        splits: What base and experimental model read.
    """
    tasks = tuner.suite.tasks
    base = read_suite(tuner.suite, tuner.base, tuner.extraction, tuner.cache_dir, splits=splits)
    assert models.experimental is not None  # only `only_models` leaves it out
    experimental = tuner.read(models.experimental, tasks, splits=splits)
    controls = {
        task.name: [tuner.read(model, [task], splits=("test",)) for model in models.controls[task.name]]
        for task in tasks
    }
    return ReadModels(base, experimental, controls)
