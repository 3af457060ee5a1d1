"""A score within strata of a nuisance: does the probe tell rows apart that the nuisance takes for equal?"""

from __future__ import annotations

import torch
from torch import Tensor

from probes.metrics import (
    MAIN_METRIC,
    SCALES,
    RowGroups,
    TargetKind,
    bootstrap_counts,
    drawn,
    errors_of_draws,
    permuted_scores,
    score_interval,
    score_rows,
)
from probes.values import Estimates

_BINS = 3
"""Strata of equal confidence for each predicted class; of a regression, `_BINS` times two strata of predictions."""
_LEAST_ROWS = 8
"""Test rows that a stratum must have to be scored."""


def strata_of(kind: TargetKind, logits: Tensor) -> Tensor:
    """Divide rows into strata for which a nuisance predicts about the same.

    Args:
        kind: `classification`, whose strata are predicted classes by thirds of confidence (the largest logit less the
            next); `multilabel`, where each label has strata of its own, whether it is predicted by thirds of the
            logit's size; or `regression`, whose strata are sixths of the predictions.
        logits: What the nuisance predicts of each row, shape `(rows, classes)`.

    Returns:
        The stratum of each row, int64 `(rows,)`; of multi-label tasks `(rows, labels)`.
    """
    if kind == "regression":
        return _quantile_bins(logits[:, 0], 2 * _BINS)
    if kind == "multilabel":
        return torch.stack([_by_confidence((own > 0).long(), own.abs()) for own in logits.T], dim=1)
    top = logits.topk(2, dim=1).values
    return _by_confidence(logits.argmax(1), top[:, 0] - top[:, 1])


def within_strata(
    kind: TargetKind,
    logits: Tensor,
    targets: Tensor,
    strata: Tensor,
    *,
    resamples: int,
    permutations: int,
    seed: int,
    groups: RowGroups | None = None,
) -> Estimates:
    """Mean of the main metric over strata, weighted by their rows; its null permutes labels within strata.

    If label and activations are independent given the stratum, the score is one more draw of the null, whatever the
    nuisance tells of the label. In multi-label tasks it is the mean over labels of each label's F1 within its strata.

    Args:
        kind: Kind of task.
        logits: Of the probes, shape `(layers, rows, classes)`.
        targets: Shape `(rows,)`, or `(rows, labels)`.
        strata: Stratum of each row, int64 `(rows,)`, or `(rows, labels)`; those with fewer than 8 rows, or in which all
            targets are equal, tell nothing and are left out.
        resamples: Of the rows, for the interval; 0 for none.
        permutations: Draws of the null; 0 for none.
        seed: Of both.
        groups: Of the rows, such as sentences of words: groups are resampled, and there is no null, as rows of a group
            are alike within a stratum, too.

    Returns:
        Estimates over layers; NaN with a note if no stratum is left.
    """
    metric = MAIN_METRIC[kind]
    if kind == "multilabel":
        of_labels = [_used(targets[:, label], strata[:, label]) for label in range(targets.shape[1])]
        parts = [(rows, slice(label, label + 1)) for label, used in enumerate(of_labels) for rows in used]
        shares = [len(rows) / sum(map(len, used)) for used in of_labels for rows in used]
    else:
        used = _used(targets, strata)
        parts, shares = [(rows, slice(None)) for rows in used], [float(len(rows)) for rows in used]
    if not parts:
        missing = torch.full((len(logits),), torch.nan, dtype=torch.float64)
        return Estimates(missing.numpy(), 0, note="every stratum of the nuisance has one label alone, or too few rows")
    counts = bootstrap_counts(len(targets), resamples, seed=seed, groups=None if groups is None else groups.number)
    generator = torch.Generator().manual_seed(seed)
    values, draws, nulls = [], [], []
    for rows, columns in parts:
        own, truth = logits[:, rows, columns], targets[rows] if targets.ndim == 1 else targets[rows, columns]
        scores = score_rows(kind, own, truth, counts[:, rows], names={metric})
        orders = torch.empty(permutations, len(rows), dtype=torch.long)
        for order in orders:
            torch.randperm(len(rows), generator=generator, out=order)
        values.append(scores.values[metric])
        draws.append(scores.draws[metric])
        nulls.append(permuted_scores(kind, own, truth, orders, names={metric})[metric])
    weights = torch.tensor(shares, dtype=torch.float64)
    count = len(torch.cat([rows for rows, _ in parts]).unique())
    value, draw, null = (_weighted_mean(torch.stack(part), weights) for part in (values, draws, nulls))
    units, scale = count, SCALES[kind, metric]
    if groups is not None:
        units = groups.count
        scale = "share_of_labels" if scale == "share" else scale  # a group has more than one answer
    ends = torch.stack(score_interval(value, draw, rows=units, scale=scale))
    errors = errors_of_draws(draw, units=units)
    return Estimates(
        value.numpy(),
        count,
        errors=drawn(errors),
        null=drawn(null) if groups is None else None,
        note="the score is undefined",
        interval=ends.numpy() if resamples > 0 else None,
        interval_over="rows" if groups is None else groups.name,
        freedom=((len(errors), units - 1),),
    )


def _used(targets: Tensor, strata: Tensor) -> list[Tensor]:
    """Rows of each stratum that tells something."""
    members = [(strata == stratum).nonzero()[:, 0] for stratum in strata.unique().tolist()]
    return [rows for rows in members if len(rows) >= _LEAST_ROWS and len(targets[rows].unique()) > 1]


def _by_confidence(predicted: Tensor, confidence: Tensor) -> Tensor:
    """Predicted classes by thirds of the confidence that each is predicted with."""
    strata = torch.zeros(len(predicted), dtype=torch.long)
    for k in predicted.unique().tolist():
        rows = (predicted == k).nonzero()[:, 0]
        strata[rows] = _BINS * k + _quantile_bins(confidence[rows], _BINS)
    return strata


def _quantile_bins(values: Tensor, bins: int) -> Tensor:
    """Number of each value's quantile bin; equal values share a bin."""
    edges = values.double().quantile(torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1])
    return torch.searchsorted(edges, values.double().contiguous(), right=True)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean over the first axis; missing values, of resamples without rows of a stratum, are left out."""
    shaped = weights.view(-1, *[1] * (values.ndim - 1)) * values.isfinite()
    return (values.nan_to_num() * shaped).sum(0) / shaped.sum(0)
