"""The prediction that has seen no activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from probes.metrics.classification import classification_scores, multilabel_scores
from probes.metrics.regression import regression_scores


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


TargetKind = Literal["classification", "multilabel", "regression"]
"""`classification`: one of several classes; `multilabel`: 0/1 for each label; `regression`: a real number."""

MAIN_METRIC: Mapping[str, str] = MappingProxyType(
    {"classification": "macro_f1", "multilabel": "macro_f1", "regression": "r2"}
)
"""The metric that selectivity is measured in, by kind of task."""

UNITS: Mapping[str, str] = MappingProxyType(
    {
        "accuracy": "share of rows",
        "macro_f1": "mean F1 over classes",
        "auroc": "share of pairs",
        "cross_entropy_bits": "bits",
        "subset_accuracy": "share of rows",
        "label_accuracy": "share of labels",
        "mse": "squared target unit",
        "r2": "share of variance",
        "spearman": "rank correlation",
        "selectivity": "difference of the main metric",
    }
)
"""Unit of each metric."""

_SCORERS = {
    "classification": classification_scores,
    "multilabel": multilabel_scores,
    "regression": regression_scores,
}


@dataclass(frozen=True)
class Scores:
    """Scores of every layer's probe on one set of rows.

    Attributes:
        values: Metric → float64 `(layers,)`.
        draws: Metric → float64 `(samples, layers)`; empty if no resamples were asked for.
    """

    values: Mapping[str, Tensor]
    draws: Mapping[str, Tensor]

    def interval(self, metric: str) -> tuple[Tensor, Tensor] | None:
        """95 % percentile interval of a metric, each end `(layers,)`; `None` without resamples."""
        return percentile_interval(self.draws[metric]) if metric in self.draws else None


def score_rows(kind: TargetKind, logits: Tensor, targets: Tensor, counts: Tensor | None = None) -> Scores:
    """Score every layer's logits against the targets.

    Args:
        kind: Kind of task.
        logits: Shape `(layers, rows, classes)`; classes is 1 for regression.
        targets: Shape `(rows,)`, or `(rows, labels)` for multi-label tasks.
        counts: Resamples as from `bootstrap_counts`, shape `(samples, rows)`; `None` for point values only.

    Raises:
        ValueError: There are no rows, or their number differs.
    """
    if len(targets) == 0 or logits.shape[1] != len(targets):
        raise ValueError(
            f"Scoring expects as many targets as rows, and at least one; got {len(targets)} and {logits.shape[1]}."
        )
    scorer = _SCORERS[kind]
    values = scorer(logits, targets, torch.ones(1, len(targets), device=logits.device))
    draws = {} if counts is None else scorer(logits, targets, counts.to(logits.device))
    return Scores({metric: value[0] for metric, value in values.items()}, draws)


def majority_logits(kind: TargetKind, train_targets: Tensor, rows: int, *, classes: int) -> Tensor:
    """Logits of the best constant prediction, from the training labels alone.

    For classes, the logarithm of their training frequencies: its prediction is the most frequent class, its
    cross-entropy that of the class frequencies. For labels likewise one by one. For regression, the training mean.

    Args:
        kind: Kind of task.
        train_targets: Shape `(train_rows,)`, or `(train_rows, labels)`.
        rows: Rows to predict.
        classes: Classes or labels; 1 for regression.

    Returns:
        Shape `(1, rows, classes)`, the same for every row.
    """
    if kind == "classification":
        frequencies = torch.bincount(train_targets, minlength=classes).double() / len(train_targets)
        constant = frequencies.log()
    elif kind == "multilabel":
        constant = train_targets.double().mean(0).logit()
    else:
        constant = train_targets.double().mean().reshape(1)
    return constant.float().expand(1, rows, classes)
