"""Pairs of texts with a gold score of how alike they are: what similarity and retrieval are measured on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from probes.tasks.checks import check_prompts
from probes.tasks.splits import MaxRows, draw_rows, row_cap
from probes.tasks.task import RawTask, Split, Task

_FIELDS = ("first", "second")


def build_pairs(raw: RawTask, *, max_rows: MaxRows = None, seed: int = 0) -> Task:
    """The test rows of a task of pairs; nothing is trained on them, so that it has no other split.

    Args:
        raw: Its test rows have the texts `first` and `second`, and a number as `label`, larger for texts that are more
            alike; 1 in every row of pairs that all match.
        max_rows: At most this many test rows.
        seed: Decides which rows are drawn.

    Raises:
        ValueError: There are no test rows, or a row lacks a text or a number.

    Example:
        >>> row = {"first": "A dog barks.", "second": "There is a barking dog.", "label": 4.5}
        >>> build_pairs(RawTask(name="sts", kind="pairs", rows={"test": [row]})).splits["test"].seconds
        ('There is a barking dog.',)
    """
    rows = raw.rows.get("test", ())
    if not rows:
        raise ValueError(
            f"Task '{raw.name}' of pairs has no test rows; splits with rows: "
            f"{', '.join(split for split, own in raw.rows.items() if own) or 'none'}. Add them, or leave the task out "
            "of `suite.tasks`."
        )
    scores = [_score(raw, row.get("label"), position) for position, row in enumerate(rows)]
    cap = row_cap(max_rows, "test")
    drawn = draw_rows(scores, "pairs", cap, seed=seed, task=raw.name, split="test").tolist()
    first, second = (tuple(_text(raw, position, field) for position in drawn) for field in _FIELDS)
    for texts in (first, second):
        check_prompts(raw, "test", drawn, texts)
    labels = tuple(np.array(scores)[drawn].tolist())
    test = Split(first, labels, ("",) * len(drawn), seconds=second)
    return Task(raw.name, "pairs", (), {"test": test}, cluster=raw.cluster, unseen=raw.unseen, source=raw.source)


def _text(raw: RawTask, position: int, field: str) -> str:
    row = raw.rows["test"][position]
    text = row.get(field)
    if isinstance(text, str):
        return text
    raise ValueError(
        f"{raw.locate('test', position)} has no text `{field}`; it has {', '.join(row)}. A row of pairs has the "
        "texts `first` and `second`."
    )


def _score(raw: RawTask, value: Any, position: int) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number:
        raise ValueError(
            f"Label {value!r} of {raw.locate('test', position)} is not a finite number. A row of pairs has its gold "
            "score as `label`, larger for texts that are more alike; write 1 in every row if all pairs match."
        )
    return float(value)
