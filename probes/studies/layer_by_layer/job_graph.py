"""A layer-by-layer study as jobs that a sweep can run apart: tune each model, read each, then compare all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from probes.studies.layer_by_layer.mixture import MixtureSettings

BASE, MIXTURE = "base", "mixture"


class Stage(Enum):
    """The stages; each begins when all jobs of the one before have finished."""

    TUNE = "tune"
    READ = "read"
    COMPARE = "compare"


@dataclass(frozen=True)
class StudyJob:
    """One job.

    Attributes:
        stage: What it does, after which it stops.
        model: What is tuned or read, as `study.only_models` names it: a task or `mixture`, with `:0` for the study's
            seed and `:1`, `:2` … for others, or `base`; empty where all models are compared.
    """

    stage: Stage
    model: str = ""

    @property
    def name(self) -> str:
        """The model's name without its replicate."""
        return split_replicate(self.model)[0]

    def overrides(self) -> list[str]:
        """What distinguishes the job's config from the study's, in Hydra's grammar."""
        if self.stage is Stage.COMPARE:
            return []
        quoted = self.model.replace("\\", "\\\\").replace("'", "\\'")
        return [f"study.only_models=['{quoted}']", f"study.stop_after={self.stage.value}"]


def jobs_of_study(tasks: Sequence[str], mixture: MixtureSettings) -> list[StudyJob]:
    """The jobs of a study, stage by stage.

    Args:
        tasks: Names of the suite's tasks.
        mixture: How the experimental model is made, and which controls are tuned with other seeds. A merged model needs
            no tuning; it is made by the job that reads it.

    >>> [job.model for job in jobs_of_study(["a", "b"], MixtureSettings(replicate_tasks=1))]
    ['mixture:0', 'a:0', 'a:1', 'b:0', 'base', 'mixture:0', 'a:0', 'a:1', 'b:0', '']
    """
    seeds = seeds_of_models(tasks, mixture)
    controls = [model for task in tasks for model in numbered_models(task, seeds[task])]
    experimental = numbered_models(MIXTURE, seeds[MIXTURE])
    tuned = [*(experimental if mixture.experimental == "tuned" else ()), *controls]  # the longest job first
    return [
        *(StudyJob(Stage.TUNE, model) for model in tuned),
        *(StudyJob(Stage.READ, model) for model in (BASE, *experimental, *controls)),
        StudyJob(Stage.COMPARE),
    ]


def seeds_of_models(tasks: Sequence[str], mixture: MixtureSettings) -> dict[str, int]:
    """With how many seeds each model of a study is tuned: those of the tasks, `mixture`, and `base`, which is one.

    >>> seeds_of_models(["a", "b"], MixtureSettings(replicate_tasks=1))
    {'a': 2, 'b': 1, 'mixture': 1, 'base': 1}
    """
    repeated = set(tasks[: mixture.replicate_tasks])
    controls = {task: 1 + (mixture.replicate_seeds if task in repeated else 0) for task in tasks}
    return {**controls, MIXTURE: mixture.experimental_seeds, BASE: 1}


def is_wanted(name: str, replicate: int, only: Sequence[str] | None) -> bool:
    """Whether a model is among those named; `None` names all, and a name without a number those of all seeds.

    >>> is_wanted("a", 1, ["a"]), is_wanted("a", 1, ["a:0", "b"])
    (True, False)
    """
    return only is None or name in only or f"{name}:{replicate}" in only


def split_replicate(model: str) -> tuple[str, int | None]:
    """The name of a model and its replicate: 0 has the study's seed, `None` means that all are meant.

    >>> split_replicate("sst2:1"), split_replicate("sst2")
    (('sst2', 1), ('sst2', None))
    """
    name, colon, number = model.rpartition(":")
    return (name, int(number)) if colon and number.isdigit() else (model, None)


def numbered_models(name: str, seeds: int) -> list[str]:
    """The names of a model's replicates.

    >>> numbered_models("sst2", 2)
    ['sst2:0', 'sst2:1']
    """
    return [f"{name}:{replicate}" for replicate in range(seeds)]
