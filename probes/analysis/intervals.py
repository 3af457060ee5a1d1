"""Errors and confidence intervals of statistics of rows, from leaving rows out.

Errors have the shape `(errors, layers)` and are scaled so that `errors.T @ errors` is the covariance of the estimates
between layers. The errors of a sum or difference of two statistics of the same rows are the sum or difference of
theirs.

| statistic | without rows | errors | interval |
|---|---|---|---|
| CKA | `cka_leave_one_out` (`similarity/leave_one_out.py`) | `jackknife_errors` | `confidence_interval` |
| any function of rows | halves of the rows | `half_sample_errors` | `confidence_interval` |

There is no bootstrap. Rows drawn with replacement repeat, and repeats look like similarity to every statistic of pairs
of rows: for two independent Gaussians, 400 × 576, the debiased CKA is 0 but its mean over bootstrap samples 0.59.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import t as student_t
from torch import Tensor

from probes.analysis.similarity.leave_one_out import LeaveOneOut


def confidence_interval(
    values: np.ndarray, errors: np.ndarray, *, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of a symmetric interval about each value, shape `(layers,)` each.

    Args:
        values: Shape `(layers,)`.
        errors: Shape `(errors, layers)`, from `jackknife_errors` or `half_sample_errors`; their number less one is the
            degrees of freedom of Student's t.
        level: Share of such intervals that hold the true value.
    """
    half_width = student_t.ppf((1 + level) / 2, len(errors) - 1) * np.sqrt(np.square(errors).sum(0))
    return values - half_width, values + half_width


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
    half_samples: int = 20,
    seed: int = 0,
) -> np.ndarray:
    """Errors of any statistic from halves of the rows, drawn without replacement.

    The variance of a mean over h of n rows, given all rows, is proportional to (1/h)(1 − h/n), which at h = n/2 is 1/n,
    as for all rows about the true mean. The bias that h instead of n rows cause cancels, as deviations are taken from
    the mean over halves.

    Args:
        statistic: Maps row positions, int64 of shape `(half,)`, to the statistic at every layer, shape `(layers,)`.
        rows: How many rows there are.
        groups: As in `halves_of`.
        half_samples: Halves drawn; the interval's own relative error is about 0.7 / √half_samples.
        seed: Seed of the halves.

    Returns:
        float64, shape `(half_samples, layers)`.

    Source:
        Politis, Romano and Wolf 1999, "Subsampling".
    """
    halves = halves_of(rows, groups=groups, half_samples=half_samples, seed=seed)
    return errors_of_halves(torch.stack([statistic(half) for half in halves]), len(halves[0]), rows)


def halves_of(rows: int, *, groups: Tensor | None = None, half_samples: int = 20, seed: int = 0) -> list[Tensor]:
    """Draw halves of the rows without replacement, all of one size.

    Args:
        rows: How many rows there are.
        groups: Group of every row, integers of shape `(rows,)`, where group sizes are fixed by design: each half then
            holds half of each group.
        half_samples: Halves drawn.
        seed: Seed of the draws.

    Returns:
        Row positions in ascending order, int64.
    """
    generator = torch.Generator().manual_seed(seed)
    strata = [torch.arange(rows)] if groups is None else [(groups == g).nonzero()[:, 0] for g in groups.unique()]
    return [_half_of_each(strata, generator) for _ in range(half_samples)]


def errors_of_halves(values: Tensor, half: int, rows: int) -> np.ndarray:
    """Errors from the values of halves, as in `half_sample_errors`.

    Args:
        values: Shape `(half_samples, layers)`.
        half: Rows in each half, h.
        rows: Rows in all, n.

    Returns:
        float64, shape `(half_samples, layers)`.
    """
    draws = values.double().numpy(force=True)
    scale = np.sqrt(half / (rows - half))  # √(1/n) / √((1/h)(1 − h/n)); 1 where n is even
    return (draws - draws.mean(0)) * scale / np.sqrt(len(draws) - 1)


def _half_of_each(strata: list[Tensor], generator: torch.Generator) -> Tensor:
    halves = [rows[torch.randperm(len(rows), generator=generator)[: len(rows) // 2]] for rows in strata]
    return torch.cat(halves).sort().values
