"""Rows regrouped for tests of generalisation: common labels, splits that share no group, and tasks by group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from probes.tasks.splits import connected, draw_splits
from probes.tasks.task import RawTask, Row, Split, Suite, Task
from probes.values import SPLITS

Alignment = Mapping[str, Mapping[str, str | None]]
"""Task → label → the common label it stands for; `None` drops the label's rows."""


def aligned(suite: Suite, align: Alignment | None) -> Suite:
    """A suite whose tasks share label spaces: labels are renamed or merged, and rows of other labels left out.

    Args:
        suite: Tasks of which some have classes or labels.
        align: Task → label → common label; `None`, and tasks that it does not name, change nothing. A row of a
            multi-label task has a common label if it has any of those that stand for it, and keeps its place if it has
            none.

    Raises:
        ValueError: A task or label does not exist, a task has no classes or labels, or fewer than two of them remain.

    Example:
        >>> rows = Split(("a", "b", "c"), (0, 1, 2), ("bad", "so-so", "good"))
        >>> task = Task("mood", "classification", ("bad", "so-so", "good"), dict.fromkeys(SPLITS, rows))
        >>> (found,) = aligned(Suite("demo", (task,)), {"mood": {"good": "positive", "bad": "negative"}}).tasks
        >>> found.labels, found.splits["test"].prompts, found.splits["test"].labels
        (('negative', 'positive'), ('a', 'c'), (0, 1))
    """
    names = {task.name for task in suite.tasks}
    if unknown := sorted(set(align or {}) - names):
        raise ValueError(
            f"`suite.align` names {', '.join(unknown)}, which is no task of suite '{suite.name}'. It has "
            f"{', '.join(sorted(names))}."
        )
    return replace(suite, tasks=tuple(_aligned(task, (align or {}).get(task.name)) for task in suite.tasks))


def _aligned(task: Task, mapping: Mapping[str, str | None] | None) -> Task:
    if mapping is None:
        return task
    mapping = {_name(label, task.labels): common for label, common in mapping.items()}
    if task.kind not in {"classification", "multilabel"}:
        raise ValueError(f"`suite.align.{task.name}` maps labels, and the task is of kind {task.kind}. Leave it out.")
    if unknown := [label for label in mapping if label not in task.labels]:
        raise ValueError(
            f"`suite.align.{task.name}` names {', '.join(unknown)}; the labels are {', '.join(task.labels)}. Use these."
        )
    labels = tuple(sorted({str(common) for common in mapping.values() if common is not None}))
    if len(labels) < 2:
        raise ValueError(f"`suite.align.{task.name}` leaves {len(labels)} label; a task needs two. Map more labels.")
    kept_labels = {label: str(common) for label, common in mapping.items() if common is not None}
    new = {task.labels.index(label): labels.index(common) for label, common in kept_labels.items()}
    splits = {}
    for name, split in task.splits.items():
        if task.kind == "multilabel":
            splits[name] = _with_common_labels(split, new, labels)
            continue
        kept = split.at([row for row, label in enumerate(split.labels) if label in new])
        codes = tuple(new[int(label)] for label in kept.labels)  # pyright: ignore[reportArgumentType]
        splits[name] = replace(kept, labels=codes, targets=tuple(labels[code] for code in codes))
    return replace(task, labels=labels, splits=splits, ordered=False)


def _with_common_labels(split: Split, new: Mapping[int, int], labels: Sequence[str]) -> Split:
    """Rows of a multi-label task with common labels; `new` maps each label that is kept to one of these."""
    rows = [{new[old] for old, entry in enumerate(row) if entry and old in new} for row in split.labels if row]  # pyright: ignore[reportArgumentType]
    return replace(
        split,
        labels=tuple(tuple(int(code in row) for code in range(len(labels))) for row in rows),
        targets=tuple(", ".join(labels[code] for code in sorted(row)) for row in rows),
    )


def _name(label: object, labels: Sequence[str]) -> str:
    """A label as text; `true` and `false`, which YAML reads as values, as the task writes them."""
    text = str(label)
    return text.lower() if isinstance(label, bool) and text not in labels else text


def with_separate_groups(raw: RawTask, group: str | None, *, seed: int) -> RawTask:
    """A raw task whose splits are drawn anew, so that no group has rows in two of them.

    Splits keep about their sizes, and classes their shares.

    Args:
        raw: The task as read.
        group: Field of the rows that names their group, such as a domain or a template; `None` changes nothing.
        seed: Decides the splits.

    Raises:
        ValueError: A row lacks the field, or there are fewer groups than splits.
    """
    if group is None:
        return raw
    rows: list[Row] = [row for split in SPLITS for row in raw.rows.get(split, ())]
    for split, own in raw.rows.items():
        for position, row in enumerate(own):
            if row.get(group) is None:
                raise ValueError(
                    f"{raw.locate(split, position)} has no `{group}`, which `suite.group` names; it has "
                    f"{', '.join(row)}. Add it to every row, or set `suite.group` to another field."
                )
    groups = [str(row[group]) for row in rows]
    shares = {split: len(raw.rows[split]) / len(rows) for split in SPLITS if len(raw.rows.get(split, ())) > 0}
    if len(set(groups)) < len(shares):
        raise ValueError(
            f"Task '{raw.name}' has {len(set(groups))} groups by `{group}`, too few for {len(shares)} splits that "
            "share none. Set `suite.group` to another field."
        )
    in_split = draw_splits([groups], _strata(rows), shares, seed=seed, task=raw.name)
    drawn: dict[str, Sequence[Row]] = {
        split: [row for row, own in zip(rows, in_split, strict=True) if own == split] for split in shares
    }
    return replace(raw, rows=drawn, locations=dict.fromkeys(shares, f"counted within its split, drawn by `{group}`"))


def groups_of_rows(task: Task) -> dict[str, np.ndarray]:
    """Which training and validation rows belong together: those of one text, or of one value of `suite.group`.

    Returns:
        `train` and `validation` → number of each row's group, int64 `(rows,)`, of both splits together; empty if every
        row, or every sentence of words, is a group of its own.

    >>> rows = Split(("a", "b", "a"), (0, 1, 0), ("", "", ""))
    >>> groups_of_rows(Task("t", "classification", ("x", "y"), dict.fromkeys(SPLITS, rows)))["train"].tolist()
    [0, 1, 0]
    """
    train, validation = task.splits["train"], task.splits["validation"]
    prompts, values = [*train.prompts, *validation.prompts], [*train.groups, *validation.groups]
    singles = len(prompts)
    if train.words is not None and validation.words is not None:  # the prompt of a word is its sentence
        singles = sum(len(np.unique(words.sentence)) for words in (train.words, validation.words))
    if len(set(prompts)) == singles and len(set(values)) == len(values):
        return {}
    numbers = connected([prompts, values] if values else [prompts]).astype(np.int64)
    return {"train": numbers[: len(train)], "validation": numbers[len(train) :]}


def values_of_group(task: Task) -> dict[str, np.ndarray]:
    """Which rows of a split share a value of `suite.group`.

    Returns:
        Split → number of each row's value, int64 `(rows,)`; empty where no validation or test row shares its value.

    >>> rows = Split(("a", "b", "c"), (0, 1, 0), ("",) * 3, groups=("x", "y", "x"))
    >>> values_of_group(Task("t", "classification", ("x", "y"), dict.fromkeys(SPLITS, rows)))["test"].tolist()
    [0, 1, 0]
    """
    values = {split: task.splits[split].groups for split in SPLITS}
    if all(len(set(values[split])) == len(values[split]) for split in ("validation", "test")):
        return {}
    return {split: np.unique(own, return_inverse=True)[1].astype(np.int64) for split, own in values.items()}


def divided(task: Task, column: str) -> tuple[Task, ...]:
    """A task for each value of a column, such as a domain, named after task and value.

    Values are left out whose rows lack a split or a class of the training split.

    Args:
        task: With this column.
        column: One of `Split.columns`.

    Raises:
        ValueError: The task lacks the column, or fewer than two values have enough rows.
    """
    if any(column not in split.columns for split in task.splits.values()):
        raise ValueError(
            f"Task '{task.name}' has no column '{column}' to be divided by; it has "
            f"{', '.join(task.splits['train'].columns) or 'none'}. Name it in `suite.nuisances`."
        )
    values = dict.fromkeys(map(str, task.splits["train"].columns[column]))
    parts = [part for value in values if (part := _part(task, column, value)) is not None]
    if len(parts) < 2:
        raise ValueError(
            f"Task '{task.name}': {len(parts)} of {len(values)} values of '{column}' have rows of every class and "
            "split; two are needed. Divide by another column."
        )
    return tuple(parts)


def _part(task: Task, column: str, value: str) -> Task | None:
    splits: dict[str, Split] = {}
    for name, split in task.splits.items():
        splits[name] = split.at([row for row, own in enumerate(split.columns[column]) if str(own) == value])
    complete = all(len(splits[split]) > 0 for split in ("train", "test"))
    if task.kind == "classification":
        complete = complete and set(splits["train"].labels) == set(range(len(task.labels)))
    return replace(task, name=f"{task.name}[{value}]", splits=splits) if complete else None


def _strata(rows: Iterable[Row]) -> list[Any]:
    """The class of each row; one for all where labels are numbers or lists."""
    labels = [row.get("label", row.get("targets")) for row in rows]
    is_classes = all(isinstance(label, str | int) for label in labels) and len(set(map(str, labels))) <= len(labels) / 5
    return [str(label) for label in labels] if is_classes else [""] * len(labels)
