"""p of every cell of a layer × task quantity: of each by itself, and corrected for looking at all of them.

How a cell is tested follows from its null:

| null of the cells | p of a cell | p corrected for all cells of the quantity |
|---|---|---|
| draws, such as values under permutations | share of draws as large | single-step maxT over the same draws |
| a known value, and errors | Student's t | Holm |

maxT knows how strongly the layers of a task depend on each other; Holm does not need to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import norm, pearson3, skew
from scipy.stats import t as student_t

from probes.analysis.intervals import degrees_of_freedom
from probes.values import Alternative, Estimates, LayerProfile

Tail = Literal["counted", "moments"]
"""How small p values are found: by counting draws of the null, or from a distribution with the moments of the null."""


class PValues(NamedTuple):
    """p of some cells, NaN where a cell is not tested.

    Attributes:
        cell: Of each cell by itself, shape `(cells,)`.
        family: Corrected for looking at all cells, shape `(cells,)`.
    """

    cell: np.ndarray
    family: np.ndarray


def with_p_values(profiles: Sequence[LayerProfile], *, tail: Tail = "counted") -> list[LayerProfile]:
    """The same profiles with p of every cell that has a null.

    Args:
        profiles: Of one quantity, reading and role, one for each task; their cells are one family. A profile whose null
            differs in kind from the first tested one's, or that has none, is not tested and not in the family.
        tail: As in `permutation_p`.
    """
    kinds = [_kind_of_null(profile.estimates) for profile in profiles]
    kind = next(filter(None, kinds), None)
    tested = [profile for profile, own in zip(profiles, kinds, strict=True) if own == kind]
    if kind is None:
        return list(profiles)
    p = _by_draws(tested, tail) if kind == "draws" else _by_errors(tested)
    ends = np.cumsum([len(profile.layers) for profile in tested])[:-1]
    parts = zip(np.split(p.cell, ends), np.split(p.family, ends), strict=True)
    return [
        replace(profile, estimates=_with(profile.estimates, *next(parts))) if own == kind else profile
        for profile, own in zip(profiles, kinds, strict=True)
    ]


def permutation_p(
    observed: np.ndarray, null: np.ndarray, *, alternative: Alternative = "greater", tail: Tail = "counted"
) -> PValues:
    """Test cells against draws of their null; the corrected p is that of any unrelated cell lying as far out.

    Cells are compared in units of standard deviations, so that a noisy cell does not hide the others. Mean and
    deviation are those of the draws *and* the observed value: if nothing is related, that makes the observed value one
    more draw like all others, and the test exact. With mean and deviation of the draws alone, the observed value would
    be the only one that had no part in them, and would too often lie outside.

    Args:
        observed: Values of the cells, such as layers of tasks, shape `(cells,)`; NaN cells stay NaN, and so do cells
            whose null does not vary.
        null: Their values by chance, shape `(draws, cells)`; a draw is one permutation of the rows for all cells.
        alternative: Which deviations count: above the null, below it, or both.
        tail: `counted`; or `moments`, which gives a cell beyond all draws of all cells a smaller p than they can count:
            its `moment_matched_tail` times the number of cells (Bonferroni).

    Returns:
        Both at least `1 / (draws + 1)` if counted.

    Source:
        Westfall and Young 1993, single-step maxT; Phipson and Smyth 2010 for counting the observed value.
    """
    p = PValues(np.full(observed.shape, np.nan), np.full(observed.shape, np.nan))
    tested = np.isfinite(observed) & np.isfinite(null).all(0) & (np.ptp(null, axis=0) > 0)
    if not tested.any():
        return p
    draws = np.concatenate([observed[None, tested], null[:, tested]])  # (1 + draws, cells), the observed first
    outward = _outward((draws - draws.mean(0)) / draws.std(0), alternative)
    p.cell[tested] = (outward >= outward[0]).mean(0)
    largest = outward[1:].max(1)  # over cells, (draws,)
    num_above = (largest[:, None] >= outward[0]).sum(0)
    p.family[tested] = (1 + num_above) / len(draws)
    if tail == "moments":
        beyond = np.flatnonzero(tested)[num_above == 0]
        matched = moment_matched_tail(observed[beyond], null[:, beyond], alternative=alternative)
        p.cell[beyond] = np.minimum(p.cell[beyond], matched)
        p.family[beyond] = np.minimum(p.family[beyond], tested.sum() * matched)
    return p


def moment_matched_tail(observed: np.ndarray, null: np.ndarray, *, alternative: Alternative = "greater") -> np.ndarray:
    """Tail probabilities below what draws can count, from a Pearson III distribution with the null's moments.

    Moments estimated from few draws make tails look thinner than they are. So the skewness is increased by about one
    standard error, and the Pearson III probability is turned into a normal score, which is referred to Student's t with
    the variance of a new draw about an estimated mean.

    Args:
        observed: Shape `(cells,)`.
        null: Shape `(draws, cells)`; a few hundred estimate mean, deviation and skewness well.
        alternative: As in `permutation_p`.

    Returns:
        float64, shape `(cells,)`; not corrected for the number of cells.

    Source:
        Josse, Pagès and Husson 2008, for the RV coefficient.
    """
    if alternative == "two-sided":
        sides = [moment_matched_tail(observed, null, alternative=side) for side in ("greater", "less")]
        return np.minimum(1.0, 2 * np.minimum(*sides))
    sign = -1.0 if alternative == "less" else 1.0
    observed, null = sign * observed, sign * null
    draws, skewness = len(null), skew(null, axis=0)
    skewness = skewness + np.sqrt(6 / draws) * (1 + np.abs(skewness))
    scores = norm.isf(pearson3.sf(observed, skewness, loc=null.mean(0), scale=null.std(0, ddof=1)))
    return student_t.sf(scores / np.sqrt(1 + 1 / draws), draws - 1)


def holm(p: np.ndarray) -> np.ndarray:
    """Correct p-values for the number of cells by Holm's method, shape `(cells,)`; NaN cells stay and do not count.

    >>> holm(np.array([0.01, 0.04, np.nan, 0.02]))
    array([0.03, 0.04,  nan, 0.04])
    """
    corrected = np.full(p.shape, np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN last
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return corrected


def _kind_of_null(estimates: Estimates) -> Literal["draws", "value"] | None:
    if estimates.p is not None:
        return None
    if estimates.null is not None and len(estimates.null) > 1:
        return "draws"
    known = estimates.null is not None and estimates.errors is not None
    return "value" if known or estimates.p_cell is not None else None


def _by_draws(profiles: Sequence[LayerProfile], tail: Tail) -> PValues:
    nulls = [null for profile in profiles if (null := profile.estimates.null) is not None]
    fewest = min(map(len, nulls))  # tasks are independent, so any draws of one may stand beside any of another
    observed = np.concatenate([profile.estimates.values for profile in profiles])
    draws = np.concatenate([null[:fewest] for null in nulls], axis=1)
    return permutation_p(observed, draws, alternative=profiles[0].estimates.alternative, tail=tail)


def _by_errors(profiles: Sequence[LayerProfile]) -> PValues:
    cell = np.concatenate([_p_of_errors(profile.estimates) for profile in profiles])
    return PValues(cell, holm(cell))


def _p_of_errors(estimates: Estimates) -> np.ndarray:
    if estimates.p_cell is not None:
        return estimates.p_cell
    assert estimates.null is not None
    assert estimates.errors is not None
    deviation = np.sqrt(np.square(estimates.errors).sum(0))
    with np.errstate(divide="ignore", invalid="ignore"):  # an exact value differs from its null or equals it
        distance = (estimates.values - estimates.null[0]) / deviation
    outward = _outward(np.where(estimates.values == estimates.null[0], 0.0, distance), estimates.alternative)
    tails = 2 if estimates.alternative == "two-sided" else 1
    p = tails * student_t.sf(outward, degrees_of_freedom(estimates.errors, estimates.freedom))
    return np.where(np.isfinite(estimates.values), p, np.nan)


def _outward(distance: np.ndarray, alternative: Alternative) -> np.ndarray:
    """How far values lie in the direction that counts."""
    if alternative == "two-sided":
        return np.abs(distance)
    return -distance if alternative == "less" else distance


def _with(estimates: Estimates, cell: np.ndarray, family: np.ndarray) -> Estimates:
    return replace(estimates, p=family, p_cell=cell)
