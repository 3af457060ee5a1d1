"""Suites, tasks and splits, which this package produces, and the raw task that a loader reads them from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from probes.values import ALL_TASKS

if TYPE_CHECKING:
    from probes.tasks.words.sentence import WordRows

Label = int | float | tuple[int, ...] | None
"""A class index (classification), a real number (regression), one 0 or 1 per class (multi-label), or `None`
(generation, trees); the gold score of two texts (pairs)."""

TaskKind = Literal["classification", "multilabel", "regression", "generation", "trees", "pairs"]

Row = Mapping[str, Any]
"""One example as it was read: field name → value."""

Render = Callable[[Row], str]
"""Turns a row into its prompt."""


@dataclass(frozen=True)
class Split:
    """The rows of one split, in order; every tuple has one entry per row.

    Attributes:
        prompts: What the backbone reads.
        labels: What a probe predicts.
        targets: The answer in words; `""` where there is none.
        words: Which words the rows are, of tasks of words; then the prompt of a row is its sentence. `None`: a row is
            its whole prompt.
        columns: Name → values of further columns, such as the source of each row, that an audit for nuisances needs.
        seconds: The second text of each row, of tasks of pairs of texts, whose first texts are the prompts; else empty.
        groups: Value of `suite.group` of each row; empty without.
    """

    prompts: tuple[str, ...]
    labels: tuple[Label, ...]
    targets: tuple[str, ...]
    words: WordRows | None = None
    columns: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    seconds: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.prompts)

    def at(self, rows: Sequence[int]) -> Split:
        """Some of the rows, by their positions."""

        def of(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(values[row] for row in rows)

        return replace(
            self,
            prompts=of(self.prompts),
            labels=of(self.labels),
            targets=of(self.targets),
            words=None if self.words is None else self.words.at(np.asarray(rows, dtype=np.int64)),
            columns={name: of(values) for name, values in self.columns.items()},
            seconds=of(self.seconds) if self.seconds else (),
            groups=of(self.groups) if self.groups else (),
        )


@dataclass(frozen=True)
class Task:
    """Examples, labels, prompt and splits under one name.

    Attributes:
        name: Unique in its suite.
        kind: What the labels are.
        labels: Names of the classes in index order (classification, multi-label); empty for the other kinds.
        splits: `train`, `validation`, `test` → rows.
        cluster: The family the task belongs to; `""` where it has none.
        unseen: Whether the task is kept out of a tuning mixture.
        source: Where the examples come from.
        ordered: Whether the classes are in order, such as ratings (classification).
        asks_for: Nuisances that the task asks for, such as `length`: an audit says so beside its verdict.
    """

    name: str
    kind: TaskKind
    labels: tuple[str, ...]
    splits: Mapping[str, Split]
    cluster: str = ""
    unseen: bool = False
    source: str = ""
    ordered: bool = False
    asks_for: tuple[str, ...] = ()

    @property
    def of_words(self) -> bool:
        """Whether the rows are words, pairs of words or trees, in place of texts."""
        return any(split.words is not None for split in self.splits.values())

    @property
    def has_probes(self) -> bool:
        """Whether probes can be trained on it: its rows have labels, and are no pairs of texts or trees."""
        return self.kind in {"classification", "multilabel", "regression"}


@dataclass(frozen=True)
class Suite:
    """Tasks that are studied together.

    Raises:
        ValueError: Two tasks have one name, or a name cannot be written as text or means all tasks.
    """

    name: str
    tasks: tuple[Task, ...]

    def __post_init__(self) -> None:
        for name, count in Counter(task.name for task in self.tasks).items():
            if count > 1:
                raise ValueError(
                    f"Suite '{self.name}' has {count} tasks of the name '{name}': one would replace the other in all "
                    "results. Rename them."
                )
            if name == ALL_TASKS or re.search("[\ud800-\udfff]", name):
                reason = "means all tasks together" if name == ALL_TASKS else "cannot be written as UTF-8"
                raise ValueError(f"A task cannot be called {name!r}, which {reason}. Rename it.")


@dataclass(frozen=True, kw_only=True)
class RawTask:
    """One task as a loader read it: before labels are encoded, prompts rendered and rows drawn.

    Attributes:
        name: Unique in its suite.
        rows: Split → rows in order. A row has `targets` (the answer in words) or `label` or both, and the fields its
            prompt is made of.
        kind: What the labels are; `None` to infer it from them. `ordinal` is a classification that is `ordered`.
        labels: Names of the classes in index order; `None` to infer them.
        cluster: The family the task belongs to; `""` where it has none.
        unseen: Whether the task is kept out of a tuning mixture.
        source: Where the examples come from.
        ordered: Whether `labels` are in order, such as ratings (classification).
        asks_for: Nuisances that the task asks for, such as `length`.
        locations: Split → where its rows are stored, for error messages.
    """

    name: str
    rows: Mapping[str, Sequence[Row]]
    kind: TaskKind | None = None
    labels: tuple[str, ...] | None = None
    cluster: str = ""
    unseen: bool = False
    source: str = ""
    ordered: bool = False
    asks_for: tuple[str, ...] = ()
    locations: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if str(self.kind) == "ordinal":  # what a file may say, and no kind of its own
            object.__setattr__(self, "kind", "classification")
            object.__setattr__(self, "ordered", True)

    def locate(self, split: str, position: int | None = None) -> str:
        """Describe where a split, or its row at a position counted from 0, is found: task, split, row and file."""
        location = self.locations.get(split, "")
        row = "" if position is None else f", row {position + 1}"
        return f"task '{self.name}', split '{split}'{row}" + (f" ({location})" if location else "")
