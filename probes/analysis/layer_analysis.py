"""Measures turned to columns; where rows do not suffice a column says so, and a run is not lost for one cell."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from probes.analysis.join import at_layers, join_rows, match_layers
from probes.analysis.measures import BetweenTasks, TaskMeasure, TaskRows
from probes.analysis.table import ALL_TASKS, Column
from probes.values import Activations, Estimates, Layer, Reading

_log = logging.getLogger(__name__)


def task_rows(activations: Activations, labels: Tensor | None = None, other: Activations | None = None) -> TaskRows:
    """What measures see of one task.

    Args:
        activations: Of these rows.
        labels: Of the same rows; `None` without labels.
        other: Another model's activations: rows either lacks are left out, layers stand beside those that match.
    """
    if other is None:
        return TaskRows(activations.values, labels)
    joined = join_rows(activations, other)
    if labels is not None and joined.x is not activations:
        kept = set(joined.x.row_ids)
        labels = labels[[row in kept for row in activations.row_ids]]
    matched = match_layers(activations.layers, joined.y.layers)
    return TaskRows(joined.x.values, labels, at_layers(joined.y, matched))


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


def task_columns(
    measures: Iterable[TaskMeasure], rows: TaskRows, read: Activations, *, task: str, role: str = ""
) -> list[Column]:
    """A column of one task for each measure whose needs are met.

    Args:
        measures: What to measure.
        rows: Of which rows.
        read: The activations these are from, which name layers and reading.
        task: Name of the column.
        role: Which model they are of, where a study compares several.
    """
    columns = []
    for own in measures:
        if own.needs == "rows" or getattr(rows, own.needs) is not None:
            estimates = _measured(partial(own, rows), read.layers, f"{own.quantity} of '{task}'")
            columns.append(Column(own.quantity, own.unit, task, read.reading, read.layers, estimates, role))
    return columns


def between_columns(
    measures: Iterable[BetweenTasks],
    rows_by_task: Sequence[Tensor],
    layers: tuple[Layer, ...],
    reading: Reading,
    *,
    role: str = "",
) -> list[Column]:
    """A column of all tasks together for each measure; none for fewer than two tasks with rows.

    Args:
        measures: What to measure.
        rows_by_task: Some rows of each task, `(layers, rows, features)`.
        layers: Names of the layers.
        reading: Stack, site and pooling.
        role: Which model they are of, where a study compares several.
    """
    known = [rows for rows in rows_by_task if rows.numel()]
    if len(known) < 2:
        return []
    columns = []
    for own in measures:
        estimates = _measured(partial(own, known), layers, own.quantity)
        columns.append(Column(own.quantity, own.unit, ALL_TASKS, reading, layers, estimates, role))
    return columns


def _measured(measure: Callable[[], Estimates], layers: tuple[Layer, ...], name: str) -> Estimates:
    try:
        return measure()
    except ValueError as error:
        _log.warning("No %s: %s", name, error)
        return Estimates(np.full(len(layers), np.nan), 0, note=str(error))
