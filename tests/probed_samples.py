"""Tasks with a planted answer, and their probes, as measures of probes are given them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from planted_tasks import EXACT, fit, planted_task

from probes.probe_measures import ProbedTask, TaskTable
from probes.tasks import Split, Task
from probes.training import ProbeSettings, TaskData, TaskProbes, default_trainer
from probes.values import LayerProfile

FEW = replace(EXACT, penalties=(0.01, 0.1, 1.0, 10.0), controls=0, permutations=0, bootstrap_samples=50)


def probed(
    data: TaskData | None = None, *, settings: ProbeSettings = FEW, seed: int = 0, **planted: object
) -> ProbedTask:
    """A task, by default `planted_task(**planted)`, with its probes and prompts that are the names of its rows."""
    data = planted_task(seed=seed, **planted) if data is None else data  # type: ignore[arg-type]
    splits = {
        name: Split(
            prompts=tuple(f"text {row}" for row in split.activations.row_ids),
            labels=tuple(split.targets.tolist()),
            targets=("",) * len(split.targets),
        )
        for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test))
    }
    task = Task(name=data.task, kind=data.kind, labels=data.labels, splits=splits)
    return ProbedTask(
        task=task, data=data, fit=fitted(data, settings, seed), settings=settings, trainer=default_trainer, seed=seed
    )


def fitted(data: TaskData, settings: ProbeSettings, seed: int) -> TaskProbes:
    return fit(data, settings, seed=seed)


def profiles_of(found: Iterable[LayerProfile | TaskTable]) -> dict[str, LayerProfile]:
    """Profiles by quantity, with `@control` where there is one."""
    profiles = [item for item in found if isinstance(item, LayerProfile)]
    return {item.quantity + (f"@{item.control}" if item.control else ""): item for item in profiles}


def tables_of(found: Iterable[LayerProfile | TaskTable]) -> dict[str, TaskTable]:
    """Tables by name."""
    return {item.name: item for item in found if isinstance(item, TaskTable)}
