"""Which rows belong to which split: names, a validation split where there is none, and a cap on the rows."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from probes.tasks.task import Label, TaskKind
from probes.values import SPLITS

_log = logging.getLogger(__name__)

_ALIASES = {"val": "validation", "valid": "validation", "dev": "validation", "eval": "validation"}
_VALIDATION_SHARE = 0.2
_VALIDATION_ROWS = 1000

MaxRows = int | Mapping[str, int | None] | None


def split_name(name: str) -> str:
    """The word used here for a split: `val`, `valid`, `dev` and `eval` are `validation`; others stay as they are.

    Example:
        >>> split_name("dev"), split_name("test")
        ('validation', 'test')
    """
    return _ALIASES.get(name, name)


def generator(seed: int, *names: str) -> np.random.Generator:
    """Random numbers that depend on the seed and the names alone, never on global state or on other tasks."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def carve_validation(keys: Sequence[Hashable], strata: Sequence[Hashable], *, seed: int, task: str) -> np.ndarray:
    """Draw a fifth of the training rows, at most 1,000, as the validation split.

    Args:
        keys: What a row says; rows with equal keys stay together, so that no row ends up on both sides.
        strata: The label of each row; each keeps its share on both sides.
        seed: `suite.seed`.
        task: Name of the task, part of the seed.

    Returns:
        bool, shape `(rows,)`: true where the row goes to validation.
    """
    rng = generator(seed, task, "carve")
    share = min(_VALIDATION_SHARE, _VALIDATION_ROWS / max(1, len(keys)))
    groups: dict[Hashable, list[Hashable]] = {}
    for key, stratum in zip(keys, strata, strict=True):
        groups.setdefault(stratum, []).append(key)
    chosen: set[Hashable] = set()
    for members in groups.values():
        distinct = [key for key in dict.fromkeys(members) if key not in chosen]
        count = min(len(distinct) - 1, max(1, round(share * len(distinct))))
        chosen.update(distinct[i] for i in rng.permutation(len(distinct))[: max(0, count)])
    return np.array([key in chosen for key in keys], dtype=bool)


def row_cap(max_rows: MaxRows, split: str) -> int | None:
    """How many rows of a split are wanted at most, `None` for all.

    Raises:
        ValueError: `suite.max_rows` is neither empty, a whole number from 1 up, nor a mapping of splits to these.
    """
    if isinstance(max_rows, Mapping):
        caps = {split_name(name): cap for name, cap in max_rows.items()}
        unknown = sorted(set(caps) - set(SPLITS))
        if unknown:
            raise ValueError(f"`suite.max_rows` knows the splits {', '.join(SPLITS)}; got {', '.join(unknown)}.")
        cap = caps.get(split)
    else:
        cap = max_rows
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        raise ValueError(
            f"`suite.max_rows` expects a whole number from 1 up, or a mapping of splits to such; got {max_rows!r}."
        )
    return cap


def capped(labels: Sequence[Label], kind: TaskKind, cap: int | None, *, seed: int, task: str, split: str) -> np.ndarray:
    """Positions of the rows kept, in order: at most `cap`, drawn by the seed so that no class vanishes.

    Every class keeps its share of the rows and at least one; of multi-label rows, every label keeps a bearer;
    generation and regression rows are drawn evenly. A smaller cap keeps (but for rounding) a part of what a larger
    one keeps.

    Raises:
        ValueError: There are more classes in the training split than rows wanted.
    """
    total = len(labels)
    if cap is None or total <= cap:
        return np.arange(total)
    order = generator(seed, task, split, "cap").permutation(total)
    if kind == "classification":
        kept = _by_class(labels, order, cap)
    elif kind == "multilabel":
        kept = _by_bearer(labels, order, cap)
    else:
        kept = order[:cap]
    classes = len(set(labels)) if kind == "classification" else 0
    if split == "train" and classes > cap:
        raise ValueError(
            f"Task '{task}' has {classes} classes in its training split, so {cap} rows cannot hold one of each. "
            f"Set `suite.max_rows` (or `suite.max_rows.train`) to {classes} or more."
        )
    return np.sort(np.asarray(kept, dtype=np.int64))


def _by_class(labels: Sequence[Label], order: np.ndarray, cap: int) -> list[int]:
    members: dict[Label, list[int]] = {}
    for position in order.tolist():
        members.setdefault(labels[position], []).append(position)
    shares = {label: cap * len(rows) / len(labels) for label, rows in members.items()}
    counts = {label: max(1, int(share)) for label, share in shares.items()}
    by_remainder = sorted(shares, key=lambda label: (counts[label] - shares[label], str(label)))
    while sum(counts.values()) < cap:
        for label in by_remainder:
            if sum(counts.values()) < cap and counts[label] < len(members[label]):
                counts[label] += 1
    while sum(counts.values()) > cap:
        largest = max(counts, key=lambda label: (counts[label], str(label)))
        counts[largest] -= 1
    return [position for label, rows in members.items() for position in rows[: counts[label]]]


def _by_bearer(labels: Sequence[Label], order: np.ndarray, cap: int) -> list[int]:
    first_bearers: dict[int, int] = {}
    for position in order.tolist():
        entries = labels[position]
        for index, entry in enumerate(entries if isinstance(entries, tuple) else ()):
            if entry:
                first_bearers.setdefault(index, position)
    return list(dict.fromkeys([*first_bearers.values(), *order.tolist()]))[:cap]
