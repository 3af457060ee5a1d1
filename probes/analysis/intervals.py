"""How sure is a statistic of rows? Errors from leaving rows out; never from drawing them with replacement.

Resampled rows repeat, and repeats look like likeness to every statistic of pairs of rows: of two independent Gaussians,
400 × 576, the debiased CKA is 0 but its bootstrap mean 0.59.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import t as student_t
from torch import Tensor

from probes.analysis.similarity.leave_one_out import LeaveOneOut


def jackknife_errors(statistic: LeaveOneOut) -> np.ndarray:
    """Errors of a statistic from its values without each row.

    Returns:
        float64, shape `(rows, layers)`: deviations scaled so that `errors.T @ errors` is the jackknife's covariance
        between layers, and sums or differences of errors on the same rows are the errors of sums and differences.

    Source:
        Efron and Stein 1981, "The jackknife estimate of variance".
    """
    without = statistic.without
    rows = without.shape[1]
    deviations = (without - without.mean(1, keepdim=True)) * ((rows - 1) / rows) ** 0.5
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

    A half of the rows varies about its own mean as all rows do about the truth: its variance has the factor
    (1 / half)(1 − half / rows) = 1 / rows. What the estimator's bias does between half and all of the rows cancels.

    Args:
        statistic: Row positions, int64, to the statistic at every layer.
        rows: How many rows there are.
        groups: As in `halves_of`.
        half_samples: Halves drawn; the interval's own relative error is about 0.7 / √halves.
        seed: Decides the halves.

    Returns:
        float64, shape `(half_samples, layers)`, scaled as in `jackknife_errors`.

    Source:
        Politis, Romano and Wolf 1999, "Subsampling".
    """
    halves = halves_of(rows, groups=groups, half_samples=half_samples, seed=seed)
    return errors_of_halves(torch.stack([statistic(half) for half in halves]), len(halves[0]), rows)


def halves_of(rows: int, *, groups: Tensor | None = None, half_samples: int = 20, seed: int = 0) -> list[Tensor]:
    """Draw halves of the rows without replacement, all of one size.

    Args:
        rows: How many rows there are.
        groups: Group of every row, integers of shape `(rows,)`, where their sizes are given: each half then holds half
            of each group.
        half_samples: Halves drawn.
        seed: Decides them.

    Returns:
        Row positions in order, int64.
    """
    generator = torch.Generator().manual_seed(seed)
    strata = [torch.arange(rows)] if groups is None else [(groups == g).nonzero()[:, 0] for g in groups.unique()]
    return [_half_of_each(strata, generator) for _ in range(half_samples)]


def errors_of_halves(values: Tensor, half: int, rows: int) -> np.ndarray:
    """Errors from the values of halves, as `half_sample_errors` explains.

    Args:
        values: Shape `(half_samples, layers)`.
        half: Rows in each half.
        rows: Rows in all.
    """
    draws = values.double().numpy(force=True)
    shrink = np.sqrt(half / (rows - half))  # 1 for even rows
    return (draws - draws.mean(0)) * shrink / np.sqrt(len(draws) - 1)


def _half_of_each(strata: list[Tensor], generator: torch.Generator) -> Tensor:
    parts = [rows[torch.randperm(len(rows), generator=generator)[: len(rows) // 2]] for rows in strata]
    return torch.cat(parts).sort().values


def confidence_interval(
    values: np.ndarray, errors: np.ndarray, *, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of a symmetric interval about each value.

    Args:
        values: Shape `(layers,)`.
        errors: Shape `(errors, layers)`, as from `jackknife_errors` or `half_sample_errors`; their number sets the
            degrees of freedom of Student's t.
        level: Share of intervals that hold the truth.
    """
    reach = student_t.ppf((1 + level) / 2, len(errors) - 1) * np.sqrt(np.square(errors).sum(0))
    return values - reach, values + reach
