"""What every layer holds of every task, measured from activations alone: the analysis behind all studies."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.analysis.join import join_rows, layer_remarks, match_layers, values_at_layers
from probes.analysis.measures import BetweenTasks, TaskMeasure, TaskRows
from probes.analysis.significance import Tail
from probes.analysis.table import Findings, LayerTable
from probes.values import ALL_TASKS, Activations, Estimates, Layer, LayerProfile, Reading

_log = logging.getLogger(__name__)


class LayerAnalysis:
    """Measures rows of one task after another; what lies between tasks is computed at the end.

    `add` measures some rows of a task and puts a profile of each quantity into `table`; `finish` adds the quantities
    between tasks and everything that follows from the table. Profiles computed elsewhere, such as scores of probes, go
    into the same table: `analysis.table.add(profiles)`. A quantity that rows do not suffice for becomes a profile
    without values that says why, so that a run is not lost for one cell.

    Args:
        measures: Quantities of one task; those whose needs are not met are left out.
        between: Quantities of all tasks together, in a column of their own.
        specificity_of: Names of quantities to double-centre, layer by task; `*` stands for anything.
        segments_of: Names of quantities whose spread over tasks divides the layers into bands; `*` as above.
        probe_measures: Quantities of one task that need its probes; studies that train probes take them
            (`probes.probe_measures`).
        tail: `counted`, or `moments` for p smaller than permutations can count; see `permutation_p`.
        rows_per_task: Rows of each task, drawn by `seed`, that quantities between tasks use.
        seed: Decides these rows; 0 is a seed like any other.

    >>> from probes.analysis import LabelCKA
    >>> analysis = LayerAnalysis({"label_cka": LabelCKA(permutations=0)})
    >>> rows = torch.randn(2, 60, 4, generator=torch.Generator().manual_seed(0))
    >>> reading = Reading("decoder", "residual", "last")
    >>> analysis.add("task", Activations(rows, (0, 1), tuple(map(str, range(60))), reading), (rows[1, :, 0] > 0).long())
    >>> (profile,) = analysis.finish().profiles
    >>> profile.quantity, profile.estimates.values.round(2).tolist()
    ('label_cka', [-0.02, 0.25])
    """

    def __init__(
        self,
        measures: Mapping[str, TaskMeasure] | None = None,
        *,
        between: Mapping[str, BetweenTasks] | None = None,
        specificity_of: Sequence[str] = (),
        segments_of: Sequence[str] = (),
        probe_measures: Mapping[str, Any] | None = None,
        tail: Tail = "counted",
        rows_per_task: int = 64,
        seed: int = 0,
    ) -> None:
        self.measures, self.between = tuple((measures or {}).values()), tuple((between or {}).values())
        self.probe_measures = tuple((probe_measures or {}).values())
        self.table = LayerTable(specificity_of=specificity_of, segments_of=segments_of, tail=tail)
        self.rows_per_task, self.seed = rows_per_task, seed
        self._samples: dict[tuple[Reading, str], dict[str, Tensor]] = {}
        self._layers: dict[Reading, tuple[Layer, ...]] = {}

    def has(self, task: str, reading: Reading, *, role: str = "") -> bool:
        """Whether rows of a task have been measured under a reading."""
        return task in self._samples.get((reading, role), {})

    def add(
        self,
        task: str,
        activations: Activations,
        labels: Tensor | None = None,
        *,
        reference: Activations | None = None,
        role: str = "",
    ) -> None:
        """Measure some rows of a task, and keep a sample of them for what lies between tasks.

        Args:
            task: Name of the task.
            activations: Of these rows.
            labels: Class indices, numbers or 0/1 entries of the same rows; `None` without labels.
            reference: Another model's activations of the task: rows that either side lacks are left out.
            role: Which model the rows are of, where a study compares several.
        """
        rows = matched_rows(activations, labels, reference)
        self._layers[activations.reading] = activations.layers
        most = self.rows_per_task if self.between else 0
        sample = sample_rows(rows.values, most, seed=self.seed)
        self._samples.setdefault((activations.reading, role), {})[task] = sample
        self.add_rows(rows, activations, task=task, role=role)

    def add_rows(self, rows: TaskRows, activations: Activations, *, task: str, role: str = "") -> None:
        """Measure rows that are already matched, without a sample for what lies between tasks.

        Args:
            rows: What measures are given.
            activations: The activations these rows are from, which name layers and reading.
            task: Name of the profiles' task.
            role: Which model the rows are of.
        """
        self.table.add(task_profiles(self.measures, rows, activations, task=task, role=role))

    def finish(self) -> Findings:
        """Measure what lies between tasks, and return everything that was measured and what follows from it.

        Tasks are taken in the order of their names, so that random draws and rounding do not depend on another order.
        Those whose vectors are wider than most, since they are of pairs of words, are left out.
        """
        for (reading, role), samples in self._samples.items():
            rows = of_one_space([sample for _, sample in sorted(samples.items()) if sample.numel()])
            if len(rows) > 1:
                self.table.add(between_profiles(self.between, rows, self._layers[reading], reading, role=role))
        return self.table.findings()


def matched_rows(activations: Activations, labels: Tensor | None = None, other: Activations | None = None) -> TaskRows:
    """What measures are given of one task.

    Args:
        activations: Of some rows.
        labels: Of the same rows; `None` without labels.
        other: Another model's activations: rows that either lacks are left out, and each layer gets the layer of the
            other model that matches it (`match_layers`).
    """
    if other is None:
        return TaskRows(activations.values, labels)
    joined = join_rows(activations, other)
    if labels is not None and joined.x is not activations:
        kept = set(joined.x.row_ids)
        labels = labels[[row in kept for row in activations.row_ids]]
    layers = activations.layers
    matched = match_layers(layers, joined.y.layers, depth=activations.depth, other_depth=other.depth)
    return TaskRows(joined.x.values, labels, values_at_layers(joined.y, matched), layer_remarks(layers, matched))


def sample_rows(values: Tensor, most: int, *, seed: int) -> Tensor:
    """A seeded sample of rows, in their order.

    Args:
        values: Shape `(layers, rows, features)`.
        most: Rows at most.
        seed: Decides which.

    >>> sample_rows(torch.arange(5.0)[None, :, None], 3, seed=0).flatten().tolist()
    [0.0, 1.0, 4.0]
    """
    generator = torch.Generator().manual_seed(seed)
    return values[:, torch.randperm(values.shape[1], generator=generator)[:most].sort().values]


def of_one_space(rows_by_task: Sequence[Tensor]) -> list[Tensor]:
    """The tasks whose rows have the number of features that most have, the smallest of equally frequent numbers.

    >>> [rows.shape[-1] for rows in of_one_space([torch.ones(1, 2, width) for width in (8, 4, 8)])]
    [8, 8]
    """
    widths = Counter(rows.shape[-1] for rows in rows_by_task)
    width = min(widths, key=lambda one: (-widths[one], one), default=0)
    return [rows for rows in rows_by_task if rows.shape[-1] == width]


def task_profiles(
    measures: Iterable[TaskMeasure], rows: TaskRows, activations: Activations, *, task: str, role: str = ""
) -> list[LayerProfile]:
    """One task's profile of each measure whose needs are met; arguments as in `LayerAnalysis.add_rows`."""
    profiles = []
    for measure in measures:
        if measure.needs == "rows" or getattr(rows, measure.needs) is not None:
            layers = activations.layers
            estimates = _estimates(partial(measure, rows), layers, f"{measure.quantity} of '{task}'")
            if measure.needs == "reference" and any(rows.reference_remarks):
                estimates = replace(estimates, remarks=rows.reference_remarks)
            place = {"task": task, "reading": activations.reading, "role": role}
            profile = LayerProfile(
                quantity=measure.quantity, unit=measure.unit, layers=layers, estimates=estimates, **place
            )
            profiles.append(profile)
    return profiles


def between_profiles(
    measures: Iterable[BetweenTasks],
    rows_by_task: Sequence[Tensor],
    layers: tuple[Layer, ...],
    reading: Reading,
    *,
    role: str = "",
) -> list[LayerProfile]:
    """A profile of all tasks together for each measure.

    Args:
        measures: What to measure.
        rows_by_task: Some rows of each task, `(layers, rows, features)`; two tasks or more.
        layers: Names of the layers.
        reading: Stack, site and pooling.
        role: Which model the rows are of, where a study compares several.
    """
    return [
        LayerProfile(
            quantity=measure.quantity,
            unit=measure.unit,
            task=ALL_TASKS,
            reading=reading,
            role=role,
            layers=layers,
            estimates=_estimates(partial(measure, rows_by_task), layers, measure.quantity),
        )
        for measure in measures
    ]


def _estimates(measure: Callable[[], Estimates], layers: tuple[Layer, ...], name: str) -> Estimates:
    try:
        return measure()
    except ValueError as error:
        _log.warning("No %s: %s", name, error)
        return Estimates(np.full(len(layers), np.nan), 0, note=str(error))
