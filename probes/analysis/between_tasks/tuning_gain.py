"""Do other similarity measures say the same as CKA, cell by cell?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata
from torch import Tensor

from probes.analysis.intervals import jackknife_errors
from probes.analysis.similarity.cka import biased_cka_floor
from probes.analysis.similarity.leave_one_out import cka_leave_one_out
from probes.values import Estimates


def tuning_gain(control: Tensor, experimental: Tensor, base: Tensor) -> dict[str, Estimates]:
    """CKA of a control model with the experimental and with the base model, and their difference, on the same rows.

    Errors are paired: the difference's are the differences of errors, row by row, and smaller than those of two
    unpaired values by what both comparisons share.

    Args:
        control: Activations of the model tuned on the task alone, shape `(layers, rows, features)`.
        experimental: Of the model tuned on the mixture, the same rows.
        base: Of the model both were tuned from, the same rows.

    Returns:
        `cka/control_vs_base`, `cka/control_vs_experimental` and `tuning_gain` (experimental − base), debiased, and the
        same with `_biased` behind, as the founding study computed them; the null of the biased values is what unrelated
        activations would have (`biased_cka_floor`), and that of their difference what bias alone makes of it.

    Source:
        Zhao, Ziser and Cohen 2024, arXiv:2410.20008.
    """
    found: dict[str, Estimates] = {}
    for debiased, ending in ((True, ""), (False, "_biased")):
        sides = {"base": base, "experimental": experimental}
        cka = {name: _cka(control, other, debiased=debiased) for name, other in sides.items()}
        found |= {f"cka/control_vs_{name}{ending}": own for name, own in cka.items()}
        found[f"tuning_gain{ending}"] = difference(cka["experimental"], cka["base"])
    floor, of_base = (found[f"cka/control_vs_{name}_biased"].null for name in ("experimental", "base"))
    assert floor is not None
    assert of_base is not None
    found["tuning_gain_biased"] = replace(found["tuning_gain_biased"], null=floor - of_base)
    return found


def control_cka(control: Tensor, other: Tensor) -> Estimates:
    """Debiased CKA of matched layers with paired errors, without a null: two models tuned from one base are alike."""
    return _cka(control, other, debiased=True)


def difference(of: Estimates, less: Estimates) -> Estimates:
    """One quantity less another of the same rows, errors paired."""
    assert of.errors is not None
    assert less.errors is not None
    return Estimates(of.values - less.values, of.n, of.errors - less.errors, note=of.note)


def replicate_noise(gains: Mapping[str, list[np.ndarray]]) -> tuple[np.ndarray, int]:
    """How far a quantity moves when its control models are tuned again with another seed.

    Args:
        gains: For each replicated task, the quantity with every seed, `(layers,)` each.

    Returns:
        Standard deviation over seeds, pooled over tasks, shape `(layers,)`, and its degrees of freedom; NaN and 0
        without replicates.
    """
    groups = [np.stack(own) for own in gains.values() if len(own) > 1]
    if not groups:
        return np.full(len(next(iter(gains.values()))[0]) if gains else 0, np.nan), 0
    freedom = sum(len(own) - 1 for own in groups)
    squares = sum(np.square(own - own.mean(0)).sum(0) for own in groups)
    return np.sqrt(squares / freedom), freedom


def _cka(x: Tensor, y: Tensor, *, debiased: bool) -> Estimates:
    statistic = cka_leave_one_out(x, y, debiased=debiased)
    null = None if debiased else biased_cka_floor(x, y)[None].numpy(force=True)
    return Estimates(statistic.values.numpy(force=True), x.shape[1], jackknife_errors(statistic), null)


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
