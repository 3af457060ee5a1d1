"""The best layer of a task, and the layers that the rows it was chosen by cannot tell from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from probes.metrics import LARGER_IS_BETTER, OBJECTIVE_METRIC, RowGroups, TargetKind, bootstrap_counts, score_rows
from probes.values import BestLayers, Layer

CONFIDENCE_LEVEL = 0.95
"""Probability with which a layer that is truly best is in the set."""


def possibly_best(scores: Tensor, draws: Tensor, *, level: float = CONFIDENCE_LEVEL) -> Tensor:
    """Which layers may be the truly best one, judged by all of their differences at once.

    The layer with the largest score was chosen for its score, so an interval of the difference to it alone would be too
    narrow. Here each layer i stands for the hypothesis that it is the best: that no θⱼ − θᵢ exceeds 0. Its statistic is
    max over j of (sⱼ − sᵢ), how far the best score is above its own, and it is left out if that exceeds the `level`
    quantile of the bootstrap distribution of the same maximum, max over j of ((s*ⱼ − s*ᵢ) − (sⱼ − sᵢ)). A layer that is
    truly best is therefore left out with probability of at most 1 − `level`, whatever the other layers are. If several
    layers are equally good, this holds for each of them, not for all of them together.

    The differences are not divided by their standard errors: with few rows, the error of two layers that differ in few
    predictions is itself too uncertain, and sets would be too small.

    Args:
        scores: One per layer, larger is better, float64 `(layers,)`. A layer whose score is not finite cannot be best.
        draws: Scores on resamples of the rows that all layers share, `(samples, layers)`. Resamples in which the score
            of any layer is not finite are left out.
        level: Probability with which a layer that is truly best is kept.

    Returns:
        Bool `(layers,)`; true at least for every layer of the largest score.

    Sources:
        Hsu 1981, "Simultaneous confidence intervals for all distances from the 'best'"; Hansen, Lunde and Nason 2011,
        "The model confidence set".

    Example:
        >>> scores = torch.tensor([0.5, 0.9, 0.89])
        >>> noise = 0.02 * torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
        >>> possibly_best(scores, scores + noise).tolist()
        [False, True, True]
    """
    kept = scores.isfinite()
    scores, draws = scores[kept].double(), draws[:, kept].double()
    draws = draws[draws.isfinite().all(1)]
    if len(draws) == 0:
        return kept
    deviations = draws - scores
    highest_draw = torch.stack([(deviations - own[:, None]).amax(1) for own in deviations.T])  # (layers, samples)
    critical = highest_draw.quantile(level, dim=1)
    kept[kept.clone()] = scores.max() - scores <= critical  # `critical` ≥ 0, as the maximum includes the layer itself
    return kept


def best_layers_of(
    kind: TargetKind,
    logits: Tensor,
    targets: Tensor,
    *,
    task: str,
    layers: Sequence[Layer],
    samples: int,
    seed: int,
    groups: RowGroups | None = None,
) -> BestLayers | None:
    """Choose a task's best layer and find the layers that may be as good, from logits of the rows to choose by.

    Args:
        kind: Kind of task; it decides the metric.
        logits: Of the chosen probes, on rows that they were not trained on, shape `(layers, rows, classes)`.
        targets: Shape `(rows,)` or `(rows, labels)`.
        task: Name of the task.
        layers: Names of the first axis of `logits`.
        samples: Resamples of the rows, shared by all layers; with 0 the set of layers is unknown.
        seed: Decides the resamples.
        groups: Of the rows, which are resampled in place of them.

    Returns:
        `None` if no layer has a finite score. Of equal scores the first layer is the best one.
    """
    metric = OBJECTIVE_METRIC[kind]
    sign = 1.0 if LARGER_IS_BETTER[metric] else -1.0
    number = None if groups is None else groups.number
    counts = bootstrap_counts(len(targets), samples, seed=seed, groups=number) if samples > 0 else None
    found = score_rows(kind, logits, targets, counts, names={metric})
    scores = sign * found.values[metric].cpu()
    finite = scores.isfinite()
    if not finite.any():
        return None
    best = int(scores.where(finite, -torch.inf).argmax())
    indistinguishable = None
    if counts is not None:
        kept = possibly_best(scores, sign * found.draws[metric].cpu())
        indistinguishable = tuple(layers[i] for i in kept.nonzero()[:, 0].tolist())
    return BestLayers(
        task=task,
        layer=layers[best],
        layers=indistinguishable,
        metric=metric,
        score=float(found.values[metric][best]),
        n=len(targets),
        level=CONFIDENCE_LEVEL,
    )
