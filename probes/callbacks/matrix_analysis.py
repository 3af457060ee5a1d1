"""One instance, many trainers: each adds its task's column; the last word is what lies between tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from typing_extensions import override

from probes.analysis import (
    BetweenTasks,
    Column,
    TaskMeasure,
    TaskRows,
    at_layers,
    column_results,
    join_rows,
    match_layers,
    specificity_results,
)
from probes.report import Tracker, report_run
from probes.training import TaskData
from probes.values import Activations, Layer, LayerByTask, Reading, Result

Reference = Callable[[str, Reading], Activations]
"""A task's name and a reading to another backbone's activations of the task's test rows."""

ALL_TASKS = "all_tasks"
"""Column of what lies between tasks."""


@dataclass(frozen=True)
class Findings:
    """What an analysis found: rows of `results.csv`, each quantity as a matrix, and its pictures once reported."""

    results: list[Result]
    matrices: list[LayerByTask]
    heatmaps: Sequence[Path] = ()


class MatrixAnalysis(Callback):
    """Measures what every layer holds of every task, while the tasks' probes are trained.

    Give one instance to the trainers of all tasks. When a fit or test on an `ActivationDataModule` ends, the test rows
    of its task are measured, once a task and reading; `finish` computes what lies between tasks and reports every
    quantity once. Nothing happens on other ranks than zero.

    Args:
        measures: Quantities of one task; those whose needs are not met are left out.
        between: Quantities of all tasks together, in a column of their own.
        specificity_of: Names of quantities to double-centre, layer by task; `*` stands for anything.
        rows_per_task: Rows of each task, drawn by `seed`, that quantities between tasks see.
        seed: Decides these rows.
        reference: Gives another backbone's activations of the same rows.
    """

    def __init__(
        self,
        measures: Mapping[str, TaskMeasure] | None = None,
        *,
        between: Mapping[str, BetweenTasks] | None = None,
        specificity_of: Sequence[str] = (),
        rows_per_task: int = 64,
        seed: int = 0,
        reference: Reference | None = None,
    ) -> None:
        super().__init__()
        self.measures, self.between = tuple((measures or {}).values()), tuple((between or {}).values())
        self.specificity_of, self.reference = tuple(specificity_of), reference
        self.rows_per_task, self.seed = rows_per_task, seed
        self._columns: dict[tuple[Reading, str], dict[str, Column]] = {}
        self._rows: dict[Reading, dict[str, Tensor]] = {}
        self._layers: dict[Reading, tuple[Layer, ...]] = {}
        self._reported_elsewhere: set[str] = set()

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look_at(trainer)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look_at(trainer)

    def _look_at(self, trainer: Trainer) -> None:
        data = getattr(getattr(trainer, "datamodule", None), "task_data", None)
        if trainer.is_global_zero and data is not None:
            self.add_task(data)

    def add_task(self, data: TaskData) -> None:
        """Measure a task's test rows, unless that was done before: several fits may belong to one task."""
        test = data.test
        if data.task not in self._rows.get(test.activations.reading, {}):
            self.add_rows(data.task, test.activations, test.targets)

    def add_rows(self, task: str, activations: Activations, labels: Tensor | None = None) -> None:
        """Measure some rows of a task and keep a sample of them for what lies between tasks."""
        rows = self._joined(task, activations, labels)
        reading, layers = activations.reading, activations.layers
        self._layers[reading] = layers
        generator = torch.Generator().manual_seed(self.seed)
        sample = torch.randperm(rows.values.shape[1], generator=generator)[: self.rows_per_task].sort().values
        self._rows.setdefault(reading, {})[task] = rows.values[:, sample].clone() if self.between else rows.values[:0]
        for measure in self.measures:
            if measure.needs == "rows" or getattr(rows, measure.needs) is not None:
                column = Column(measure.quantity, measure.unit, task, reading, layers, measure(rows))
                self._columns.setdefault((reading, measure.quantity), {})[task] = column

    def add_column(self, column: Column) -> None:
        """Take a quantity measured and reported elsewhere, such as a probe's score, for what is derived of it."""
        self._reported_elsewhere.add(column.quantity)
        self._columns.setdefault((column.reading, column.quantity), {})[column.task] = column

    def findings(self) -> Findings:
        """Everything measured so far and what follows from it."""
        results: list[Result] = []
        matrices: list[LayerByTask] = []
        for reading in self._rows:
            columns = {quantity: [*own.values()] for (of, quantity), own in self._columns.items() if of == reading}
            for quantity, own in columns.items():
                if quantity not in self._reported_elsewhere:
                    _keep(results, matrices, own[0], column_results(own))
            for quantity, own in columns.items():
                if len(own) > 1 and any(fnmatch(quantity, pattern) for pattern in self.specificity_of):
                    _keep(results, matrices, own[0], specificity_results(own))
            for column in self._between(reading):
                _keep(results, matrices, column, column_results([column]))
        return Findings(results, matrices)

    def finish(
        self,
        output_dir: Path,
        *,
        tracker: Tracker,
        results: Iterable[Result] = (),
        matrices: Sequence[LayerByTask] = (),
        best_layers: Mapping[str, Layer] | None = None,
        describe: Callable[[Result], Result] = lambda result: result,
    ) -> Findings:
        """Compute what lies between tasks, and report every quantity once.

        Args:
            output_dir: The run's folder.
            tracker: Told each quantity.
            results: The study's own rows of `results.csv`, which come first.
            matrices: The study's own quantities, which come first.
            best_layers: Each task's layer chosen on validation.
            describe: Fills in what a study knows of a result: names of study, backbone, suite and cluster.

        Returns:
            All of it, the study's own first.
        """
        found = self.findings()
        every = Findings([*results, *map(describe, found.results)], [*matrices, *found.matrices])
        heatmaps = report_run(
            output_dir,
            results=every.results,
            matrices=every.matrices,
            best_layers=best_layers or {},
            tracker=tracker,
        )
        return replace(every, heatmaps=heatmaps)

    def _joined(self, task: str, activations: Activations, labels: Tensor | None) -> TaskRows:
        if self.reference is None:
            return TaskRows(activations.values, labels)
        joined = join_rows(activations, self.reference(task, activations.reading))
        if labels is not None and joined.x is not activations:
            kept = set(joined.x.row_ids)
            labels = labels[[row in kept for row in activations.row_ids]]
        matched = match_layers(activations.layers, joined.y.layers)
        return TaskRows(joined.x.values, labels, at_layers(joined.y, matched))

    def _between(self, reading: Reading) -> list[Column]:
        rows = [own for own in self._rows[reading].values() if own.numel()]
        if len(rows) < 2:
            return []
        layers = self._layers[reading]
        return [Column(m.quantity, m.unit, ALL_TASKS, reading, layers, m(rows)) for m in self.between]


def _keep(results: list[Result], matrices: list[LayerByTask], column: Column, rows: list[Result]) -> None:
    results += rows
    matrices.append(LayerByTask.pivot(rows[0].metric, column.unit, rows, column.reading))
