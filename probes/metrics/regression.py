"""Mean squared error, R² and Spearman's correlation of every layer's probe under any resampling of the rows."""

from __future__ import annotations

import torch
from torch import Tensor


def regression_scores(predictions: Tensor, targets: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """Scores of predicted numbers.

    Args:
        predictions: Shape `(layers, rows)`, or `(layers, rows, 1)`.
        targets: Shape `(rows,)`, in the same unit.
        counts: How often each row is in each resample, shape `(samples, rows)`; ones give the plain score.

    Returns:
        `mse` (squared unit of the targets), `r2` (at most 1, below 0 where the mean would do better) and `spearman` (in
        [−1, 1]), each float64 of shape `(samples, layers)`. R² and Spearman are NaN in a resample of equal targets, and
        Spearman where all predictions are equal.
    """
    predictions = predictions.reshape(len(predictions), len(targets)).double()
    targets, by_row = targets.double(), counts.double().T.contiguous()
    mse = counts.double() @ (predictions - targets).square().T / by_row.sum(0)[:, None]
    varied = _variance(targets[:, None].expand_as(by_row), by_row)
    r2 = 1 - mse / varied[:, None]
    return {
        "mse": mse,
        "r2": torch.where(_all_equal(targets, by_row)[:, None], torch.nan, r2),
        "spearman": _spearman(predictions, targets, by_row),
    }


def _all_equal(targets: Tensor, counts: Tensor) -> Tensor:
    """Resamples `(samples,)` whose targets are all one value, where rounding could leave a variance above zero."""
    drawn, column = counts > 0, targets[:, None]
    return torch.where(drawn, column, torch.inf).amin(0) == torch.where(drawn, column, -torch.inf).amax(0)


def _variance(values: Tensor, counts: Tensor) -> Tensor:
    """Variance of each resample `(samples,)` of values `(rows, samples)`."""
    return _covariance(values, values, counts)


def _covariance(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    totals = counts.sum(0)
    x_mean, y_mean = (counts * x).sum(0) / totals, (counts * y).sum(0) / totals
    return (counts * (x - x_mean) * (y - y_mean)).sum(0) / totals


def _spearman(predictions: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    target_ranks = _ranks(targets, counts)
    target_variance = _variance(target_ranks, counts)
    columns = []
    for layer in predictions:
        ranks = _ranks(layer, counts)
        scale = (_variance(ranks, counts) * target_variance).sqrt()
        columns.append(torch.where(scale > 1e-9, _covariance(ranks, target_ranks, counts) / scale, torch.nan))
    return torch.stack(columns, dim=1)


def _ranks(values: Tensor, counts: Tensor) -> Tensor:
    """Mean rank of every row's value within each resample `(rows, samples)`; repeats of a row are ties."""
    levels, level = values.unique(return_inverse=True)
    sizes = counts.new_zeros(len(levels), counts.shape[1]).index_add_(0, level, counts)
    return (sizes.cumsum(0) - sizes / 2 + 0.5)[level]
