"""What tuning on a mixture gained for a task: CKA of models tuned on one task and on many, and of their base model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr
from scipy.stats import t as student_t
from torch import Tensor

from probes.analysis.intervals import jackknife_errors
from probes.analysis.similarity.cka import biased_cka_floor
from probes.analysis.similarity.leave_one_out import cka_leave_one_out
from probes.values import Estimates


def tuning_gain(control: Tensor, experimental: Tensor, base: Tensor) -> dict[str, Estimates]:
    """CKA of a control model with the experimental and with the base model, and the difference of the two.

    All three are measured on the same rows, so errors are paired: the errors of the difference are the differences of
    the errors row by row, and its interval is narrower than that of two independent values.

    Args:
        control: Activations of the model tuned on one task, shape `(layers, rows, features)`.
        experimental: Activations of the model tuned on the mixture, same rows and layers.
        base: Activations of the model from which both were tuned, same rows and layers.

    Returns:
        `cka/control_vs_base`, `cka/control_vs_experimental` and their difference `tuning_gain` (experimental − base),
        all debiased; and the same with the suffix `_biased`, as the paper computed them. The null of a biased CKA is
        its expectation for unrelated activations with these spectra (`biased_cka_floor`); the null of the biased gain
        is the difference of the two, the gain that bias alone produces. The null of the debiased gain is 0.

    Source:
        Zhao, Ziser and Cohen 2024, arXiv:2410.20008.
    """
    results: dict[str, Estimates] = {}
    for debiased, suffix in ((True, ""), (False, "_biased")):
        vs_base, vs_experimental = (_cka(control, other, debiased=debiased) for other in (base, experimental))
        results[f"cka/control_vs_base{suffix}"] = vs_base
        results[f"cka/control_vs_experimental{suffix}"] = vs_experimental
        gain = paired_difference(vs_experimental, vs_base)
        if vs_experimental.null is not None and vs_base.null is not None:
            gain = replace(gain, null=vs_experimental.null - vs_base.null)
        results[f"tuning_gain{suffix}"] = gain
    return results


def control_cka(control: Tensor, other: Tensor) -> Estimates:
    """Debiased CKA of a control model with another model at matched layers, with errors that can be paired.

    There is no null: two models tuned from one base are similar without any training on a common task, so unrelated
    rows are no meaningful chance level.

    Args:
        control: Shape `(layers, rows, features)`.
        other: Same layers and rows.
    """
    return _cka(control, other, debiased=True)


def paired_difference(minuend: Estimates, subtrahend: Estimates) -> Estimates:
    """The first quantity minus the second, both with errors of the same rows; its null is 0, on both sides.

    Scores of probes whose errors are over training sets, too, must be of the same resampled sets.
    """
    assert minuend.errors is not None
    assert subtrahend.errors is not None
    errors = minuend.errors - subtrahend.errors
    no_difference = np.zeros((1, len(minuend.values)))
    values = minuend.values - subtrahend.values
    over = minuend.interval_over
    return Estimates(
        values,
        minuend.n,
        errors,
        null=no_difference,
        alternative="two-sided",
        note=minuend.note,
        interval_over=over,
        freedom=minuend.freedom,
    )


def replicate_noise(gains: Mapping[str, list[np.ndarray]]) -> tuple[np.ndarray, int]:
    """Standard deviation of a quantity over control models that differ only in their seed, pooled over tasks.

    Args:
        gains: For each task, the quantity for every seed, each of shape `(layers,)`.

    Returns:
        The pooled standard deviation, shape `(layers,)`, and its degrees of freedom, Σ (seeds − 1); NaN and 0 if no
        task has several seeds.
    """
    groups = [np.stack(by_seed) for by_seed in gains.values() if len(by_seed) > 1]  # each (seeds, layers)
    if not groups:
        return np.full(len(next(iter(gains.values()))[0]) if gains else 0, np.nan), 0
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum(np.square(group - group.mean(0)).sum(0) for group in groups)
    return np.sqrt(squares / freedom), freedom


class RankAgreement(NamedTuple):
    """Rank correlation of two layer × task matrices.

    Attributes:
        value: Spearman's correlation over cells.
        ci_low: Lower end of its 95 % interval over tasks.
        ci_high: Upper end.
        n: Number of cells.
    """

    value: float
    ci_low: float
    ci_high: float
    n: int


def rank_agreement(x: np.ndarray, y: np.ndarray) -> RankAgreement:
    """Spearman's correlation of two layer × task matrices over the cells that both have.

    Neighbouring layers of a task are not independent, so the interval leaves out whole tasks: with s the jackknife's
    standard error of the correlation v, it is tanh(artanh v ± t s / (1 − v²)), where t is the quantile of Student's
    distribution with tasks − 1 degrees of freedom. The percentile bootstrap over tasks is too narrow for few tasks.

    Args:
        x: Shape `(layers, tasks)`, NaN where missing.
        y: Same shape.

    Returns:
        NaN values where fewer than 3 cells are present or one matrix is constant; a NaN interval with fewer than 3
        tasks, and where the correlation is undefined without one of them.

    Source:
        Fisher 1915, Biometrika 10; Efron and Stein 1981, "The jackknife estimate of variance".
    """
    present = np.isfinite(x) & np.isfinite(y)
    value, tasks = _spearman(x[present], y[present]), x.shape[1]
    if tasks < 3:
        return RankAgreement(value, np.nan, np.nan, int(present.sum()))
    others = [np.arange(tasks) != task for task in range(tasks)]
    without = np.array([_spearman(x[:, kept][present[:, kept]], y[:, kept][present[:, kept]]) for kept in others])
    error = np.sqrt((tasks - 1) / tasks * np.square(without - without.mean()).sum())
    if error == 0 or abs(value) > 1 - 1e-12:  # a correlation of 1, whichever task is left out
        return RankAgreement(value, value, value, int(present.sum()))
    reach = student_t.ppf(0.975, tasks - 1) * error / (1 - value**2)
    low, high = np.tanh(np.arctanh(value) + np.array([-reach, reach]))
    return RankAgreement(value, float(low), float(high), int(present.sum()))


def _cka(x: Tensor, y: Tensor, *, debiased: bool) -> Estimates:
    """CKA of matched layers with jackknife errors; the biased one with its expectation for unrelated rows as null."""
    statistic = cka_leave_one_out(x, y, debiased=debiased)
    null = None if debiased else biased_cka_floor(x, y)[None].numpy(force=True)
    return Estimates(statistic.values.numpy(force=True), x.shape[1], jackknife_errors(statistic), null)


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's correlation of two vectors; NaN, without SciPy's warning, where it is undefined or meaningless."""
    if len(x) < 3 or (x == x[0]).all() or (y == y[0]).all():
        return float("nan")
    return float(spearmanr(x, y).statistic)  # pyright: ignore[reportAttributeAccessIssue]
