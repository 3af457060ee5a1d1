"""One call for any kind of task: point values, bootstrap intervals and the draws behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from .bootstrap import percentile_interval
from .classification import classification_scores
from .multilabel import multilabel_scores
from .regression import regression_scores

Kind = Literal["classification", "multilabel", "regression"]
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


def score_rows(kind: Kind, logits: Tensor, targets: Tensor, counts: Tensor | None = None) -> Scores:
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
            f"Scoring wants as many targets as rows, and at least one; got {len(targets)} and {logits.shape[1]}."
        )
    scorer = _SCORERS[kind]
    values = scorer(logits, targets, torch.ones(1, len(targets), device=logits.device))
    draws = {} if counts is None else scorer(logits, targets, counts.to(logits.device))
    return Scores({metric: value[0] for metric, value in values.items()}, draws)
