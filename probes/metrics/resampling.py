"""Which rows are drawn in a resample, or matched with which targets: rows one by one, or groups as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowGroups:
    """Rows that may be alike, and so are resampled, permuted and exchanged together.

    Attributes:
        number: Number of each row's group, int64 `(rows,)`.
        name: What the groups are, in the plural: `sentences` of words, or `groups`, the values of `suite.group`.
    """

    number: Tensor
    name: str

    @property
    def count(self) -> int:
        """How many groups there are."""
        return len(self.number.unique())


def bootstrap_counts(rows: int, samples: int, *, seed: int, groups: Tensor | None = None) -> Tensor:
    """How often each row is drawn in each resample of `rows` rows with replacement.

    One matrix serves every layer and every control, so that their differences are paired.

    Args:
        rows: Rows to draw from, and rows in each resample.
        samples: Number of resamples.
        seed: Determines the draws, identically on every machine; 0 is a seed like any other.
        groups: Number of each row's group, int64 `(rows,)`: groups, such as sentences of words, are drawn in place of
            rows, each with all of its rows.

    Returns:
        float32 counts, shape `(samples, rows)`; each resample sums to `rows`, or has as many groups as there are.

    >>> bootstrap_counts(10, 3, seed=0).sum(1).tolist()
    [10.0, 10.0, 10.0]
    """
    if groups is not None:
        number = groups.unique(return_inverse=True)[1]
        return bootstrap_counts(int(number.max()) + 1, samples, seed=seed)[:, number]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(rows, (samples, rows), generator=generator)
    return torch.zeros(samples, rows).scatter_add_(1, drawn, torch.ones(samples, rows))


def permuted_orders(rows: int, permutations: int, *, seed: int, groups: Tensor | None = None) -> Tensor:
    """Random orders of rows, as `permuted_scores` matches them with targets.

    Args:
        rows: Number of rows.
        permutations: Number of orders; 0 for none.
        seed: Determines them; 0 is a seed like any other.
        groups: Number of each row's group, int64 `(rows,)`: each group, such as a sentence of words, is matched with
            another, row by row from its first, so that what makes the rows of a group alike is the same by chance. A
            longer group begins the shorter one again; the rest of a longer one is not used.

    Returns:
        int64, shape `(permutations, rows)`.

    >>> permuted_orders(5, 1, seed=1, groups=torch.tensor([0, 0, 1, 1, 1])).tolist()
    [[2, 3, 0, 1, 0]]
    """
    generator = torch.Generator().manual_seed(seed)
    orders = torch.empty(permutations, rows, dtype=torch.long)
    if groups is None:
        for order in orders:
            torch.randperm(rows, generator=generator, out=order)
        return orders
    number = groups.unique(return_inverse=True)[1]
    by_group = number.argsort(stable=True)
    lengths = number.bincount()
    starts = lengths.cumsum(0) - lengths
    within = torch.empty_like(number)
    within[by_group] = torch.arange(rows) - starts[number[by_group]]  # place of each row in its group
    for order in orders:
        other = torch.randperm(len(lengths), generator=generator)[number]
        order.copy_(by_group[starts[other] + within % lengths[other]])
    return orders
