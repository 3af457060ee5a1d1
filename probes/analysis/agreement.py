"""Do other similarity measures say the same as CKA, cell by cell?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata


class Agreement(NamedTuple):
    """Spearman's correlation over cells, its 95 % interval over resampled tasks, and the number of cells."""

    value: float
    ci_low: float
    ci_high: float
    n: int


def rank_agreement(x: np.ndarray, y: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> Agreement:
    """Rank correlation of two layer × task matrices over the cells both have.

    Args:
        x: Shape `(layers, tasks)`, NaN where unknown.
        y: The same.
        resamples: Draws of tasks, with replacement, behind the interval: tasks are the unit that varies.
        seed: Decides the draws.

    Returns:
        NaN values where fewer than 3 cells are known or one side is constant; a NaN interval below 3 tasks.
    """
    known = np.isfinite(x) & np.isfinite(y)
    value = _spearman(x[known], y[known])
    if x.shape[1] < 3:
        return Agreement(value, np.nan, np.nan, int(known.sum()))
    rng = np.random.default_rng(seed)
    draws = []
    for tasks in rng.integers(x.shape[1], size=(resamples, x.shape[1])):
        own = known[:, tasks]
        draws.append(_spearman(x[:, tasks][own], y[:, tasks][own]))
    low, high = np.nanpercentile(draws, [2.5, 97.5]) if np.isfinite(draws).any() else (np.nan, np.nan)
    return Agreement(value, float(low), float(high), int(known.sum()))


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 3 or (x == x[0]).all() or (y == y[0]).all():
        return float("nan")
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])
