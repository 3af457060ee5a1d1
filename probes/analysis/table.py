"""Values over layers of many quantities and tasks, side by side, and everything that follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import get_args

import numpy as np
from scipy.stats import norm

from probes.analysis.bands.segments import Segments, find_segments
from probes.analysis.between_tasks.specificity import specificity
from probes.analysis.intervals import confidence_interval
from probes.analysis.similarity.permutation_null import Tail, family_wise_p
from probes.values import Estimates, Layer, LayerByTask, Reading, Result

ALL_TASKS = "all_tasks"
"""Stands for the task of what lies between tasks."""


@dataclass(frozen=True)
class Column:
    """One task's estimates of one quantity at every layer of a reading.

    Attributes:
        quantity: Name of the quantity.
        unit: Its unit.
        task: Name of the task.
        reading: Stack, site and pooling.
        layers: Names of the layers.
        estimates: The numbers.
        role: Which model they are of where a study compares several, such as `base`.
    """

    quantity: str
    unit: str
    task: str
    reading: Reading
    layers: tuple[Layer, ...]
    estimates: Estimates
    role: str = ""

    @property
    def name(self) -> str:
        """The quantity, with the role before it if there is one."""
        return f"{self.role}/{self.quantity}" if self.role else self.quantity

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Both ends of the 95 % interval at every layer, shape `(layers,)`; NaN without errors."""
        if self.estimates.errors is None:
            unknown = np.full(len(self.layers), np.nan)
            return unknown, unknown
        return confidence_interval(self.estimates.values, self.estimates.errors)


def column_results(columns: Sequence[Column], *, tail: Tail = "counted") -> list[Result]:
    """One result a cell of one quantity's columns, p corrected for looking at all of them.

    Args:
        columns: Of one quantity and reading, with the same layers; nulls with as many draws in all or none.
        tail: As in `family_wise_p`.
    """
    p = _family_wise(columns, tail)
    return [result for column, own in zip(columns, p, strict=True) for result in _results(column, own)]


def specificity_results(columns: Sequence[Column]) -> list[Result]:
    """Specificity of every cell of one quantity's columns, with normal 95 % intervals where all columns have errors."""
    first = columns[0]
    values = np.stack([column.estimates.values for column in columns], axis=1)
    errors = [column.estimates.errors for column in columns]
    known = [own for own in errors if own is not None]
    specific, deviations = specificity(values, known if len(known) == len(columns) else None)
    reach = norm.ppf(0.975) * deviations
    metric = f"specificity/{first.quantity.removeprefix('probe/')}"
    return [
        _of_task(
            _row(column, layer, metric, specific[row, task]),
            column,
            ci=(specific[row, task] - reach[row, task], specific[row, task] + reach[row, task]),
            null=0.0,
        )
        for task, column in enumerate(columns)
        for row, layer in enumerate(first.layers)
    ]


def column_segments(columns: Sequence[Column]) -> tuple[Segments, list[Result]]:
    """Bands of layers by the spread of one quantity's columns over tasks, and what of them goes into the results.

    Results are `between_task_sd/<quantity>` at every layer, and one `boundary/<quantity>` a boundary, whose value is
    the share of task resamples that put it within one layer; without boundaries a row that says so.
    """
    first = columns[0]
    values = np.stack([column.estimates.values for column in columns], axis=1)
    found = find_segments(values, layers=first.layers)
    spread, boundary = f"between_task_sd/{first.quantity}", f"boundary/{first.quantity}"
    rows = [_row(first, layer, spread, value) for layer, value in zip(found.layers, found.profile, strict=True)]
    for band, edge in zip(found.bands[1:], found.boundaries, strict=True):
        width = "1 layer" if edge.width == 1 else f"{edge.width} layers"
        note = f"{band.name} begins; the shift is spread over {width}"
        rows.append(replace(_row(first, edge.layer, boundary, edge.share), p=_known(found.p), note=note))
    if not found.boundaries:
        rows.append(replace(_row(first, None, boundary, np.nan), p=_known(found.p), note=found.note))
    return found, [replace(row, task=ALL_TASKS, n=len(columns)) for row in rows]


def _family_wise(columns: Sequence[Column], tail: Tail) -> list[np.ndarray]:
    nulls = [column.estimates.null for column in columns]
    tested = [null for null in nulls if null is not None and len(null) > 1]
    if len(tested) < len(columns) or len({len(null) for null in tested}) != 1:
        return [np.full(len(column.layers), np.nan) for column in columns]
    observed = np.concatenate([column.estimates.values for column in columns])
    return np.split(family_wise_p(observed, np.concatenate(tested, axis=1), tail=tail), len(columns))


def _results(column: Column, p: np.ndarray) -> list[Result]:
    low, high = column.interval()
    null = column.estimates.null
    null_mean = np.full(len(column.layers), np.nan) if null is None else null.mean(0)
    return [
        _of_task(
            _row(column, layer, column.quantity, column.estimates.values[i]),
            column,
            ci=(low[i], high[i]),
            null=null_mean[i],
            p=p[i],
        )
        for i, layer in enumerate(column.layers)
    ]


def _of_task(row: Result, column: Column, *, ci: tuple[float, float], null: float, p: float = float("nan")) -> Result:
    """The row with how sure it is, or why it has no value."""
    missing = bool(np.isnan(row.value))
    return replace(
        row,
        task=column.task,
        ci_low=_known(ci[0]),
        ci_high=_known(ci[1]),
        null_mean=None if missing else _known(null),
        p=_known(p),
        n=column.estimates.n,
        note=column.estimates.note if missing else "",
    )


def _row(column: Column, layer: Layer | None, metric: str, value: float) -> Result:
    """What was measured, and where."""
    reading = column.reading
    return Result(
        role=column.role,
        stack=reading.stack,
        layer=layer,
        site=reading.site,
        pooling=reading.pooling,
        split="test",
        metric=metric,
        value=float(value),
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


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


LIVE = "live/"
"""Begins the role of columns that are steps of one task's training, not tasks: nothing is derived between them."""


@dataclass(frozen=True)
class Findings:
    """What follows from columns.

    Attributes:
        results: Rows of `results.csv`.
        matrices: Each quantity, layer by task.
        segmented: The columns of the quantities whose layers were parted into bands, with the bands.
    """

    results: list[Result]
    matrices: list[LayerByTask]
    segmented: list[tuple[list[Column], Segments]]


class ColumnTable:
    """Collects columns; one of the same quantity, role, reading and task replaces the one before.

    Args:
        specificity_of: Names of quantities to double-centre, layer by task; `*` stands for anything. A name without a
            role means the quantity in every role.
        segments_of: Names of quantities whose spread over tasks parts layers into bands; `*` as above.
        tail: How small p of a permutation null can get, as in `family_wise_p`.

    Raises:
        ValueError: An unknown tail.
    """

    def __init__(
        self, *, specificity_of: Sequence[str] = (), segments_of: Sequence[str] = (), tail: Tail = "counted"
    ) -> None:
        if tail not in get_args(Tail):
            raise ValueError(f"Unknown tail {tail!r}. There are {list(get_args(Tail))}. Set `analysis.tail` to one.")
        self.tail: Tail = tail
        self.specificity_of, self.segments_of = tuple(specificity_of), tuple(segments_of)
        self._columns: dict[tuple[Reading, str], dict[str, Column]] = {}
        self._silent: set[str] = set()

    def add(self, column: Column, *, reported: bool = True) -> None:
        """Take a column; with `reported=False` only what is derived of it is reported."""
        if not reported:
            self._silent.add(column.name)
        self._columns.setdefault((column.reading, column.name), {})[column.task] = column

    def columns(self, name: str, reading: Reading) -> list[Column]:
        """The columns of one quantity, as `Column.name` calls it, in the order of their first appearance."""
        return [*self._columns.get((reading, name), {}).values()]

    def findings(self) -> Findings:
        """Results and matrices of every quantity, readings in the order of their first appearance."""
        found = Findings([], [], [])
        for reading in dict.fromkeys(reading for reading, _ in self._columns):
            groups = {name: [*own.values()] for (of, name), own in self._columns.items() if of == reading}
            for name, columns in groups.items():
                if name not in self._silent:
                    _keep(found, columns, column_results(columns, tail=self.tail))
            for name, columns in groups.items():
                if columns[0].role.startswith(LIVE):
                    continue
                names = {name, columns[0].quantity}
                if len(columns) > 1 and _are_among(names, self.specificity_of):
                    _keep(found, columns, specificity_results(columns))
                if len(columns) > 1 and _are_among(names, self.segments_of):
                    segments, rows = column_segments(columns)
                    found.results.extend(rows)
                    found.segmented.append((columns, segments))
        return found


def _are_among(names: Iterable[str], patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for name in names for pattern in patterns)


def _keep(found: Findings, columns: Sequence[Column], rows: list[Result]) -> None:
    role, metric = rows[0].role, rows[0].metric
    found.results.extend(rows)
    name = f"{role}/{metric}" if role else metric
    found.matrices.append(LayerByTask.pivot(name, columns[0].unit, rows, columns[0].reading))
