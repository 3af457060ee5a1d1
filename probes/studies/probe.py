"""What can a probe read out of each layer, task by task? The rooms in order, top to bottom."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from probes.activations import ExtractionSettings
from probes.analysis import Column
from probes.backbones import FrozenBackbone
from probes.callbacks import MatrixAnalysis
from probes.metrics import MAIN_METRIC, UNITS
from probes.report import RunLogger, print_best_layers, write_results
from probes.studies.run_context import Provenance
from probes.studies.suite_activations import (
    SuiteActivations,
    described,
    facts_of,
    matching_test_rows,
    read_suite,
    task_data,
)
from probes.tasks import Suite, Task
from probes.training import ProbeSettings, TaskData, TaskProbes, TrainerFactory, fit_task
from probes.values import LayerByTask, Reading, Result

_log = logging.getLogger(__name__)


def probe_study(
    *,
    backbone: Callable[[], FrozenBackbone],
    suite: Callable[[], Suite],
    extraction: ExtractionSettings,
    probe: ProbeSettings,
    trainer: TrainerFactory,
    callbacks: Callable[..., MatrixAnalysis],
    reference_backbone: Callable[[], FrozenBackbone] | None = None,
    logger: RunLogger,
    seed: int,
    cache_dir: Path,
    output_dir: Path,
    config: Mapping[str, Any],
    name: str = "probe",
) -> float:
    """Read every layer once, train a bank of probes a task, leave tables, figures, probes and provenance.

    Args:
        backbone: Loads the backbone; called after the suite was found to be in order.
        suite: Loads and checks the tasks.
        extraction: Poolings, sites, lengths.
        probe: Architecture and training of the probes.
        trainer: Makes the Lightning trainer of one task.
        callbacks: Makes the analysis that goes along with all trainers.
        reference_backbone: Loads a backbone whose layers the same rows are compared with.
        logger: Where numbers are logged besides files.
        seed: Decides initialisation, order, folds and control labels; never the data.
        cache_dir: Activations are kept under it.
        output_dir: Everything the run leaves.
        config: The whole config, for the record.
        name: Stands in `results.csv`.

    Returns:
        Mean over tasks of validation macro-F1 at the validation-best layer; negative MSE for regression.

    Raises:
        ValueError: No task has labels; or what the rooms raise on bad input.
    """
    provenance = Provenance(output_dir / "provenance.json")
    with provenance.stage("tasks"):
        loaded_suite = with_labels(suite())
    with logger.run(config, output_dir):
        with provenance.stage("backbone"):
            loaded = backbone()
        with provenance.stage("activations"):
            activations = read_suite(loaded_suite, loaded, extraction, cache_dir)
        del loaded
        provenance.record(facts_of(loaded_suite, activations))
        reference = None
        if reference_backbone is not None:
            with provenance.stage("reference activations"):
                reference = read_suite(loaded_suite, reference_backbone(), extraction, cache_dir, splits=("test",))
        analysis = callbacks(reference=reference and matching_test_rows(reference, loaded_suite, like=activations))
        with_analysis = partial(trainer, callbacks=[*_own_callbacks(trainer), analysis])
        common = Result(study=name, backbone=activations.backbone, suite=loaded_suite.name)
        if reference is not None:
            common = replace(common, reference=reference.backbone)
        fits: dict[Reading, dict[str, TaskProbes]] = {reading: {} for reading in activations.layers}
        results: list[Result] = []
        for reading, task in ((reading, task) for reading in fits for task in loaded_suite.tasks):
            with provenance.stage("probes"):
                data = task_data(task, activations, reading)
                fit = fit_task(data, probe, with_analysis, seed)
                analysis.add_task(data)  # if no trainer ran, because every layer is constant
                for column in _probe_columns(data, fit):
                    analysis.table.add(column, reported=False)
            fits[reading][task.name] = fit
            fit.save(_probe_file(output_dir, task, reading, first=next(iter(fits))), metadata=_identity(activations))
            results += [described(result, common=common, suite=loaded_suite) for result in fit.results]
            write_results(results, output_dir / "results.csv")  # after each task: a run that dies keeps what it has
        with provenance.stage("report"):
            primary = next(iter(fits.values()))
            best = {task: layer for task, fit in primary.items() if (layer := fit.validation_best_layer) is not None}
            matrices = [matrix for reading in fits for matrix in layer_by_task(results, reading)]
            found = analysis.finish(
                output_dir,
                logger=logger,
                results=results,
                matrices=matrices,
                best_layers=best,
                describe=partial(described, common=common, suite=loaded_suite),
            )
    classes = {task.name: len(task.labels) for task in loaded_suite.tasks if task.labels}
    print_best_layers(results, best_layers=best, figure=found.heatmaps[0], output_dir=output_dir, classes=classes)
    return _mean_of_known(fit.objective for fit in primary.values())


def with_labels(suite: Suite) -> Suite:
    """The tasks that probes can be trained on; the others are named once.

    Raises:
        ValueError: None is left.
    """
    without = [task.name for task in suite.tasks if task.kind == "generation"]
    if without:
        _log.info("%d tasks have no labels and are not probed: %s.", len(without), ", ".join(without))
    tasks = tuple(task for task in suite.tasks if task.kind != "generation")
    if not tasks:
        raise ValueError(
            f"Suite '{suite.name}' has no task with labels: {', '.join(without) or 'it is empty'}. "
            "Probing expects classification, multi-label or regression tasks: set `suite.tasks`."
        )
    return Suite(suite.name, tasks)


def layer_by_task(results: Sequence[Result], reading: Reading) -> list[LayerByTask]:
    """The test scores of trained probes as matrices, one a metric, the main one first."""
    of_reading = [
        r
        for r in results
        if (r.stack, r.site, r.pooling) == (reading.stack, reading.site, reading.pooling)
        and r.split == "test"
        and not r.control
        and r.layer is not None
    ]
    metrics = sorted(dict.fromkeys(r.metric for r in of_reading), key=lambda metric: metric not in MAIN_METRIC.values())
    return [
        LayerByTask.pivot(f"probe/{m}", UNITS[m], [r for r in of_reading if r.metric == m], reading) for m in metrics
    ]


def _mean_of_known(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _own_callbacks(trainer: TrainerFactory) -> list[Any]:
    """Callbacks that `conf/trainer` names."""
    return list(getattr(trainer, "keywords", {}).get("callbacks") or [])


def _probe_columns(data: TaskData, fit: TaskProbes) -> list[Column]:
    return [
        Column(quantity, UNITS[quantity.removeprefix("probe/")], data.task, data.reading, data.layers, estimates)
        for quantity, estimates in fit.estimates.items()
    ]


def _probe_file(output_dir: Path, task: Task, reading: Reading, *, first: Reading) -> Path:
    stem = task.name if reading == first else f"{task.name}@{reading}"
    return output_dir / "probes" / f"{stem}.safetensors"


def _identity(activations: SuiteActivations) -> dict[str, str]:
    return {"backbone": activations.backbone, "backbone_fingerprint": activations.fingerprint}
