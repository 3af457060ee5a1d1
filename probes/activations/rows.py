"""Names of rows: what every join between activations, labels and predictions goes through."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence


def row_ids(task: str, split: str, texts: Sequence[str], labels: Sequence[object]) -> tuple[str, ...]:
    """A unique name a row, decided by its task, split, text, label and how often that has come before.

    Args:
        task: Name of the task.
        split: Name of the split.
        texts: What tells the rows' texts apart: the texts themselves where several backbones, which cut them into
            tokens of their own, are to name a row alike; else hashes of their token ids.
        labels: The rows' labels.

    >>> a, b = row_ids("sst2", "test", ["17", "17"], [0, 0])
    >>> a != b and (a, b) == row_ids("sst2", "test", ["17", "17"], [0, 0])
    True
    """
    seen: Counter[tuple[str, object]] = Counter()
    names = []
    for text, label in zip(texts, labels, strict=True):
        occurrence = seen[text, label]
        seen[text, label] += 1
        content = f"{task}\0{split}\0{text}\0{label}\0{occurrence}"
        names.append(hashlib.blake2b(content.encode(), digest_size=12).hexdigest())
    return tuple(names)
