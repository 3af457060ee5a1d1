"""What the labels of a task are: their kind, the names of the classes, and the label of each row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from probes.tasks.task import Label, RawTask, Row, TaskKind

FEW_TARGETS = 20
OFTEN_SHARE = 0.005


@dataclass(frozen=True)
class Labelling:
    """The kind of a task's labels, the names of its classes, the label of each row, the answer of each row in words."""

    kind: TaskKind
    labels: tuple[str, ...]
    by_split: dict[str, list[Label]]
    targets: dict[str, list[str]]


def classes_of_targets(targets: Sequence[str]) -> tuple[str, ...] | None:
    """The classes that answers in words stand for, or `None` where the answers are free text.

    Answers are classes when at most 20 distinct ones occur, each at least twice and in at least 0.5 % of the rows.

    Example:
        >>> classes_of_targets(["yes", "no", "yes", "no"])
        ('no', 'yes')
        >>> classes_of_targets(["yes", "no", "yes", "Paris"]) is None
        True
    """
    counts = Counter(targets)
    often = max(2, OFTEN_SHARE * len(targets))
    if len(counts) > FEW_TARGETS or any(count < often for count in counts.values()):
        return None
    return tuple(sorted(counts))


def read_labels(table: RawTask) -> Labelling:
    """Settle the kind of labels and label every row of every split.

    A row's `label` counts first: whole numbers and names are classes, numbers with a fraction are regression, lists
    (of class indices or class names) are multi-label, `null` everywhere is generation. Rows without `label` are
    labelled by `targets`: classes when they are few (`classes_of_targets`), else generation. What the task declares
    (`kind`, `labels`) outranks what is inferred.

    Raises:
        ValueError: Labels of several types are mixed, a label is none of the task's, a number is not finite, or the
            declared kind does not fit.
    """
    if table.kind is not None and table.kind not in get_args(TaskKind):
        raise ValueError(f"Task '{table.name}' has kind '{table.kind}'. Kinds are {', '.join(get_args(TaskKind))}.")
    kind, found_in = _kind(table)
    values = {split: [row.get(found_in) for row in rows] for split, rows in table.rows.items()}
    names = _names(table, kind, values["train"], found_in)
    by_split: dict[str, list[Label]] = {}
    for split, rows in values.items():
        by_split[split] = [_encode(value, kind, names, table, split, i) for i, value in enumerate(rows)]
    targets = {
        split: [_answer(row, label, kind, names) for row, label in zip(rows, by_split[split], strict=True)]
        for split, rows in table.rows.items()
    }
    return Labelling(kind, names, by_split, targets)


def _kind(table: RawTask) -> tuple[TaskKind, str]:
    """The kind, and the field it is read from."""
    if table.kind == "generation":
        return "generation", "targets"
    rows = table.rows["train"]
    by_type = _first_of_each_type(rows)
    declared_float = table.kind == "regression" and set(by_type) <= {"whole number", "number"}
    if len(by_type) > 1 and not declared_float:
        found = ", ".join(f"{name} (row {row + 1})" for name, row in sorted(by_type.items()))
        raise ValueError(
            f"Labels of {table.place('train')} are of mixed types: {found}. Give `label` one type, or declare `kind`."
        )
    found = next(iter(by_type)) if len(by_type) == 1 else "number"
    if found == "nothing":
        return _kind_of_targets(table)
    kinds: dict[str, TaskKind] = {"number": "regression", "list": "multilabel"}
    inferred = kinds.get(found, "classification")
    fits = table.kind in {None, inferred} or (table.kind, found) == ("regression", "whole number")
    if not fits:
        raise ValueError(
            f"Task '{table.name}' is declared {table.kind}, but its labels are {found}s ({inferred}). "
            "Mend `kind` or `label`."
        )
    return table.kind or inferred, "label"


def _kind_of_targets(table: RawTask) -> tuple[TaskKind, str]:
    if table.kind is not None:
        if table.kind == "multilabel":
            raise ValueError(f"Task '{table.name}' is declared multilabel, but its rows have no `label`.")
        return table.kind, "targets"
    rows = table.rows["train"]
    nulled = bool(rows) and all("label" in row for row in rows)
    if nulled and not table.labels:
        return "generation", "targets"
    few = table.labels or classes_of_targets([str(row.get("targets", "")) for row in rows])
    return ("classification" if few else "generation"), "targets"


def _first_of_each_type(rows: Sequence[Row]) -> dict[str, int]:
    first: dict[str, int] = {}
    for position, row in enumerate(rows):
        first.setdefault(_type(row.get("label")), position)
    return first


def _type(value: Any) -> str:
    if value is None:
        return "nothing"
    for kind, name in ((bool, "truth value"), (int, "whole number"), (float, "number"), (str, "word")):
        if isinstance(value, kind):
            return name
    return "list" if isinstance(value, list | tuple) else type(value).__name__


def _names(table: RawTask, kind: TaskKind, values: Sequence[Any], found_in: str) -> tuple[str, ...]:
    if kind in {"regression", "generation"}:
        return ()
    if table.labels:
        return tuple(str(name) for name in table.labels)
    flat = values if kind == "classification" else [entry for value in values for entry in value]
    if any(isinstance(value, bool) for value in flat):
        return ("false", "true")
    if flat and all(isinstance(value, int) for value in flat):
        answers = _answer_of_each_index(table.rows["train"]) if found_in == "label" else {}
        return tuple(answers.get(index, str(index)) for index in range(max(flat) + 1))
    return tuple(sorted({str(value).strip() for value in flat}))


def _answer_of_each_index(rows: Sequence[Row]) -> dict[int, str]:
    """Class index → its answer in words, empty unless every class has one answer of its own."""
    pairs = {(row["label"], row["targets"]) for row in rows if isinstance(row.get("targets"), str)}
    answers = dict(pairs)
    return answers if len(pairs) == len(answers) == len(set(answers.values())) else {}


def _encode(value: Any, kind: TaskKind, names: tuple[str, ...], table: RawTask, split: str, position: int) -> Label:
    if kind == "generation":
        return None
    if kind == "classification":
        return _index(value, names, table, split, position)
    if kind == "multilabel":
        if not isinstance(value, list | tuple):
            raise ValueError(f"Label {value!r} of {table.place(split, position)} should be a list, as in train.")
        bearers = {_index(entry, names, table, split, position) for entry in value}
        return tuple(int(index in bearers) for index in range(len(names)))
    return _number(value, table, split, position)


def _index(value: Any, names: tuple[str, ...], table: RawTask, split: str, position: int) -> int:
    if isinstance(value, str):
        word = value.strip()
        if word in names:
            return names.index(word)
    elif isinstance(value, int) and 0 <= value < len(names):
        return int(value)
    hint = f" Index {value} usually means unlabelled: map the split elsewhere." if value == -1 else ""
    raise ValueError(
        f"Label {value!r} of {table.place(split, position)} is outside its labels: {', '.join(names)} "
        f"(indices 0 to {len(names) - 1}).{hint} Mend the row, or the task's `labels`."
    )


def _number(value: Any, table: RawTask, split: str, position: int) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        raise ValueError(
            f"Label {value!r} of {table.place(split, position)} is not a finite number; regression expects one."
        )
    return number


def _answer(row: Row, label: Label, kind: TaskKind, names: tuple[str, ...]) -> str:
    if row.get("targets") is not None:
        return str(row["targets"])
    if kind == "classification" and isinstance(label, int):
        return names[label]
    if isinstance(label, tuple):
        return ", ".join(name for name, entry in zip(names, label, strict=True) if entry)
    return "" if label is None else str(label)
