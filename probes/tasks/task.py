"""The frozen values of this room: a split's rows, a task, a suite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Label = int | float | tuple[int, ...] | None
"""Class index; a real number (regression); one 0/1 entry a label (multi-label); `None` (generation)."""

Kind = Literal["classification", "multilabel", "regression", "generation"]
SPLITS = ("train", "validation", "test")


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
    kind: Kind
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
