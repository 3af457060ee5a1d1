"""Metrics of predicted numbers, for all layers and all resamples of the rows at once.

Every metric here has the signature that `probes.metrics.ProbeMetric` expects, with these arguments:

    predictions: Shape `(layers, rows)` or `(layers, rows, 1)`, in the unit of the targets.
    targets: Shape `(rows,)`.
    counts: How often each row occurs in each resample, float64, shape `(samples, rows)`; ones give the plain score.

The result is float64 of shape `(samples, layers)`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mse(predictions: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Mean squared error, in the squared unit of the targets."""
    residuals = _by_layer(predictions, targets) - targets.double()
    return counts @ residuals.square().T / counts.sum(1, keepdim=True)


def r2(predictions: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Coefficient of determination: 1 − mean squared error / variance of the targets in the resample.

    At most 1, and below 0 where predicting the mean of the resample would do better; NaN in a resample whose targets
    are all equal.
    """
    targets, by_row = targets.double(), counts.T.contiguous()  # (rows,), (rows, samples)
    variance = _variance(targets[:, None].expand_as(by_row), by_row)
    values = 1 - mse(predictions, targets, counts) / variance[:, None]
    return torch.where(_has_equal_targets(targets, by_row)[:, None], torch.nan, values)


def spearman(predictions: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Spearman's rank correlation with mean ranks for ties, in [−1, 1].

    NaN in a resample whose targets, or whose predictions, are all equal.
    """
    predictions, by_row = _by_layer(predictions, targets), counts.T.contiguous()  # (layers, rows), (rows, samples)
    target_ranks = _ranks(targets.double(), by_row)
    target_variance = _variance(target_ranks, by_row)
    columns = []
    for layer in predictions:
        ranks = _ranks(layer, by_row)
        scale = (_variance(ranks, by_row) * target_variance).sqrt()
        # ranks are multiples of 1/2, so a smaller product of variances than this is rounding
        columns.append(torch.where(scale > 1e-9, _covariance(ranks, target_ranks, by_row) / scale, torch.nan))
    return torch.stack(columns, dim=1)


def _by_layer(predictions: Tensor, targets: Tensor) -> Tensor:
    """Predictions as float64 of shape `(layers, rows)`."""
    return predictions.reshape(len(predictions), len(targets)).double()


def _has_equal_targets(targets: Tensor, counts: Tensor) -> Tensor:
    """Which resamples `(samples,)` hold one value only: exact, where a variance may exceed 0 by rounding."""
    drawn, column = counts > 0, targets[:, None]
    return torch.where(drawn, column, torch.inf).amin(0) == torch.where(drawn, column, -torch.inf).amax(0)


def _variance(values: Tensor, counts: Tensor) -> Tensor:
    """Population variance of values `(rows, samples)` in each resample, shape `(samples,)`."""
    return _covariance(values, values, counts)


def _covariance(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """Population covariance of `x` and `y`, each with its counts of shape `(rows, samples)`, shape `(samples,)`."""
    totals = counts.sum(0)
    x_mean, y_mean = (counts * x).sum(0) / totals, (counts * y).sum(0) / totals
    return (counts * (x - x_mean) * (y - y_mean)).sum(0) / totals


def _ranks(values: Tensor, counts: Tensor) -> Tensor:
    """Mean rank of each row's value `(rows,)` within each resample `(rows, samples)`; repeats of a row are ties."""
    levels, level = values.unique(return_inverse=True)
    sizes = counts.new_zeros(len(levels), counts.shape[1]).index_add_(0, level, counts)  # (levels, samples)
    # c values up to and including a level of size m have ranks c − m + 1 … c there, with mean c − m/2 + 1/2
    return (sizes.cumsum(0) - sizes / 2 + 0.5)[level]
