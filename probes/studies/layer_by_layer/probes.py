"""Probes on base and experimental model, in the same cells, and what tuning changes in what they decode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from probes.analysis.between_tasks.tuning_gain import paired_difference
from probes.metrics import MAIN_METRIC
from probes.studies.suite_activations import SuiteActivations, task_data
from probes.tasks import Suite
from probes.trainers import TrainerFactory
from probes.training import ProbeSettings, fit_task
from probes.values import LayerProfile


def probe_roles(
    suite: Suite,
    roles: Mapping[str, SuiteActivations],
    probe: ProbeSettings,
    trainer: TrainerFactory,
    seed: int,
) -> Iterator[LayerProfile]:
    """Train probes on two models' activations of the tasks with labels.

    Args:
        suite: The tasks; those without labels are left out.
        roles: Role → its activations of all splits; two of them, the second compared with the first.
        probe: How probes are trained.
        trainer: Makes the trainers.
        seed: Decides folds, controls and resamples, the same for all roles.

    Yields:
        Each task's scores in both roles, then `probe_gain/<main metric>`: second role less first, errors paired.
    """
    first = next(iter(roles.values()))
    tasks = [task for task in suite.tasks if task.kind != "generation"]
    for reading, task in ((reading, task) for reading in first.layers for task in tasks):
        scores = []
        for role, activations in roles.items():
            data = task_data(task, activations, reading)
            fit = fit_task(data, probe, trainer, seed)
            yield from (replace(profile, role=role) for profile in fit.profiles)
            scores.append(fit.profile(MAIN_METRIC[data.kind]))
        before, after = scores
        if before.estimates.errors is not None:
            gain = paired_difference(after.estimates, before.estimates)
            quantity = f"probe_gain/{before.metric}"
            yield LayerProfile(
                quantity=quantity,
                unit=before.unit,
                task=task.name,
                reading=reading,
                layers=before.layers,
                estimates=gain,
            )
