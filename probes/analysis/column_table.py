"""Columns of many quantities and tasks, and everything that follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import get_args

from probes.analysis.columns import Column, column_results, column_segments, specificity_results
from probes.analysis.permutations import Tail
from probes.analysis.segments import Segments
from probes.values import LayerByTask, Reading, Result

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
