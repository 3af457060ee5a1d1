"""Means over groups of tasks, such as clusters or tasks never seen in tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from probes.analysis.columns import Column
from probes.values import Estimates


def group_means(columns: Sequence[Column], group_of: Mapping[str, str]) -> list[Column]:
    """Mean of one quantity over the tasks of each group, a column a group.

    From three tasks up the error is that of the mean over tasks, drawn as if from many like them; below, that of the
    rows alone.

    Args:
        columns: Of one quantity and reading, a column a task.
        group_of: Task → group; other tasks are left out.
    """
    groups: dict[str, list[Column]] = {}
    for column in columns:
        if column.task in group_of:
            groups.setdefault(group_of[column.task], []).append(column)
    return [_mean(name, own) for name, own in groups.items()]


def _mean(name: str, columns: Sequence[Column]) -> Column:
    values = np.stack([column.estimates.values for column in columns])
    mean, count = values.mean(0), len(columns)
    errors: np.ndarray | None
    if count >= 3:
        errors = (values - mean) / np.sqrt(count * (count - 1))
    else:
        known = [column.estimates.errors for column in columns]
        errors = None if any(own is None for own in known) else np.concatenate(known) / count  # type: ignore[arg-type]
    rows = sum(column.estimates.n for column in columns)
    quantity = f"group_mean/{columns[0].quantity}"
    return replace(columns[0], quantity=quantity, task=name, estimates=Estimates(mean, rows, errors))
