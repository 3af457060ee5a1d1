"""From a raw task to a task: encoded labels, a validation split, capped splits, rendered prompts, and every check."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from probes.tasks.checks import check_classes, check_leaks, check_prompts, check_splits
from probes.tasks.labels import EncodedLabels, encode_labels
from probes.tasks.splits import MaxRows, carve_validation, connected, draw_rows, row_cap
from probes.tasks.task import RawTask, Render, Split, Task
from probes.values import SPLITS

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
_Positions = Mapping[str, tuple[str, np.ndarray]]
"""Split of the task → the raw split its rows come from, and their positions in it."""


def build_task(
    raw: RawTask,
    render: Render,
    *,
    max_rows: MaxRows = None,
    seed: int = 0,
    strict: bool = False,
    columns: Sequence[str] = (),
    group: str | None = None,
) -> Task:
    """Encode the labels of a raw task, draw its rows and render its prompts.

    Args:
        raw: The task as read; a missing validation split is carved from train.
        render: Row → prompt.
        max_rows: At most this many rows in each split, or a mapping split → rows; `None` for all.
        seed: Decides which rows go to a carved validation split and which rows are drawn.
        strict: Raise on prompts that two splits share instead of warning.
        columns: Fields of the rows to keep in `Split.columns`.
        group: Field of the rows to keep in `Split.groups`; a carved validation split shares none with train.

    Raises:
        ValueError: Bad input; see `probes.tasks.checks` and `probes.tasks.labels`.
    """
    check_splits(raw)
    encoded = encode_labels(raw)
    _check_order(raw, encoded)
    positions = _split_positions(raw, encoded, render, seed, group)
    splits: dict[str, Split] = {}
    for split in SPLITS:
        origin, available = positions[split]
        labels = _take(encoded.labels[origin], available)
        drawn = draw_rows(labels, encoded.kind, row_cap(max_rows, split), seed=seed, task=raw.name, split=split)
        splits[split] = _render_split(raw, encoded, render, origin, available[drawn], columns, group)
    task = Task(
        raw.name,
        encoded.kind,
        encoded.class_names,
        splits,
        cluster=raw.cluster,
        unseen=raw.unseen,
        source=raw.source,
        ordered=raw.ordered,
        asks_for=raw.asks_for,
    )
    check_classes(task)
    check_leaks(task, strict=strict)
    return task


def _check_order(raw: RawTask, encoded: EncodedLabels) -> None:
    if raw.ordered and (encoded.kind != "classification" or raw.labels is None):
        what = f"of kind {encoded.kind}" if encoded.kind != "classification" else "without `labels`"
        raise ValueError(
            f"Task '{raw.name}' is declared `ordered` but is {what}; the order is that of the declared `labels` of a "
            "classification task. Add `labels` from the lowest class to the highest, or remove `ordered`."
        )


def _split_positions(raw: RawTask, encoded: EncodedLabels, render: Render, seed: int, group: str | None) -> _Positions:
    if "validation" in raw.rows:
        return {split: (split, np.arange(len(raw.rows[split]))) for split in SPLITS}
    prompts = _rendered(raw, render, "train", np.arange(len(raw.rows["train"])))
    labels = encoded.labels["train"]
    strata = labels if encoded.kind == "classification" else [None] * len(labels)
    keys: Sequence[Hashable] = prompts
    if group is not None:
        keys = connected([prompts, [str(row[group]) for row in raw.rows["train"]]]).tolist()
    in_validation = carve_validation(keys, strata, seed=seed, task=raw.name)
    if not in_validation.any():
        raise ValueError(
            f"Task '{raw.name}' has no validation split and too few training rows ({len(prompts)}) to carve one from. "
            "Add the split, or leave the task out of `suite.tasks`."
        )
    _log.warning(
        "Task '%s' has no validation split: %d of its %d training rows serve as one, drawn by `suite.seed`=%d.",
        raw.name, in_validation.sum(), len(prompts), seed,
    )  # fmt: skip
    return {
        "train": ("train", np.flatnonzero(~in_validation)),
        "validation": ("train", np.flatnonzero(in_validation)),
        "test": ("test", np.arange(len(raw.rows["test"]))),
    }


def _render_split(
    raw: RawTask,
    encoded: EncodedLabels,
    render: Render,
    origin: str,
    positions: np.ndarray,
    columns: Sequence[str],
    group: str | None,
) -> Split:
    prompts = _rendered(raw, render, origin, positions)
    check_prompts(raw, origin, positions.tolist(), prompts)
    labels, targets = _take(encoded.labels[origin], positions), _take(encoded.targets[origin], positions)
    kept = {name: _column(raw, origin, positions, name) for name in columns}
    groups = () if group is None else tuple(str(raw.rows[origin][position][group]) for position in positions.tolist())
    return Split(tuple(prompts), tuple(labels), tuple(targets), columns=kept, groups=groups)


def _column(raw: RawTask, origin: str, positions: np.ndarray, name: str) -> tuple[Any, ...]:
    """One field of some rows: texts and numbers as they are, anything else as text.

    Raises:
        ValueError: A row lacks it.
    """
    values = []
    for position in positions.tolist():
        row = raw.rows[origin][position]
        if row.get(name) is None:
            raise ValueError(
                f"{raw.locate(origin, position)} has no `{name}`, which `suite.nuisances` names; it has "
                f"{', '.join(row)}. Add it to every row, or leave it out of `suite.nuisances`."
            )
        values.append(row[name] if isinstance(row[name], str | int | float) else str(row[name]))
    return tuple(values)


def _rendered(raw: RawTask, render: Render, split: str, positions: np.ndarray) -> list[str]:
    """The prompts of rows.

    Raises:
        ValueError: A row lacks a field of its prompt, or the field holds no text; the message names the row.
    """
    prompts = []
    for position in positions.tolist():
        row = raw.rows[split][position]
        try:
            prompts.append(render(row))
        except KeyError as error:
            raise ValueError(
                f"The prompt of {raw.locate(split, position)} needs the field {error}; the row has {', '.join(row)}. "
                "Add it, or choose another `suite.prompt` or `suite.template`."
            ) from error
        except TypeError as error:
            raise ValueError(f"The prompt of {raw.locate(split, position)} cannot be made: {error}") from error
    return prompts


def _take(values: Sequence[_T], positions: np.ndarray) -> list[_T]:
    return [values[i] for i in positions.tolist()]
