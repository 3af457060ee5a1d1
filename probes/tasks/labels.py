"""The labels of a task: their kind, the names of the classes, and the encoded label of every row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from probes.tasks.task import Label, RawTask, Row, TaskKind

MAX_TARGET_CLASSES = 20
"""With more distinct answers than this, a task without labels is generation."""
MOST_CLASSES = 100_000
"""A larger integer is no index of a class but, say, an identifier."""
MIN_TARGET_SHARE = 0.005
"""An answer given in a smaller share of the rows is free text; the set of answers is then not a set of classes."""


@dataclass(frozen=True)
class EncodedLabels:
    """The labels and answers of a task, one list entry per row.

    Attributes:
        kind: What the labels are.
        class_names: In index order (classification, multi-label); empty for the other kinds.
        labels: Split → the label of each row.
        targets: Split → the answer of each row in words.
    """

    kind: TaskKind
    class_names: tuple[str, ...]
    labels: dict[str, list[Label]]
    targets: dict[str, list[str]]


def encode_labels(raw: RawTask) -> EncodedLabels:
    """Determine the kind of a task's labels and encode the label of every row of every split.

    A row's `label` takes precedence: integers and strings are classes, floats are regression, lists (of class indices
    or class names) are multi-label, `null` in every row is generation. Rows without `label` are labelled by `targets`:
    classes if there are few distinct ones (see `classes_of_targets`), otherwise generation. A declared `kind` or
    `labels` takes precedence over what would be inferred.

    Raises:
        ValueError: The training labels mix types, a label is none of the task's classes, a number is not finite, or
            the declared kind does not fit the labels.
    """
    if raw.kind is not None and raw.kind not in get_args(TaskKind):
        raise ValueError(f"Task '{raw.name}' has kind '{raw.kind}'. Kinds are {', '.join(get_args(TaskKind))}.")
    kind, field = _kind_and_field(raw)
    values = {split: [row.get(field) for row in rows] for split, rows in raw.rows.items()}
    class_names = _class_names(raw, kind, values["train"], field)
    encoder = _Encoder(raw, kind, class_names)
    labels = {
        split: [encoder.label(value, split, position) for position, value in enumerate(column)]
        for split, column in values.items()
    }
    targets = {
        split: [encoder.target(row, label) for row, label in zip(rows, labels[split], strict=True)]
        for split, rows in raw.rows.items()
    }
    return EncodedLabels(kind, class_names, labels, targets)


def classes_of_targets(targets: Sequence[str]) -> tuple[str, ...] | None:
    """The classes that answers in words stand for, in alphabetical order, or `None` if the answers are free text.

    Answers are classes if there are at most 20 distinct ones and each is given in at least two rows and in at least
    0.5 % of the rows.

    Example:
        >>> classes_of_targets(["yes", "no", "yes", "no"])
        ('no', 'yes')
        >>> classes_of_targets(["yes", "no", "yes", "Paris"]) is None
        True
    """
    counts = Counter(targets)
    fewest = max(2, MIN_TARGET_SHARE * len(targets))
    if len(counts) > MAX_TARGET_CLASSES or any(count < fewest for count in counts.values()):
        return None
    return tuple(sorted(counts))


def _kind_and_field(raw: RawTask) -> tuple[TaskKind, str]:
    """The kind of the labels, and the field of a row they are in."""
    if raw.kind == "generation":
        return "generation", "targets"
    first_rows = _first_row_of_each_type(raw.rows["train"])
    if len(first_rows) > 1 and not (raw.kind == "regression" and set(first_rows) <= {"integer", "float"}):
        found = ", ".join(f"{name} (row {row + 1})" for name, row in sorted(first_rows.items()))
        raise ValueError(
            f"Labels of {raw.locate('train')} are of mixed types: {found}. Give `label` one type, or declare `kind`."
        )
    label_type = next(iter(first_rows)) if len(first_rows) == 1 else "float"
    if label_type == "null":
        return _kind_of_targets(raw), "targets"
    special: dict[str, TaskKind] = {"float": "regression", "list": "multilabel"}
    inferred = special.get(label_type, "classification")
    if raw.kind not in {None, inferred} and (raw.kind, label_type) != ("regression", "integer"):
        raise ValueError(
            f"Task '{raw.name}' is declared {raw.kind}, but its labels are of type {label_type} ({inferred}). "
            "Correct `kind` or `label`."
        )
    return cast("TaskKind", raw.kind or inferred), "label"  # `RawTask` has made `ordinal` a classification


def _kind_of_targets(raw: RawTask) -> TaskKind:
    """The kind of a task whose training rows have no label, or only `null`."""
    if raw.kind == "multilabel":
        raise ValueError(f"Task '{raw.name}' is declared multilabel, but its rows have no `label`.")
    if raw.kind is not None:
        return cast("TaskKind", raw.kind)
    rows = raw.rows["train"]
    explicit_null = bool(rows) and all("label" in row for row in rows)
    if explicit_null and not raw.labels:
        return "generation"
    classes = raw.labels or classes_of_targets([str(row.get("targets", "")) for row in rows])
    return "classification" if classes else "generation"


def _first_row_of_each_type(rows: Sequence[Row]) -> dict[str, int]:
    first_rows: dict[str, int] = {}
    for position, row in enumerate(rows):
        first_rows.setdefault(_type_name(row.get("label")), position)
    return first_rows


def _type_name(value: Any) -> str:
    if value is None:
        return "null"
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "float"), (str, "string")):  # a bool is an int
        if isinstance(value, kind):
            return name
    return "list" if isinstance(value, list | tuple) else type(value).__name__


def _class_names(raw: RawTask, kind: TaskKind, values: Sequence[Any], field: str) -> tuple[str, ...]:
    if kind in {"regression", "generation"}:
        return ()
    if raw.labels:
        return tuple(str(name) for name in raw.labels)
    entries = values if kind == "classification" else [entry for value in values for entry in value]
    if any(isinstance(entry, bool) for entry in entries):
        return ("false", "true")
    if entries and all(isinstance(entry, int) for entry in entries):
        if max(entries) > MOST_CLASSES:
            raise ValueError(
                f"Label {max(entries)} of task '{raw.name}' is too large for the index of a class, of which there may "
                f"be {MOST_CLASSES:,}. Number classes from 0, name them by texts, or declare `kind` regression."
            )
        answers = _answer_of_each_index(raw.rows["train"]) if field == "label" else {}
        return tuple(answers.get(index, str(index)) for index in range(max(entries) + 1))
    return tuple(sorted({str(entry).strip() for entry in entries}))


def _answer_of_each_index(rows: Sequence[Row]) -> dict[int, str]:
    """Class index → its answer in words; empty unless classes and answers correspond one to one."""
    pairs = {(row["label"], row["targets"]) for row in rows if isinstance(row.get("targets"), str)}
    answers = dict(pairs)
    return answers if len(pairs) == len(answers) == len(set(answers.values())) else {}


@dataclass(frozen=True)
class _Encoder:
    """Encodes labels one by one; an error names the row by its split and its position."""

    raw: RawTask
    kind: TaskKind
    class_names: tuple[str, ...]

    def label(self, value: Any, split: str, position: int) -> Label:
        if self.kind == "generation":
            return None
        if self.kind == "classification":
            return self._class_index(value, split, position)
        if self.kind == "regression":
            return self._number(value, split, position)
        if isinstance(value, list | tuple):
            present = {self._class_index(entry, split, position) for entry in value}
            return tuple(int(index in present) for index in range(len(self.class_names)))
        raise ValueError(f"Label {value!r} of {self.raw.locate(split, position)} must be a list, as in train.")

    def target(self, row: Row, label: Label) -> str:
        """The answer in words: the row's `targets`, or else what its label says."""
        if row.get("targets") is not None:
            return str(row["targets"])
        if self.kind == "classification" and isinstance(label, int):
            return self.class_names[label]
        if isinstance(label, tuple):
            return ", ".join(name for name, entry in zip(self.class_names, label, strict=True) if entry)
        return "" if label is None else str(label)

    def _class_index(self, value: Any, split: str, position: int) -> int:
        if isinstance(value, str) and value.strip() in self.class_names:
            return self.class_names.index(value.strip())
        boolean = isinstance(value, bool) and self.class_names != ("false", "true")
        if isinstance(value, int) and not boolean and 0 <= value < len(self.class_names):
            return int(value)
        hint = " Index -1 usually means unlabelled: map the split to a labelled one." if value == -1 else ""
        raise ValueError(
            f"Label {value!r} of {self.raw.locate(split, position)} is none of the task's classes: "
            f"{', '.join(self.class_names)} (indices 0 to {len(self.class_names) - 1}).{hint} Correct the row, or the "
            "task's `labels`."
        )

    def _number(self, value: Any, split: str, position: int) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or isinstance(value, bool):
            raise ValueError(
                f"Label {value!r} of {self.raw.locate(split, position)} is not a finite number; regression expects one."
            )
        return number
