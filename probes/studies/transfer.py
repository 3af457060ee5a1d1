"""Do the probes of one task serve another? All pairs of tasks with the same labels, layer by layer."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from probes.activations import ExtractionSettings
from probes.analysis import LayerAnalysis, LayerTable
from probes.backbones import FrozenBackbone
from probes.metrics import MAIN_METRIC
from probes.probe_measures.protocol import refuse_fewer
from probes.probe_measures.transfer import (
    TrainedTask,
    angle_profile,
    probe_directions,
    share_labels,
    transfer_profiles,
)
from probes.progress import tracked
from probes.report import layer_table, path_lines, print_screen, report_findings, write_report
from probes.studies.probe import with_labels
from probes.studies.run_context import RunContext
from probes.studies.suite_activations import SuiteActivations, facts_of, names_of, read_suite, task_data
from probes.tasks import Suite, divided
from probes.trainers import TrainerFactory
from probes.training import ProbeSettings, fit_task, is_exact
from probes.values import Reading

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TransferStudy:
    """The probe of each task on the rows of every other task with the same labels, beside that task's own probe.

    Attributes:
        name: Names the study in `results.csv`.
        divide_by: A column of the rows (`suite.nuisances`), such as a domain or a template, by whose values each task
            is divided into tasks of its own; `None` for whole tasks.
        centred: Whether a task's rows are shifted to the mean of the other task's training rows before its probe reads
            them, so that what all texts of a task share is no evidence for a class.
        resamples: Of the test rows, behind each interval; 0 for none.
        permutations: Draws of each null; 0 for none.
        training_sets: Halves of the training rows on which directions are refitted, for intervals of cosines; 0: none.
        shuffles: Of the training labels, whose directions are the null of cosines; 0 for none.

    Raises:
        ValueError: A number is less.
    """

    name: str = "transfer"
    divide_by: str | None = None
    centred: bool = True
    resamples: int = 1000
    permutations: int = 200
    training_sets: int = 10
    shuffles: int = 20

    def __post_init__(self) -> None:
        refuse_fewer(self, "study", resamples=0, permutations=0, training_sets=0, shuffles=0)

    def run(
        self,
        context: RunContext,
        *,
        backbone: Callable[[], FrozenBackbone],
        suite: Callable[[], Suite],
        extraction: ExtractionSettings,
        probe: ProbeSettings,
        trainer: TrainerFactory,
        analysis: LayerAnalysis,
    ) -> float:
        """Read every layer once, train the probes of each task, and apply them to the other tasks.

        Args:
            context: Logger, seed, folders, config.
            backbone: Loads the backbone; called after the suite was found to be in order.
            suite: Loads and checks the tasks.
            extraction: Poolings, sites, lengths.
            probe: Architecture and training of the probes.
            trainer: Makes the Lightning trainer of one task.
            analysis: Holds all findings; its measures are not taken.

        Returns:
            Mean over pairs and layers of the transferred score minus that of the task's own probe.

        Raises:
            ValueError: No two tasks have the same labels; or bad input, as the packages it passes through say.
        """
        with context.stage("tasks"):
            loaded_suite = with_labels(suite())
            if self.divide_by is not None:
                parts = [part for task in loaded_suite.tasks for part in divided(task, self.divide_by)]
                loaded_suite = Suite(loaded_suite.name, tuple(parts))
            _check_pairs(loaded_suite)
        with context.logged():
            with context.stage("backbone"):
                loaded = backbone()
            with context.stage("activations"):
                activations = read_suite(loaded_suite, loaded, extraction, context.cache_dir)
            del loaded
            loaded_suite = activations.readable(loaded_suite)
            context.provenance.record(facts_of(loaded_suite, activations))
            names = names_of(self.name, loaded_suite, activations.backbone)
            best = {}
            for number, reading in enumerate(activations.layers):
                trained = self._trained(context, loaded_suite, activations, reading, probe, trainer, analysis.table)
                if number == 0:
                    fits = {name: task.fit.best_layers for name, task in trained.items()}
                    best = {name: layers for name, layers in fits.items() if layers is not None}
                with context.stage("transfer"):
                    self._add_pairs(list(trained.values()), analysis.table, probe, seed=context.seed)
            with context.stage("report"):
                report = report_findings(
                    context.output_dir, analysis.finish(), names=names, logger=context.logger, best_layers=best
                )
                values = [row.value for row in report.results if row.metric.startswith("transfer/minus_own_")]
                objective = context.log_objective(float(np.nanmean(values)) if np.isfinite(values).any() else math.nan)
        page = write_report(context.output_dir)
        metric = "minus_own_" + MAIN_METRIC["regression" if _is_regression(loaded_suite) else "classification"]
        lines = path_lines(report=page, picture=report.heatmaps[0], everything=context.output_dir)
        print_screen(layer_table(report.results, f"transfer/{metric}"), *lines)
        return objective

    def _trained(
        self,
        context: RunContext,
        suite: Suite,
        activations: SuiteActivations,
        reading: Reading,
        probe: ProbeSettings,
        trainer: TrainerFactory,
        table: LayerTable,
    ) -> dict[str, TrainedTask]:
        """Every task with its probes; their scores go into the table."""
        trained = {}
        tasks = [task for task in suite.tasks if reading in activations.readings(task)]
        for task in tracked(tasks, "tasks probed", total=len(tasks)):
            with context.stage("probes"):
                data = task_data(task, activations, reading)
                trained[task.name] = TrainedTask(data, fit_task(data, probe, trainer, context.seed))
                table.add(trained[task.name].fit.profiles)
        return trained

    def _add_pairs(self, tasks: list[TrainedTask], table: LayerTable, probe: ProbeSettings, *, seed: int) -> None:
        draws = {"resamples": self.resamples, "permutations": self.permutations, "seed": seed}
        pairs = [(one, other) for one, other in permutations(tasks, 2) if share_labels(one.data, other.data)]
        linear = [task for task in tasks if task.fit.probes.bank is not None and _is_linear(task, probe)]
        directions = {
            task.data.task: probe_directions(task, probe, sets=self.training_sets, shuffles=self.shuffles, seed=seed)
            for task in linear
        }
        done: set[frozenset[str]] = set()
        for source, target in pairs:
            table.add(transfer_profiles(source, target, centred=self.centred, **draws))
            names = frozenset((source.data.task, target.data.task))
            if names <= directions.keys() and names not in done:
                table.add([angle_profile(source, target, directions=directions)])
                done.add(names)


def _check_pairs(suite: Suite) -> None:
    spaces = [(task.kind, frozenset(task.labels)) for task in suite.tasks]
    if len(set(spaces)) == len(spaces):
        known = "; ".join(f"{task.name}: {', '.join(task.labels) or task.kind}" for task in suite.tasks)
        raise ValueError(
            f"No two tasks of suite '{suite.name}' have the same labels ({known}). Map labels to common ones with "
            "`suite.align`, choose other tasks with `suite.tasks`, or divide a task by a column with `study.divide_by`."
        )


def _is_linear(task: TrainedTask, probe: ProbeSettings) -> bool:
    probes = task.fit.probes
    return is_exact(probe, probes.architecture(probes.in_features, probes.num_classes))


def _is_regression(suite: Suite) -> bool:
    return all(task.kind == "regression" for task in suite.tasks)
