"""Resampled rows as counts, and intervals from what they give."""

from __future__ import annotations

import torch
from torch import Tensor


def bootstrap_counts(rows: int, samples: int, *, seed: int) -> Tensor:
    """How often each row is drawn in each resample of `rows` rows with replacement.

    One matrix serves every layer and control, so their differences are paired.

    Args:
        rows: Rows to draw from, and to draw.
        samples: Resamples.
        seed: Decides the draws, on any machine the same; 0 is a seed like any other.

    Returns:
        float32 counts, shape `(samples, rows)`; each row sums to `rows`.

    Example:
        >>> bootstrap_counts(10, 3, seed=0).sum(1).tolist()
        [10.0, 10.0, 10.0]
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(rows, (samples, rows), generator=generator)
    return torch.zeros(samples, rows).scatter_add_(1, drawn, torch.ones(samples, rows))


def percentile_interval(draws: Tensor, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Percentile bootstrap interval of each column.

    Args:
        draws: One value a resample, shape `(samples, ...)`; NaN draws (a metric undefined on that resample) are
            left out.
        level: Share of the draws inside.

    Returns:
        Lower and upper ends, float64, shape `(...)`; NaN where every draw is NaN.

    Source:
        Efron and Tibshirani 1993, chapter 13.
    """
    tail = (1 - level) / 2
    ends = torch.tensor([tail, 1 - tail], dtype=torch.float64, device=draws.device)
    low, high = torch.nanquantile(draws.double(), ends, dim=0)
    return low, high
