"""Intervals of scores from their bootstrap draws, each on a scale on which the score's distribution is nearly normal.

The percentile interval is too narrow for few rows and near the ends of a score's range: of 60 rows at an accuracy of
0.98, none is wrong in 0.98⁶⁰ = 30 % of samples, and then all resamples score 1. Here the draws give only the standard
error s, and the score v and its range give the shape. With t the quantile of Student's distribution with rows − 1
degrees of freedom:

    share         Wilson's interval of v from m = v (1 − v) / s² rows, the number at which a plain share would be as
                  precise (Wilson 1927; Korn and Graubard 1998); at most the true number, which also stands in for m
                  where v is 0 or 1
    share_of_pairs
                  logit⁻¹(logit v ± t s / (v (1 − v))); as a share where s, or v (1 − v), is 0
    positive      v exp(± t s / v)
    at_most_one   1 − (1 − v) exp(± t s / (1 − v))
    correlation   tanh(artanh v ± t s / (1 − v²)) (Fisher 1915)
    difference    v ± t s

`docs/calibration.md` has the measured coverage of these intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from scipy.stats import t as student_t
from torch import Tensor

Scale = Literal["share", "share_of_labels", "share_of_pairs", "positive", "at_most_one", "correlation", "difference"]
"""The range of a score, which decides its interval. `share_of_labels` is a share of more than one answer for each row,
whose m may exceed the number of rows."""

_RANGES: dict[Scale, tuple[float, float]] = {
    "share": (0.0, 1.0),
    "share_of_labels": (0.0, 1.0),
    "share_of_pairs": (0.0, 1.0),
    "positive": (0.0, math.inf),
    "at_most_one": (-math.inf, 1.0),
    "correlation": (-1.0, 1.0),
    "difference": (-math.inf, math.inf),
}


def score_interval(
    values: Tensor, draws: Tensor, *, rows: int, scale: Scale, level: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Interval of each layer's score.

    Args:
        values: The scores, shape `(layers,)`.
        draws: A score for each bootstrap resample, shape `(samples, layers)`; NaN draws, from resamples on which the
            metric is undefined, are left out.
        rows: Rows that were scored.
        scale: The range of the score.
        level: Share of such intervals that hold the score on the population.

    Returns:
        Lower and upper ends, float64, shape `(layers,)`; NaN where the score is, and with fewer than 2 draws or rows.

    Source:
        Wilson 1927, JASA 22; Korn and Graubard 1998, Survey Methodology 24; Fisher 1915, Biometrika 10.

    >>> perfect = torch.ones(1), torch.ones(1000, 1)
    >>> [round(end.item(), 3) for end in score_interval(*perfect, rows=60, scale="share")]
    [0.937, 1.0]
    """
    v, s = values.double(), standard_errors(draws, rows=rows)
    t = float(student_t.ppf((1 + level) / 2, rows - 1))
    if scale in {"share", "share_of_labels"}:
        return _wilson(v, s, t, rows=rows, most=float(rows) if scale == "share" else float("inf"))
    if scale == "share_of_pairs":
        low, high = _around(v.logit(), s / (v * (1 - v)), t, torch.sigmoid)
    elif scale == "positive":
        low, high = _around(v.log(), s / v, t, torch.exp)
    elif scale == "at_most_one":
        high, low = (1 - end for end in _around((1 - v).log(), s / (1 - v), t, torch.exp))
    elif scale == "correlation":
        low, high = _around(v.atanh(), s / (1 - v.square()), t, torch.tanh)
    else:
        low, high = v - t * s, v + t * s
    # a score at the end of its range has no error, and the scales above are 0 / 0
    at_end = _wilson(v, s, t, rows=rows, most=float(rows)) if scale == "share_of_pairs" else (v, v)
    return torch.where(s == 0, at_end[0], low), torch.where(s == 0, at_end[1], high)


def standard_errors(draws: Tensor, *, rows: int) -> Tensor:
    """Standard error of each layer's score, float64 `(layers,)`, from draws `(samples, layers)` with NaN left out.

    A resample of n rows has (n − 1) / n times the variance of a sample, which is corrected.
    """
    defined = draws.isfinite()
    count = defined.sum(0)
    kept = torch.where(defined, draws.double(), 0.0)
    mean = kept.sum(0) / count
    squares = torch.where(defined, (draws.double() - mean).square(), 0.0).sum(0)
    variance = torch.where(count > 1, squares / (count - 1), torch.nan)
    return (variance * rows / (rows - 1)).sqrt()


def errors_of_draws(draws: Tensor, *, units: int) -> Tensor:
    """Bootstrap draws as errors: deviations scaled so that their squares sum to the variance.

    However many draws there are, they have `units` − 1 degrees of freedom. The variance is corrected as by
    `standard_errors`.

    Args:
        draws: Shape `(samples, layers)`; resamples in which the score is undefined at some layer are left out.
        units: Rows, or groups of rows, that were resampled.

    Returns:
        Shape `(defined samples, layers)`, as `Estimates.errors`; NaN with one sample.
    """
    draws = draws[draws.isfinite().all(1)]
    correction = units / max(units - 1, 1)
    return (draws - draws.mean(0)) * correction**0.5 / max(len(draws) - 1, 0) ** 0.5


def drawn(draws: Tensor) -> np.ndarray | None:
    """Draws, or errors from them, as `Estimates` holds them: an array, or `None` where none were asked for.

    >>> drawn(torch.zeros(0, 3)) is None, drawn(torch.zeros(2, 3)).shape
    (True, (2, 3))
    """
    return draws.numpy(force=True) if len(draws) else None


def widened(ends: Tensor, values: Tensor, errors: Tensor, *, scale: Scale = "difference") -> Tensor:
    """Widen intervals over test rows to intervals over test rows and training sets.

    The distances of an end from the value, over rows and over training sets (Student's t), are added in quadrature. No
    end lies beyond the range of the score.

    Args:
        ends: Lower and upper ends over test rows, shape `(2, layers)`.
        values: Shape `(layers,)`.
        errors: Over training sets, scaled as in `Estimates.errors`, shape `(sets, layers)`.
        scale: The range of the score; a difference has none.

    Source:
        Zou and Donner 2008, "Construction of confidence limits about effect measures: a general approach".
    """
    quantile = float(student_t.ppf(0.975, max(len(errors), 2) - 1))
    reach = quantile * errors.square().sum(0).sqrt()
    below, above = (values - ends[0]).clamp_min(0), (ends[1] - values).clamp_min(0)
    widened_ends = torch.stack([values - torch.hypot(below, reach), values + torch.hypot(above, reach)])
    return widened_ends.clamp(*_RANGES[scale])


def _around(centre: Tensor, error: Tensor, t: float, back: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The interval centre ± t error on one scale, taken back to that of the score."""
    return back(centre - t * error), back(centre + t * error)


def _wilson(v: Tensor, s: Tensor, t: float, *, rows: int, most: float) -> tuple[Tensor, Tensor]:
    """Wilson's interval of a share v with the number of rows that its standard error s implies."""
    spread = v * (1 - v)
    m = torch.where((spread <= 0) | (s == 0), float(rows), (spread / s.square()).clamp(1.0, most))
    centre = (v + t**2 / (2 * m)) / (1 + t**2 / m)
    reach = t / (1 + t**2 / m) * (spread / m + t**2 / (4 * m.square())).sqrt()
    return (centre - reach).clamp_min(0), (centre + reach).clamp_max(1)
