"""Which rows go to which split: names of splits, splits drawn or carved from train, and caps on the rows."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from probes.tasks.task import Label, TaskKind
from probes.values import SPLITS

MaxRows = int | Mapping[str, int | None] | None
"""At most this many rows in every split, or split → number; `None` for all rows."""

CARVED_SHARE = 0.2
"""Share of the training rows that a carved validation split gets, ..."""
CARVED_ROWS = 1_000
"""... and the most rows it gets: more make the choice of a penalty or a layer no better."""

_ALIASES = {"val": "validation", "valid": "validation", "dev": "validation", "eval": "validation"}


def split_name(name: str) -> str:
    """The project's name of a split: `val`, `valid`, `dev` and `eval` are `validation`; other names stay as they are.

    Example:
        >>> split_name("dev"), split_name("test")
        ('validation', 'test')
    """
    return _ALIASES.get(name, name)


def carve_validation(keys: Sequence[Hashable], strata: Sequence[Hashable], *, seed: int, task: str) -> np.ndarray:
    """Draw a fifth of the training rows, at most 1,000, as the validation split.

    Args:
        keys: One per row; rows with equal keys go to the same side, so that the carving makes no leak.
        strata: The label of each row; each label has about the same share on both sides.
        seed: `suite.seed`.
        task: Name of the task; each draws rows of its own.

    Returns:
        bool, shape `(rows,)`: true where the row goes to validation.
    """
    rng = named_generator(seed, task, "carve")
    share = min(CARVED_SHARE, CARVED_ROWS / max(1, len(keys)))
    keys_by_stratum: dict[Hashable, list[Hashable]] = {}
    for key, stratum in zip(keys, strata, strict=True):
        keys_by_stratum.setdefault(stratum, []).append(key)
    chosen: set[Hashable] = set()
    for stratum_keys in keys_by_stratum.values():
        distinct = [key for key in dict.fromkeys(stratum_keys) if key not in chosen]
        count = min(len(distinct) - 1, max(1, round(share * len(distinct))))  # train keeps at least one
        chosen.update(distinct[i] for i in rng.permutation(len(distinct))[: max(0, count)])
    return np.array([key in chosen for key in keys], dtype=bool)


def draw_splits(
    keys: Sequence[Sequence[Hashable]],
    strata: Sequence[Hashable],
    shares: Mapping[str, float],
    *,
    seed: int,
    task: str,
) -> list[str]:
    """Draw the split of every row, so that rows that share a key stay together and strata are spread evenly.

    Rows that belong together are placed first, the largest sets before the others, each where it brings the numbers of
    rows of each stratum closest to their shares. Then the single rows of each stratum fill what is left; a stratum with
    enough single rows has one in every split.

    Args:
        keys: Columns of keys, such as texts and authors, each with one entry per row; rows with an equal entry in any
            column go to the same split.
        strata: The class of each row, or the same value for all.
        shares: Split → its share of the rows; they sum to 1.
        seed: `suite.seed`.
        task: Name of the task; each draws rows of its own.

    Returns:
        The split of each row.

    Example:
        >>> draw_splits([list("aabcde")], [0] * 6, {"train": 0.5, "test": 0.5}, seed=0, task="demo").count("train")
        3
    """
    rng = named_generator(seed, task, "splits")
    sets = connected(keys)
    classes = np.unique(_numbered(strata), return_inverse=True)[1]
    wanted = np.outer(list(shares.values()), np.bincount(classes))  # (splits, strata): numbers of rows
    placed = np.zeros_like(wanted)
    split_of_row = np.full(len(classes), -1)
    sizes = np.bincount(sets)
    order = rng.permutation(len(sizes))
    rows_of_set = np.split(np.argsort(sets, kind="stable"), np.cumsum(sizes)[:-1])
    for index in sorted(order[sizes[order] > 1].tolist(), key=lambda index: -sizes[index]):
        rows = rows_of_set[index]
        added = np.bincount(classes[rows], minlength=wanted.shape[1])
        distance = (np.square(placed + added - wanted) - np.square(placed - wanted)) / wanted
        best = int(distance.sum(axis=1).argmin())
        placed[best] += added
        split_of_row[rows] = best
    for stratum in range(wanted.shape[1]):
        rows = rng.permutation(np.flatnonzero((classes == stratum) & (split_of_row < 0)))
        counts = _fill(wanted[:, stratum], placed[:, stratum], len(rows))
        split_of_row[rows] = np.repeat(np.arange(len(shares)), counts)
    names = list(shares)
    return [names[index] for index in split_of_row.tolist()]


def row_cap(max_rows: MaxRows, split: str) -> int | None:
    """The most rows a split may have, `None` for no limit.

    Raises:
        ValueError: `suite.max_rows` is neither null, nor an integer of at least 1, nor a mapping of splits to these.
    """
    if isinstance(max_rows, Mapping):
        caps = {split_name(name): cap for name, cap in max_rows.items()}
        unknown = sorted(set(caps) - set(SPLITS))
        if unknown:
            raise ValueError(f"`suite.max_rows` has no split {', '.join(unknown)}. Its splits are {', '.join(SPLITS)}.")
        cap = caps.get(split)
    else:
        cap = max_rows
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        raise ValueError(
            f"`suite.max_rows` must be an integer of at least 1, or a mapping of splits to such integers; got "
            f"{max_rows!r}."
        )
    return cap


def draw_rows(
    labels: Sequence[Label], kind: TaskKind, cap: int | None, *, seed: int, task: str, split: str
) -> np.ndarray:
    """Draw at most `cap` rows of a split so that no class vanishes.

    Every class keeps its share of the rows and at least one row; in multi-label tasks every class keeps a row that has
    it; generation and regression rows are drawn uniformly. What a smaller cap draws is, up to rounding, a subset of
    what a larger one draws.

    Returns:
        int64, shape `(drawn,)`: positions of the rows, ascending.

    Raises:
        ValueError: The training split has more classes than `cap`.
    """
    total = len(labels)
    if cap is None or total <= cap:
        return np.arange(total)
    classes = len(set(labels)) if kind == "classification" else 0
    if split == "train" and classes > cap:
        raise ValueError(
            f"Task '{task}' has {classes} classes in its training split, so {cap} rows cannot hold one of each. "
            f"Set `suite.max_rows` (or `suite.max_rows.train`) to {classes} or more."
        )
    order = named_generator(seed, task, split, "cap").permutation(total)
    if kind == "classification":
        drawn = _stratified(labels, order, cap)
    elif kind == "multilabel":
        drawn = _one_row_per_class_first(labels, order)[:cap]
    else:
        drawn = order[:cap]
    return np.sort(np.asarray(drawn, dtype=np.int64))


def named_generator(seed: int, *names: str) -> np.random.Generator:
    """A random generator that depends only on the seed and the names, not on global state or on other tasks."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def _numbered(values: Sequence[Hashable]) -> np.ndarray:
    """Equal values as equal numbers, in the order of their first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


def connected(keys: Sequence[Sequence[Hashable]]) -> np.ndarray:
    """Number of the set of each row, int64 `(rows,)`: rows with an equal entry in any column are in one set."""
    from scipy.sparse import coo_array  # imported here because it takes half a second
    from scipy.sparse.csgraph import connected_components

    rows = len(keys[0])
    nodes = rows
    ends = []
    for column in keys:  # a graph between rows and keys
        numbers = _numbered(column)
        ends.append(nodes + numbers)
        nodes += int(numbers.max(initial=-1)) + 1
    start = np.tile(np.arange(rows), len(keys))
    graph = coo_array((np.ones(len(start)), (start, np.concatenate(ends))), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1][:rows]


def _fill(wanted: np.ndarray, placed: np.ndarray, rows: int) -> np.ndarray:
    """How many of some rows each split gets, `(splits,)`, to bring the numbers placed close to those wanted."""
    missing = np.maximum(wanted - placed, 0)
    quotas = rows * missing / missing.sum() if missing.sum() > 0 else rows * wanted / wanted.sum()
    counts = np.floor(quotas).astype(int)
    if rows >= len(wanted):
        counts = np.where(placed + counts == 0, 1, counts)
    while counts.sum() < rows:
        counts[np.argmax(quotas - counts)] += 1
    while counts.sum() > rows:  # one row in every split took rows from the large ones
        counts[np.argmax(counts)] -= 1
    return counts


def _stratified(labels: Sequence[Label], order: np.ndarray, cap: int) -> list[int]:
    """The first rows of each class in `order`; the numbers per class follow the largest remainder method."""
    positions: dict[Label, list[int]] = {}
    for position in order.tolist():
        positions.setdefault(labels[position], []).append(position)
    quotas = {label: cap * len(rows) / len(labels) for label, rows in positions.items()}
    counts = {label: max(1, int(quota)) for label, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda label: (counts[label] - quotas[label], str(label)))
    while sum(counts.values()) < cap:
        for label in by_remainder:
            if sum(counts.values()) < cap and counts[label] < len(positions[label]):
                counts[label] += 1
    while sum(counts.values()) > cap:  # rounding rare classes up to one row took rows from the frequent ones
        largest = max(counts, key=lambda label: (counts[label], str(label)))
        counts[largest] -= 1
    return [position for label, rows in positions.items() for position in rows[: counts[label]]]


def _one_row_per_class_first(labels: Sequence[Label], order: np.ndarray) -> list[int]:
    """All positions in `order`, but with the first row of every class moved to the front."""
    first_rows: dict[int, int] = {}
    for position in order.tolist():
        entries = labels[position]
        for index, entry in enumerate(entries if isinstance(entries, tuple) else ()):
            if entry:
                first_rows.setdefault(index, position)
    return list(dict.fromkeys([*first_rows.values(), *order.tolist()]))
