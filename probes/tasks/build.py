"""From rows as read to tasks as studied: labels, a validation split, the cap on rows, prompts, and all checks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from probes.tasks.checks import check_classes, check_leaks, check_splits, check_texts
from probes.tasks.labels import Labelling, read_labels
from probes.tasks.splits import MaxRows, capped, carve_validation, row_cap
from probes.tasks.task import RawTask, Render, Split, Task
from probes.values import SPLITS

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
Positions = Mapping[str, tuple[str, np.ndarray]]
"""Split → the split as read that its rows come from, and their positions there."""


def build_task(
    table: RawTask, render: Render, *, max_rows: MaxRows = None, seed: int = 0, strict: bool = False
) -> Task:
    """Settle one task from its rows.

    Args:
        table: Rows as read; a missing validation split is carved from train by the seed.
        render: Row → prompt.
        max_rows: Rows wanted at most in each split, or a mapping split → rows; `None` for all.
        seed: Decides which rows are carved and which are kept.
        strict: Refuse leaks between splits instead of warning.

    Raises:
        ValueError: Bad input; see `probes.tasks.checks` and `probes.tasks.labels`.
    """
    check_splits(table)
    labelling = read_labels(table)
    positions = _split_positions(table, labelling, render, seed)
    splits: dict[str, Split] = {}
    for split in SPLITS:
        origin, available = positions[split]
        labels = _take(labelling.by_split[origin], available)
        kept = capped(labels, labelling.kind, row_cap(max_rows, split), seed=seed, task=table.name, split=split)
        splits[split] = _split(table, labelling, render, origin, available[kept])
    task = Task(
        table.name,
        labelling.kind,
        labelling.labels,
        splits,
        cluster=table.cluster,
        unseen=table.unseen,
        source=table.source,
    )
    check_classes(task)
    check_leaks(task, strict=strict)
    return task


def _split_positions(table: RawTask, labelling: Labelling, render: Render, seed: int) -> Positions:
    if "validation" in table.rows:
        return {split: (split, np.arange(len(table.rows[split]))) for split in SPLITS}
    keys = [render(row) for row in table.rows["train"]]
    labels = labelling.by_split["train"]
    strata = labels if labelling.kind == "classification" else [None] * len(labels)
    chosen = carve_validation(keys, strata, seed=seed, task=table.name)
    if not chosen.any():
        raise ValueError(
            f"Task '{table.name}' has no validation split and too few training rows ({len(keys)}) to carve one from. "
            "Add the split, or leave the task out of `suite.tasks`."
        )
    _log.warning(
        "Task '%s' has no validation split: %d of its %d training rows serve as one, drawn by `suite.seed`=%d.",
        table.name, chosen.sum(), len(keys), seed,
    )  # fmt: skip
    carved = {"train": ("train", np.flatnonzero(~chosen)), "validation": ("train", np.flatnonzero(chosen))}
    return {**carved, "test": ("test", np.arange(len(table.rows["test"])))}


def _split(table: RawTask, labelling: Labelling, render: Render, origin: str, positions: np.ndarray) -> Split:
    rows = table.rows[origin]
    prompts = [render(rows[i]) for i in positions.tolist()]
    check_texts(table, origin, positions.tolist(), prompts)
    labels = _take(labelling.by_split[origin], positions)
    return Split(tuple(prompts), tuple(labels), tuple(_take(labelling.targets[origin], positions)))


def _take(values: Sequence[_T], positions: np.ndarray) -> list[_T]:
    return [values[i] for i in positions.tolist()]
