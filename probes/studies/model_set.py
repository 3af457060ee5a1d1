"""Which models a layer-by-layer study compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from probes.studies.mixture import refuse_contradictions
from probes.studies.mixture_settings import MixtureSettings
from probes.studies.tuned_models import MIXTURE, Workshop
from probes.tasks import Suite
from probes.training.tuning import TunedModel


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


def tune_models(shop: Workshop, settings: MixtureSettings, *, only: Sequence[str] | None = None) -> TunedModels:
    """Tune every model of a study, or those named; one that is on disk already is taken from there.

    Args:
        shop: Makes them.
        settings: The experimental model, and which controls are repeated.
        only: Names of tasks, or `mixture`; `None` is all.

    Raises:
        ValueError: As in `check_models`, or the controls cannot be merged.
    """
    check_models(shop.suite, only)
    tasks = shop.suite.tasks
    controls: dict[str, list[TunedModel]] = {}
    for number, task in enumerate(tasks):
        if only is None or task.name in only:
            repeats = settings.replicate_seeds if number < settings.replicate_tasks else 0
            controls[task.name] = [shop.control(task, replicate=replicate) for replicate in range(1 + repeats)]
    experimental = None
    if only is None or MIXTURE in only:
        if settings.experimental == "merged":
            seen = [
                controls[task.name][0] if task.name in controls else shop.control(task)
                for task in tasks
                if not task.unseen
            ]
            experimental = shop.merged(seen, settings.merge_coefficient)
        else:
            experimental = shop.mixture(settings.rows_per_cluster)
    return TunedModels(controls, experimental)
