"""The main test score of any logits, on the same resamples and permutations as the scores of the task's own probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from probes.analysis.significance import permutation_p
from probes.metrics import (
    MAIN_METRIC,
    Predictions,
    RowGroups,
    TargetKind,
    bootstrap_counts,
    drawn,
    errors_of_draws,
    permuted_orders,
    permuted_scores,
    score_rows,
)
from probes.seeds import derive_seed
from probes.training import TaskData
from probes.values import SIGNIFICANCE_LEVEL, Estimates, Layer


def main_score_estimates(
    kind: TargetKind,
    logits: Tensor,
    targets: Tensor,
    *,
    resamples: int,
    permutations: int,
    seed: int,
    groups: RowGroups | None = None,
) -> Estimates:
    """The main metric of every layer's logits, with an interval over rows and a null of permuted labels.

    Rows in groups are resampled and matched with others as wholes, as for the scores of the task's own probes.

    Args:
        kind: Kind of task.
        logits: Shape `(layers, rows, classes)`.
        targets: Of the same rows.
        resamples: Of the rows, for the interval; 0 for none.
        permutations: Of the labels, for the null; 0 for none.
        seed: The run's; equal seeds and numbers of rows give equal resamples, so that scores are paired.
        groups: Of the rows, such as `TaskData.row_groups("test")`.
    """
    metric, rows = MAIN_METRIC[kind], len(targets)
    units, number = (None, None) if groups is None else (groups.count, groups.number)
    counts = bootstrap_counts(rows, resamples, seed=derive_seed(seed, "bootstrap", "test"), groups=number)
    orders = permuted_orders(rows, permutations, seed=derive_seed(seed, "permutations"), groups=number)
    scores = score_rows(kind, logits, targets, counts, groups=units, names={metric})
    null = permuted_scores(kind, logits, targets, orders, names={metric})[metric]
    ends = scores.interval(metric) if resamples > 0 else None
    resampled = rows if units is None else units
    errors = errors_of_draws(scores.draws[metric], units=resampled)
    return Estimates(
        scores.values[metric].numpy(),
        rows,
        errors=drawn(errors),
        null=drawn(null),
        note="the score is undefined",
        interval=None if ends is None else torch.stack(ends).numpy(),
        interval_over="rows" if groups is None else groups.name,
        freedom=((len(errors), resampled - 1),),
    )


class Scored(NamedTuple):
    """A score, what it would be by chance, and its p by itself; p is NaN where chance does not vary."""

    value: float
    chance: float
    p: float

    @property
    def excess(self) -> float:
        """By how much it exceeds chance."""
        return self.value - self.chance

    @property
    def above_chance(self) -> bool:
        """Whether p is below the level of significance."""
        return self.p < SIGNIFICANCE_LEVEL


def cells_of(estimates: Estimates) -> list[Scored]:
    """Each layer's score, its mean by chance, and its p by itself, of estimates with draws of a null."""
    assert estimates.null is not None
    p = permutation_p(estimates.values, estimates.null).cell
    return [Scored(*cell) for cell in zip(estimates.values, estimates.null.mean(0), p, strict=True)]


def predictions_of(data: TaskData, logits: Tensor, layers: Sequence[Layer]) -> Predictions:
    """What logits `(layers, rows, classes)` predict of a task's test rows."""
    return Predictions.of_logits(
        logits,
        data.test.targets,
        task=data.task,
        kind=data.kind,
        reading=data.reading,
        labels=data.labels,
        layers=tuple(layers),
        row_ids=data.test.activations.row_ids,
        groups=data.row_groups("test"),
        depth=data.depth,
    )


def over_layers(estimates: Estimates, own: Sequence[Layer], layers: Sequence[Layer], note: str) -> Estimates:
    """Estimates of some layers as estimates of all, NaN with a note at the others.

    Args:
        estimates: Of the layers `own`.
        own: Some of `layers`.
        layers: All layers.
        note: Why the others have no value.
    """
    if tuple(own) == tuple(layers):
        return estimates
    place = [list(layers).index(layer) for layer in own]

    def spread(values: np.ndarray | None) -> np.ndarray | None:
        if values is None:
            return None
        full = np.full((*values.shape[:-1], len(layers)), np.nan)
        full[..., place] = values
        return full

    remarks = dict(zip(own, estimates.remarks, strict=True)) if estimates.remarks else {}
    values = spread(estimates.values)
    assert values is not None
    return replace(
        estimates,
        values=values,
        errors=spread(estimates.errors),
        null=spread(estimates.null),
        interval=spread(estimates.interval),
        note=note,
        remarks=tuple(remarks.get(layer, "") for layer in layers) if remarks else (),
    )
