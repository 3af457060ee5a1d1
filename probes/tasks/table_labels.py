"""What the labels in a column of a table are: classes, numbers, lists of classes or answers; errors name the row."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from probes.tasks.labels import MAX_TARGET_CLASSES
from probes.tasks.table_file import Table
from probes.tasks.task import TaskKind

AutoKind = TaskKind | Literal["auto"]

_KINDS = ("auto", *get_args(TaskKind))
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?")  # 007 is a name, not a number


@dataclass(frozen=True)
class TableLabels:
    """The labels of the complete rows of a table.

    Attributes:
        kind: What they are.
        values: One per row: a class name or index, a number, a list of class names, or an answer.
        class_names: In index order (classification, multi-label); `None` for the other kinds.
        ordered: Whether the classes are in order.
    """

    kind: TaskKind
    values: list[Any]
    class_names: tuple[str, ...] | None
    ordered: bool = False

    @property
    def strata(self) -> list[Any]:
        """What splits are stratified by, one per row: the class, or `None` if the labels are not classes."""
        return self.values if self.kind == "classification" else [None] * len(self.values)

    def check_rare_classes(self, table: Table, column: str, numbers: Sequence[int]) -> None:
        """Refuse a class with a single row, which could be in one split only.

        Raises:
            ValueError: There is such a class.
        """
        if self.kind != "classification":
            return
        counts = Counter(self.values)
        for number, value in zip(numbers, self.values, strict=True):
            if counts[value] == 1:
                once = sum(count == 1 for count in counts.values())
                raise ValueError(
                    f"{table.locate(number, column)}: {value!r} is the label of this row only, as {once} of "
                    f"{len(counts)} labels are. A class needs rows in train and in test. Merge or remove rare labels, "
                    "or set `suite.kind` if the labels are no classes (regression, generation), or `suite.label` to "
                    "another column."
                )


def read_labels(
    table: Table,
    column: str,
    numbers: Sequence[int],
    *,
    kind: AutoKind = "auto",
    labels: Sequence[str | int] | None = None,
    ordered: bool = False,
) -> TableLabels:
    """Determine the kind of the labels in a column, and bring them into the form that `encode_labels` expects.

    Args:
        table: All rows.
        column: That of the labels.
        numbers: The rows to read, counted from 0; each has a label.
        kind: Of the labels, or `auto`: words and booleans are classes, lists are multi-label, whole numbers are classes
            if at most 20 are distinct, and other numbers are regression.
        labels: Names of the classes in index order, or `None` for those in the column.
        ordered: Whether these are in order.

    Raises:
        ValueError: The labels mix types, are none of the declared classes, do not fit the declared kind, or have no
            order; or it is unclear what they are.
    """
    if kind not in _KINDS:
        raise ValueError(f"There is no kind '{kind}'. Set `suite.kind` to one of {', '.join(_KINDS)}.")
    if labels is not None and (not labels or len(set(map(str, labels))) < len(labels)):
        raise ValueError(f"`suite.labels` must be a list of different names, or null; got {list(labels)!r}.")
    cells = _Cells(table, column, numbers)
    found = cells.infer_kind(classes_declared=labels is not None) if kind == "auto" else kind
    if found == "generation":
        return TableLabels(found, [str(value) for value in cells.values], None, ordered)
    if found == "regression":
        return TableLabels(found, cells.each(_as_number, "a number, which regression needs"), None, ordered)
    if found == "multilabel":
        names = cells.each(_as_names, "a list of labels, which multi-label needs; CSV and TSV have no lists")
        present = sorted({name for row in names for name in row})
        declared = tuple(map(str, labels)) if labels is not None else tuple(present)
        return TableLabels(found, names, declared, ordered)
    names = cells.each(_as_class_name, "a word, a whole number or a boolean, which classification needs")
    if labels is not None:
        return TableLabels(found, cells.among(names, tuple(map(str, labels))), tuple(map(str, labels)), ordered)
    whole = all(isinstance(_typed(value), int | float) for value in names)
    if ordered and not whole:
        raise ValueError(
            f"`suite.ordered` needs an order, but the labels of {table.place}, column '{column}' are words. Set "
            "`suite.labels` from the lowest class to the highest, or `suite.ordered=false`."
        )
    return TableLabels(found, names, tuple(sorted(set(names), key=int if whole else str)), ordered)


@dataclass(frozen=True)
class _Cells:
    """The labels of some rows of a table as they are written."""

    table: Table
    column: str
    numbers: Sequence[int]

    @property
    def values(self) -> list[Any]:
        column = self.table.columns[self.column]
        return [column[number] for number in self.numbers]

    def infer_kind(self, *, classes_declared: bool) -> TaskKind:
        typed = [_typed(value) if self.table.untyped else value for value in self.values]
        first: dict[str, int] = {}
        for number, value in zip(self.numbers, typed, strict=True):
            first.setdefault(_type_name(value), number)
        if classes_declared and "list" not in first:
            return "classification"
        if len(first) > 1:
            found = ", ".join(f"{name} (row {number + 1})" for name, number in first.items())
            raise ValueError(
                f"Labels of {self.table.place}, column '{self.column}' are of mixed types: {found}. Correct them, or "
                "set `suite.kind` or `suite.labels`."
            )
        return self._kind_of_numbers(typed) if "number" in first else _kind_of_type(next(iter(first), "string"))

    def _kind_of_numbers(self, values: Iterable[float]) -> TaskKind:
        distinct = set(values)
        if not all(math.isfinite(value) and float(value).is_integer() for value in distinct):
            return "regression"
        if len(distinct) <= MAX_TARGET_CLASSES:
            return "classification"
        raise ValueError(
            f"Labels of {self.table.place}, column '{self.column}' are {len(distinct)} distinct whole numbers, too "
            "many to be sure that they are classes. Set `suite.kind` to classification or regression."
        )

    def each(self, convert: Callable[[Any], Any], wanted: str) -> list[Any]:
        """All labels converted; one that `convert` turns into `None` is refused."""
        converted = [convert(value) for value in self.values]
        for number, value, result in zip(self.numbers, self.values, converted, strict=True):
            if result is None:
                raise ValueError(
                    f"{self.table.locate(number, self.column)}: label {value!r} is not {wanted}. Correct it, or set "
                    "`suite.kind` or `suite.label`."
                )
        return converted

    def among(self, names: Sequence[str], classes: Sequence[str]) -> list[str] | list[int]:
        """Labels as declared classes, or as their indices if none is the name of a class."""
        indices = {str(index) for index in range(len(classes))}
        if set(names) <= indices and not set(names) & set(classes):
            return [int(name) for name in names]
        for number, name in zip(self.numbers, names, strict=True):
            if name not in classes:
                raise ValueError(
                    f"{self.table.locate(number, self.column)}: label '{name}' is none of `suite.labels`: "
                    f"{', '.join(classes)} (indices 0 to {len(classes) - 1}). Correct the row, or add the label."
                )
        return list(names)


def _kind_of_type(name: str) -> TaskKind:
    return "multilabel" if name == "list" else "classification"


def _typed(value: Any) -> Any:
    """A string that is written like a number as a number, and any other value as it is."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value) if any(mark in value for mark in ".eE") else int(value)
    return value


def _type_name(value: Any) -> str:
    for types, name in ((bool, "boolean"), ((int, float), "number"), (str, "string"), ((list, tuple), "list")):
        if isinstance(value, types):  # a bool is an int, so it comes first
            return name
    return type(value).__name__


def _as_number(value: Any) -> float | None:
    number = _typed(value)
    usable = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
    return float(number) if usable else None


def _as_names(value: Any) -> list[str] | None:
    if not isinstance(value, list | tuple):
        return None
    names = [_as_class_name(entry) for entry in value]
    return [name for name in names if name is not None] if None not in names else None


def _as_class_name(value: Any) -> str | None:
    typed = _typed(value)
    if isinstance(typed, bool):
        return str(typed).lower()
    if isinstance(typed, float):
        return str(int(typed)) if typed.is_integer() else None
    return str(typed).strip() if isinstance(typed, int | str) else None
