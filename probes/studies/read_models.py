"""A suite as every model of a layer-by-layer study sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from probes.studies.comparison import TaskModels
from probes.studies.inputs import SuiteActivations, read_suite
from probes.studies.model_set import TunedModels
from probes.studies.tuned_models import Workshop
from probes.tasks import Task
from probes.values import Reading


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


def read_models(shop: Workshop, models: TunedModels, *, splits: Sequence[str]) -> ReadModels:
    """Read the suite with base and experimental model, and each task's test rows with its controls.

    Args:
        shop: Reads tuned models.
        models: All of a study's; the experimental model is among them.
        splits: What base and experimental model read.
    """
    tasks = shop.suite.tasks
    base = read_suite(shop.suite, shop.base, shop.extraction, shop.cache_dir, splits=splits)
    assert models.experimental is not None  # only `only_models` leaves it out
    experimental = shop.read(models.experimental, tasks, splits=splits)
    controls = {
        task.name: [shop.read(model, [task], splits=("test",)) for model in models.controls[task.name]]
        for task in tasks
    }
    return ReadModels(base, experimental, controls)
