"""Probes on base and experimental model, and how well every tuned model answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from probes.analysis import Column
from probes.analysis.between_tasks.tuning_gain import difference
from probes.metrics import MAIN_METRIC, UNITS
from probes.studies.layer_by_layer.models import MIXTURE, TunedModels
from probes.studies.suite_activations import SuiteActivations, task_data
from probes.tasks import Suite
from probes.training import ProbeSettings, TrainerFactory, fit_task
from probes.tuning import AnswerScores, TunedModel
from probes.values import LayerByTask, Reading, Result


@dataclass(frozen=True)
class RoleProbes:
    """Probes' results with their roles, the columns of their main scores, and those of the gain of the second role."""

    results: list[Result]
    scores: list[Column]
    gains: list[Column]


def score_matrices(results: Iterable[Result]) -> list[LayerByTask]:
    """Each role's main test scores and selectivity as matrices, `<role>/<metric>`."""
    wanted = {*MAIN_METRIC.values(), "selectivity"}
    groups: dict[tuple[str, str, Reading], list[Result]] = {}
    for result in results:
        if result.layer is not None and result.split == "test" and not result.control and result.metric in wanted:
            reading = Reading(result.stack, result.site, result.pooling)
            groups.setdefault((result.role, result.metric, reading), []).append(result)
    return [
        LayerByTask.pivot(f"{role}/{metric}", UNITS[metric], own, reading)
        for (role, metric, reading), own in groups.items()
    ]


def probe_roles(
    suite: Suite,
    roles: Mapping[str, SuiteActivations],
    probe: ProbeSettings,
    trainer: TrainerFactory,
    seed: int,
) -> RoleProbes:
    """Train probes on two models' activations of the tasks with labels.

    Args:
        suite: The tasks; those without labels are passed over.
        roles: Role → its activations of all splits; two of them, the second compared with the first.
        probe: How probes are trained.
        trainer: Makes the trainers.
        seed: Decides folds, controls and resamples, alike for all roles.
    """
    found = RoleProbes([], [], [])
    first = next(iter(roles.values()))
    tasks = [task for task in suite.tasks if task.kind != "generation"]
    for reading, task in ((reading, task) for reading in first.layers for task in tasks):
        columns: list[Column] = []
        for role, activations in roles.items():
            data = task_data(task, activations, reading)
            fit = fit_task(data, probe, trainer, seed)
            found.results.extend(replace(result, role=role) for result in fit.results)
            quantity = f"probe/{MAIN_METRIC[data.kind]}"
            unit = UNITS[MAIN_METRIC[data.kind]]
            columns.append(Column(quantity, unit, task.name, reading, data.layers, fit.estimates[quantity], role=role))
        before, after = columns
        found.scores.extend(columns)
        if before.estimates.errors is not None:
            gain = difference(after.estimates, before.estimates)
            name = f"probe_gain/{before.quantity.removeprefix('probe/')}"
            found.gains.append(replace(after, quantity=name, role="", estimates=gain))
    return found


METRICS = {"answer_loss_nats": "test_loss", "exact_match": "exact_match", "rouge_l": "rouge_l", "chrf": "chrf"}
"""Metric in `results.csv` → field of `AnswerScores`."""


def learning_results(models: TunedModels, *, seed: int) -> list[Result]:
    """Scores of each task's answers by the base and by each of its controls, and of the mixture's by its model.

    Args:
        models: The tuned models.
        seed: That of the first controls and the experimental model; repeats count up from it.
    """
    results = []
    for task, controls in models.controls.items():
        results += _answer_results(task, "base", controls[0].base)
        for repeat, model in enumerate(controls):
            results += _answer_results(task, "control", model.tuned, seed=seed + repeat, model=model)
    if models.experimental is not None:
        results += _answer_results(MIXTURE, "base", models.experimental.base)
        results += _answer_results(
            MIXTURE, "experimental", models.experimental.tuned, seed=seed, model=models.experimental
        )
    return results


def _answer_results(
    task: str, role: str, scores: AnswerScores, *, seed: int | None = None, model: TunedModel | None = None
) -> list[Result]:
    results = []
    for metric, field in METRICS.items():
        rows = scores.n_test if field == "test_loss" else scores.n_answered
        note = "not scored" if rows == 0 else "" if model is None else f"{model.steps} steps"
        results.append(
            Result(
                role=role,
                task=task,
                split="test",
                seed=seed,
                metric=metric,
                value=getattr(scores, field),
                n=rows,
                note=note,
            )
        )
    return results
