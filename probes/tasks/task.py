"""The values this package hands out (a split's rows, a task, a suite), and a task's rows as a loader read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Label = int | float | tuple[int, ...] | None
"""Class index; a real number (regression); one 0/1 entry a label (multi-label); `None` (generation)."""

TaskKind = Literal["classification", "multilabel", "regression", "generation"]


@dataclass(frozen=True)
class Split:
    """Rows of one split, in order: the rendered prompt, its label, the answer in words (`""` where there is none)."""

    prompts: tuple[str, ...]
    labels: tuple[Label, ...]
    targets: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True)
class Task:
    """Examples, labels, prompt and splits under one name.

    Attributes:
        name: Unique in its suite.
        kind: What the labels are.
        labels: Names of the classes (classification, multi-label), else empty.
        splits: `train`, `validation`, `test` → rows.
        cluster: The family the task belongs to.
        unseen: Kept out of a tuning mixture.
        source: Where the examples come from.
    """

    name: str
    kind: TaskKind
    labels: tuple[str, ...]
    splits: Mapping[str, Split]
    cluster: str = ""
    unseen: bool = False
    source: str = ""


@dataclass(frozen=True)
class Suite:
    """Tasks studied together."""

    name: str
    tasks: tuple[Task, ...]


Row = Mapping[str, Any]
Render = Callable[[Row], str]


@dataclass(frozen=True, kw_only=True)
class RawTask:
    """Rows of one task as read.

    Attributes:
        name: Unique in its suite.
        rows: Split → rows in order. A row has `targets` (the answer in words) or `label` or both, and whatever fields
            its prompt is made of.
        kind: What the labels are; `None`: inferred from them.
        labels: Names of the classes in index order; `None`: inferred.
        cluster: The family the task belongs to.
        unseen: Kept out of a tuning mixture.
        source: Where the examples come from.
        places: Split → where its rows lie, for messages.
    """

    name: str
    rows: Mapping[str, Sequence[Row]]
    kind: TaskKind | None = None
    labels: tuple[str, ...] | None = None
    cluster: str = ""
    unseen: bool = False
    source: str = ""
    places: Mapping[str, str] = field(default_factory=dict)

    def place(self, split: str, position: int | None = None) -> str:
        """Where a split, or the row at a position counted from 0, is found: task, split, file and line."""
        place = self.places.get(split, "")
        row = "" if position is None else f", row {position + 1}"
        return f"task '{self.name}', split '{split}'{row}" + (f" ({place})" if place else "")
