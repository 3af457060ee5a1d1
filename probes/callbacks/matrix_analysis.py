"""One instance, many trainers: each adds its task's column; the last word is what lies between tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from transformers import PreTrainedModel
from typing_extensions import override

from probes.activations import extract
from probes.analysis import BetweenTasks, Column, ColumnTable, Findings, TaskMeasure, TaskRows
from probes.analysis.layer_analysis import between_columns, sample_rows, task_columns, task_rows
from probes.analysis.similarity.permutation_null import Tail
from probes.analysis.table import LIVE
from probes.backbones import FrozenBackbone, frozen_view
from probes.report import BandedProfiles, Curve, RunLogger, report_bands, report_run
from probes.training import TaskData
from probes.values import Activations, Layer, LayerByTask, Reading, Result


@dataclass
class LiveRows:
    """Texts whose layers are watched while a model is tuned.

    Attributes:
        base: The backbone tuning starts from; its tokenizer, stack and layers are used, and its activations of the
            same texts are what layers are compared with.
        texts: Task → prompts.
        labels: Task → labels as measures expect them; tasks without are left out.
    """

    base: FrozenBackbone
    texts: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, Tensor]
    _start: dict[str, Activations] = field(default_factory=dict)

    def before(self, task: str) -> Activations:
        """The base's activations of a task's texts, read once."""
        if task not in self._start:
            self._start[task] = extract(self.base, self.texts[task])
        return self._start[task]

    def now(self, model: PreTrainedModel) -> Iterator[tuple[str, Activations]]:
        """The live model's activations of each task's texts."""
        options = {"stack": self.base.stacks, "layers": self.base.layer_spec}
        with frozen_view(model, self.base.tokenizer.wrapped, name="in training", **options) as live:
            for task, texts in self.texts.items():
                yield task, extract(live, texts)


def language_model(module: nn.Module) -> PreTrainedModel:
    """The transformers model inside a module.

    Raises:
        ValueError: There is none.
    """
    for part in module.modules():
        if isinstance(part, PreTrainedModel):
            return part
    raise ValueError(
        f"Reading a live model expects a module that holds one of transformers; got {type(module).__name__}."
    )


def summary_of(found: Findings, *, primary: Reading | None) -> dict[str, float]:
    """`mean/<quantity>` over layers and tasks of the primary reading, and `boundaries/<quantity>` between its bands."""
    means = {
        f"mean/{matrix.quantity}": float(np.nanmean(matrix.values))
        for matrix in found.matrices
        if matrix.reading == primary and np.isfinite(matrix.values).any()
    }
    counts = {
        f"boundaries/{columns[0].name}": float(len(segments.boundaries))
        for columns, segments in found.segmented
        if columns[0].reading == primary
    }
    return means | counts


def banded_profiles(found: Findings) -> list[BandedProfiles]:
    """The columns whose layers were parted into bands, as curves."""
    return [
        BandedProfiles(of[0].name, of[0].unit, of[0].reading, tuple(curve_of(column) for column in of), segments.bands)
        for of, segments in found.segmented
    ]


def curve_of(column: Column) -> Curve:
    """One column with its 95 % intervals."""
    return Curve(column.task, column.layers, column.estimates.values, *column.interval())


Reference = Callable[[str, Reading], Activations]
"""A task's name and a reading to another backbone's activations of the task's test rows."""


class Report(NamedTuple):
    """What was reported: the rows of `results.csv`, and the heatmaps, a study's own first."""

    results: list[Result]
    heatmaps: list[Path]


class MatrixAnalysis(Callback):
    """Measures what every layer holds of every task, while the tasks' probes are trained.

    Give one instance to the trainers of all tasks. When a fit or test on an `ActivationDataModule` ends, the test rows
    of its task are measured, once a task and reading; `finish` computes what lies between tasks and reports every
    quantity once. Nothing happens on other ranks than zero.

    Args:
        measures: Quantities of one task; those whose needs are not met are left out.
        between: Quantities of all tasks together, in a column of their own.
        specificity_of: Names of quantities to double-centre, layer by task; `*` stands for anything.
        segments_of: Names of quantities whose spread over tasks parts layers into bands; `*` as above.
        tail: `counted`, or `moments` for p smaller than permutations can count; see `family_wise_p`.
        rows_per_task: Rows of each task, drawn by `seed`, that quantities between tasks see.
        seed: Decides these rows.
        reference: Gives another backbone's activations of the same rows.
        live: Rows to read off the model in training itself, such as an `InstructionTuner`'s: each time adds a column
            `step_<n>` to a matrix of each measure and task, so that layers can be watched while they change.
        every_n_steps: Optimizer steps between such readings; the first is before training.
    """

    def __init__(
        self,
        measures: Mapping[str, TaskMeasure] | None = None,
        *,
        between: Mapping[str, BetweenTasks] | None = None,
        specificity_of: Sequence[str] = (),
        segments_of: Sequence[str] = (),
        tail: Tail = "counted",
        rows_per_task: int = 64,
        seed: int = 0,
        reference: Reference | None = None,
        live: LiveRows | None = None,
        every_n_steps: int | None = None,
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"`callbacks.every_n_steps` expects at least 1, or null; got {every_n_steps}.")
        super().__init__()
        self.measures, self.between = tuple((measures or {}).values()), tuple((between or {}).values())
        self.table = ColumnTable(specificity_of=specificity_of, segments_of=segments_of, tail=tail)
        self.reference, self.live, self.every_n_steps = reference, live, every_n_steps
        self.rows_per_task, self.seed = rows_per_task, seed
        self._rows: dict[tuple[Reading, str], dict[str, Tensor]] = {}
        self._layers: dict[Reading, tuple[Layer, ...]] = {}
        self._steps_read: set[int] = set()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch(trainer, pl_module)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._watch(trainer, pl_module)

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

    def _watch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the live model if this step is due and has not been read."""
        live, every, step = self.live, self.every_n_steps, trainer.global_step
        if live is None or every is None or not trainer.is_global_zero or step % every or step in self._steps_read:
            return
        self._steps_read.add(step)
        for task, now in live.now(language_model(pl_module)):
            rows = TaskRows(now.values, live.labels.get(task), live.before(task).values)
            self._keep(task_columns(self.measures, rows, now, task=f"step_{step}", role=f"{LIVE}{task}"))

    def _keep(self, columns: Iterable[Column]) -> None:
        for column in columns:
            self.table.add(column)

    def add_task(self, data: TaskData) -> None:
        """Measure a task's test rows, unless that was done before: several fits may belong to one task."""
        test = data.test
        if data.task not in self._rows.get((test.activations.reading, ""), {}):
            self.add_rows(data.task, test.activations, test.targets)

    def add_rows(self, task: str, activations: Activations, labels: Tensor | None = None, *, role: str = "") -> None:
        """Measure some rows of a task and keep a sample of them for what lies between tasks.

        Args:
            task: Name of the task.
            activations: Of these rows.
            labels: Class indices, numbers or 0/1 entries; `None` without labels.
            role: Which model they are of, where a study compares several.
        """
        reading = activations.reading
        reference = None if self.reference is None else self.reference(task, reading)
        rows = task_rows(activations, labels, reference)
        self._layers[reading] = activations.layers
        most = self.rows_per_task if self.between else 0
        self._rows.setdefault((reading, role), {})[task] = sample_rows(rows.values, most, seed=self.seed)
        self._keep(task_columns(self.measures, rows, activations, task=task, role=role))

    def findings(self) -> Findings:
        """Everything measured so far and what follows from it."""
        for (reading, role), rows in self._rows.items():
            self._keep(between_columns(self.between, [*rows.values()], self._layers[reading], reading, role=role))
        return self.table.findings()

    def finish(
        self,
        output_dir: Path,
        *,
        logger: RunLogger,
        results: Iterable[Result] = (),
        matrices: Sequence[LayerByTask] = (),
        best_layers: Mapping[str, Layer] | None = None,
        describe: Callable[[Result], Result] = lambda result: result,
    ) -> Report:
        """Compute what lies between tasks, and report every quantity once.

        Args:
            output_dir: The run's folder.
            logger: Told each quantity.
            results: The study's own rows of `results.csv`, which come first.
            matrices: The study's own quantities, which come first.
            best_layers: Each task's layer chosen on validation.
            describe: Fills in what a study knows of a result: names of study, backbone, suite and cluster.

        Returns:
            All results, the study's own first, and the heatmaps.
        """
        found = self.findings()
        everything = [*results, *map(describe, found.results)]
        heatmaps = report_run(
            output_dir,
            results=everything,
            matrices=[*matrices, *found.matrices],
            best_layers=best_layers or {},
            logger=logger,
            summary=summary_of(found, primary=next(iter(self._layers), None)),
        )
        report_bands(output_dir, banded_profiles(found), logger=logger, primary=next(iter(self._layers), None))
        return Report(everything, heatmaps)
