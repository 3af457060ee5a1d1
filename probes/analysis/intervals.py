"""Errors and confidence intervals of statistics of rows, from leaving rows out.

Errors have the shape `(errors, layers)` and are scaled so that `errors.T @ errors` is the covariance of the estimates
between layers. The errors of a sum or difference of two statistics of the same rows are the sum or difference of
theirs.

| statistic | without rows | errors | interval |
|---|---|---|---|
| CKA | `cka_leave_one_out` (`similarity/leave_one_out.py`) | `jackknife_errors` | `confidence_interval` |
| any function of rows | pairs of complementary halves of the rows | `half_sample_errors` | `confidence_interval` |

There is no bootstrap. Rows drawn with replacement repeat, and repeats look like similarity to every statistic of pairs
of rows: for two independent Gaussians, 400 × 576, the debiased CKA is 0 but its mean over bootstrap samples 0.59.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from scipy.stats import t as student_t
from torch import Tensor

from probes.analysis.similarity.leave_one_out import LeaveOneOut

HalfMeans = Literal["subtracted", "ignored", "added"]
"""What becomes of the variance of the mean of two complementary halves, see `errors_of_halves`."""


def confidence_interval(
    values: np.ndarray, errors: np.ndarray, *, freedom: Sequence[tuple[int, int]] = (), level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of a symmetric interval about each value, shape `(layers,)` each.

    Args:
        values: Shape `(layers,)`.
        errors: Shape `(errors, layers)`, such as from `jackknife_errors` or `half_sample_errors`.
        freedom: As in `Estimates`.
        level: Share of such intervals that hold the true value.
    """
    half_width = student_t.ppf((1 + level) / 2, degrees_of_freedom(errors, freedom)) * np.sqrt(np.square(errors).sum(0))
    return values - half_width, values + half_width


def degrees_of_freedom(errors: np.ndarray, freedom: Sequence[tuple[int, int]] = ()) -> np.ndarray:
    """Degrees of freedom of the variance that errors sum to, shape `(layers,)`: Satterthwaite's for several sources.

    Args:
        errors: Shape `(errors, layers)`.
        freedom: Number of errors of each source, and their degrees of freedom, as in `Estimates`.

    >>> errors = np.ones((1010, 1)) / np.sqrt(np.repeat([1000.0, 10.0], [1000, 10]))[:, None]  # two variances of 1
    >>> degrees_of_freedom(errors, [(1000, 39), (10, 9)]).round(1)
    array([29.2])
    """
    if len(freedom) < 2:
        return np.full(errors.shape[1], freedom[0][1] if freedom else len(errors) - 1)
    ends = np.cumsum([count for count, _ in freedom])[:-1]
    variances = [part.sum(0) for part in np.split(np.square(errors), ends)]
    return sum_of_variances(*zip(variances, (degrees for _, degrees in freedom), strict=True))[1]


def sum_of_variances(*parts: tuple[np.ndarray, int]) -> tuple[np.ndarray, np.ndarray]:
    """The sum of variances, each given with its degrees of freedom, and the sum's degrees of freedom, `(layers,)` each.

    Variances without a degree of freedom do not count; where there is no other, the sum is the first.

    Source:
        Welch 1947; Satterthwaite 1946.
    """
    known = [part for part in parts if part[1] > 0] or parts[:1]
    total = np.sum([variance for variance, _ in known], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = total**2 / np.sum([variance**2 / degrees for variance, degrees in known], axis=0)
    return total, np.where(np.isfinite(freedom), freedom, known[0][1])


def jackknife_errors(statistic: LeaveOneOut) -> np.ndarray:
    """Errors of a statistic from its values without each row.

    With θᵢ the value without row i and n rows, the jackknife's variance is (n − 1)/n Σᵢ (θᵢ − mean of θ)².

    Returns:
        float64, shape `(rows, layers)`.

    Source:
        Efron and Stein 1981, "The jackknife estimate of variance".
    """
    without_row = statistic.without_row  # (layers, rows)
    rows = without_row.shape[1]
    deviations = (without_row - without_row.mean(1, keepdim=True)) * ((rows - 1) / rows) ** 0.5
    return deviations.T.numpy(force=True)


def half_sample_errors(
    statistic: Callable[[Tensor], Tensor],
    rows: int,
    *,
    groups: Tensor | None = None,
    half_samples: int = 40,
    half_means: HalfMeans = "ignored",
    seed: int = 0,
) -> np.ndarray:
    """Errors of any statistic from pairs of complementary halves of the rows, see `errors_of_halves`.

    Args:
        statistic: Maps row positions, int64 of shape `(half,)`, to the statistic at every layer, shape `(layers,)`.
        rows: How many rows there are.
        groups: As in `halves_of`.
        half_samples: As in `halves_of`; the interval's own relative error is about 1 / √half_samples.
        half_means: As in `errors_of_halves`.
        seed: Seed of the halves.

    Returns:
        float64, shape `(half_samples / 2, layers)`.
    """
    halves = halves_of(rows, groups=groups, half_samples=half_samples, seed=seed)
    return errors_of_halves(torch.stack([statistic(half) for half in halves]), half_means=half_means)


def halves_of(rows: int, *, groups: Tensor | None = None, half_samples: int = 40, seed: int = 0) -> list[Tensor]:
    """Draw halves of the rows without replacement, in pairs of which no row is in both.

    Args:
        rows: How many rows there are; of an odd number, each pair leaves one out.
        groups: Group of every row, integers of shape `(rows,)`, where group sizes are fixed by design: each half then
            holds half of each group.
        half_samples: Halves drawn, an even number of at least 4.
        seed: Seed of the draws.

    Returns:
        Row positions in ascending order, int64; halves 0 and 1 are the first pair, 2 and 3 the second.

    Raises:
        ValueError: `half_samples` is odd or below 4.
    """
    if half_samples < 4 or half_samples % 2 == 1:
        raise ValueError(
            f"`half_samples` must be an even number of at least 4, as halves come in pairs; got {half_samples}."
        )
    generator = torch.Generator().manual_seed(seed)
    strata = [torch.arange(rows)] if groups is None else [(groups == g).nonzero()[:, 0] for g in groups.unique()]
    return [half for _ in range(half_samples // 2) for half in _pair_of_halves(strata, generator)]


def errors_of_halves(values: Tensor, *, half_means: HalfMeans = "ignored") -> np.ndarray:
    """Errors of a statistic from its values on pairs of complementary halves.

    By Hoeffding's decomposition a statistic is a constant, plus a sum over rows, plus a sum over pairs of rows, and so
    on; the variances L of the first and Q of the second sum add up. On n rows, L is of order 1/n and Q of order 1/n².
    With A and B the two halves of a pair and given all rows,

        (θ_A − θ_B) / 2    has the variance L + 2Q
        (θ_A + θ_B) / 2    has the variance     Q, as the sums over rows cancel
        θ_A                has the variance L + 3Q

    The bias that h in place of n rows causes cancels in the differences, which are the errors. Their variance is too
    large by Q. In theory the variance of the means of both halves is to be subtracted; but in statistics of ranks,
    neighbours or large eigenvalues this variance holds other things than Q, so that `tests/calibration` decides.

    Args:
        values: Shape `(half_samples, layers)`, in the order of `halves_of`.
        half_means: What becomes of the variance of (θ_A + θ_B) / 2. `subtracted`, for sums over pairs of rows, such as
            sums of squares and mean distances: where there is no effect L is 0, and the differences alone would have
            twice the variance of the statistic. What remains is no less than half, as L and Q are at least 0.
            `ignored`, for any statistic. `added`, where differences are known to give too narrow intervals.

    Returns:
        float64, shape `(half_samples / 2, layers)`.

    Source:
        Efron and Stein 1981, "The jackknife estimate of variance", for the decomposition; Politis, Romano and Wolf
        1999, "Subsampling".
    """
    draws = values.double().numpy(force=True)
    first, second = draws[0::2], draws[1::2]
    errors = (first - second) / 2 / np.sqrt(len(first))
    if half_means == "ignored":
        return errors
    variance, of_means = np.square(errors).sum(0), ((first + second) / 2).var(0, ddof=1)
    ratio = np.divide(of_means, variance, out=np.zeros_like(variance), where=variance > 0)
    return errors * np.sqrt(1 + ratio if half_means == "added" else np.clip(1 - ratio, 0.5, 1))


def _pair_of_halves(strata: list[Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    orders = [rows[torch.randperm(len(rows), generator=generator)] for rows in strata]
    first = torch.cat([order[: len(order) // 2] for order in orders])
    second = torch.cat([order[len(order) // 2 : len(order) // 2 * 2] for order in orders])
    return first.sort().values, second.sort().values
