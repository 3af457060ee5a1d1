"""The table of metrics, and scoring with it: point values, bootstrap draws and their intervals.

`METRICS` is the only place where a metric is declared. To add one, write a function with the signature of
`ProbeMetric.function` in `classification.py` or `regression.py` and add one `ProbeMetric` to the table; its scores, its
unit and its rows of `results.csv` follow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from probes.metrics import classification, regression
from probes.metrics.score_intervals import Scale, score_interval

TargetKind = Literal["classification", "multilabel", "regression"]
"""`classification`: one of several classes; `multilabel`: 0 or 1 for each label; `regression`: a real number."""


@dataclass(frozen=True)
class ProbeMetric:
    """One metric of one kind of task.

    Attributes:
        name: Its name in `Scores` and in `results.csv`. Metrics of several kinds of task may share a name if they share
            the unit.
        unit: Its unit, for axes and tables.
        kind: Kind of task.
        function: Maps logits `(layers, rows, classes)`, targets `(rows,)` or `(rows, labels)` and counts of each row in
            each resample, float64 `(samples, rows)`, to float64 `(samples, layers)`.
        is_main: Whether penalties are chosen by this metric and selectivity is measured in it; true for one metric of
            each kind, whose larger values must be better.
        larger_is_better: Whether larger values are better.
        classes: The number of classes for which it is defined; `None` for any.
        least_classes: The number of classes from which on it is reported.
        scale: Its range, which decides the form of its interval; see `score_interval`.
        of_order: Whether it is defined only for classes that are in order, such as ratings.
    """

    name: str
    unit: str
    kind: TargetKind
    function: Callable[[Tensor, Tensor, Tensor], Tensor]
    is_main: bool = False
    larger_is_better: bool = True
    classes: int | None = None
    least_classes: int = 0
    scale: Scale = "share"
    of_order: bool = False


METRICS = (
    ProbeMetric("accuracy", "share of rows", "classification", classification.accuracy),
    ProbeMetric("macro_f1", "mean F1 over classes", "classification", classification.macro_f1, is_main=True),
    ProbeMetric("top_5_accuracy", "share of rows", "classification", classification.top_5_accuracy, least_classes=10),
    ProbeMetric(
        "cross_entropy_bits",
        "bits",
        "classification",
        classification.cross_entropy_bits,
        larger_is_better=False,
        scale="positive",
    ),
    ProbeMetric(
        "auroc",
        "share of pairs",
        "classification",
        classification.binary_auroc,
        classes=2,
        scale="share_of_pairs",
    ),
    ProbeMetric(
        "spearman",
        "rank correlation",
        "classification",
        classification.ordinal_spearman,
        of_order=True,
        scale="correlation",
    ),
    ProbeMetric("subset_accuracy", "share of rows", "multilabel", classification.subset_accuracy),
    ProbeMetric(
        "label_accuracy", "share of labels", "multilabel", classification.label_accuracy, scale="share_of_labels"
    ),
    ProbeMetric(
        "macro_f1",
        "mean F1 over classes",
        "multilabel",
        classification.multilabel_macro_f1,
        is_main=True,
        scale="share_of_labels",
    ),
    ProbeMetric(
        "cross_entropy_bits",
        "bits",
        "multilabel",
        classification.multilabel_cross_entropy_bits,
        larger_is_better=False,
        scale="positive",
    ),
    ProbeMetric("mse", "squared target unit", "regression", regression.mse, larger_is_better=False, scale="positive"),
    ProbeMetric("r2", "share of variance", "regression", regression.r2, is_main=True, scale="at_most_one"),
    ProbeMetric("spearman", "rank correlation", "regression", regression.spearman, scale="correlation"),
)
"""All metrics, in the order in which they are reported."""

MAIN_METRIC: Mapping[str, str] = MappingProxyType({metric.kind: metric.name for metric in METRICS if metric.is_main})
"""Kind of task → name of the metric by which penalties are chosen and in which selectivity is measured."""

OBJECTIVE_METRIC: Mapping[str, str] = MappingProxyType({**MAIN_METRIC, "regression": "mse"})
"""Kind of task → name of the metric by which the best layer is chosen, and which a sweep optimises."""

UNITS: Mapping[str, str] = MappingProxyType(
    {metric.name: metric.unit for metric in METRICS} | {"selectivity": "difference of the main metric"}
)
"""Name of a metric → unit; also of selectivity, the main metric minus that of the same probe on shuffled labels."""

SCALES: Mapping[tuple[TargetKind, str], Scale] = MappingProxyType(
    {(metric.kind, metric.name): metric.scale for metric in METRICS}
)
"""Kind of task and name of a metric → its range."""

LARGER_IS_BETTER: Mapping[str, bool] = MappingProxyType(
    {metric.name: metric.larger_is_better for metric in METRICS} | {"selectivity": True}
)
"""Name of a metric → whether larger values are better; also of selectivity."""

_PERMUTED_ELEMENTS = 2**23
"""Elements of permuted logits held at once."""


@dataclass(frozen=True)
class Scores:
    """Scores of every layer's probe on one set of rows.

    Attributes:
        values: Metric → float64 `(layers,)`.
        draws: Metric → float64 `(samples, layers)`, one value per bootstrap resample; empty without resamples.
        kind: Kind of task.
        rows: Rows that were scored.
        null: Metric → float64 `(permutations, layers)`, values by chance as from `permuted_scores`; empty without.
        refits: Metric → float64 `(1 + samples, sets, layers)`, for probes refitted on halves of the training rows:
            on the rows, then on resamples of them; empty without.
        groups: Number of groups that were resampled, such as sentences of words; `None`: rows were.
    """

    values: Mapping[str, Tensor]
    draws: Mapping[str, Tensor]
    kind: TargetKind
    rows: int
    null: Mapping[str, Tensor] = field(default_factory=lambda: MappingProxyType({}))
    refits: Mapping[str, Tensor] = field(default_factory=lambda: MappingProxyType({}))
    groups: int | None = None

    def interval(self, metric: str) -> tuple[Tensor, Tensor] | None:
        """95 % interval of a metric over rows or groups, on its scale, each end `(layers,)`; `None` without resamples.

        A metric that is not in `METRICS`, such as a difference of two, has a symmetric one.
        """
        if metric not in self.draws:
            return None
        scale = SCALES.get((self.kind, metric), "difference")
        units = self.rows if self.groups is None else self.groups
        if self.groups is not None and scale == "share":
            scale = "share_of_labels"  # a group has more than one answer
        return score_interval(self.values[metric], self.draws[metric], rows=units, scale=scale)


def score_rows(
    kind: TargetKind,
    logits: Tensor,
    targets: Tensor,
    counts: Tensor | None = None,
    *,
    ordered: bool = False,
    names: Collection[str] | None = None,
    groups: int | None = None,
) -> Scores:
    """Score every layer's logits against the targets with the metrics of a kind of task.

    Args:
        kind: Kind of task.
        logits: Shape `(layers, rows, classes)`; classes is 1 for regression.
        targets: Shape `(rows,)`, or `(rows, labels)` for multi-label tasks.
        counts: Resamples as from `bootstrap_counts`, shape `(samples, rows)`; `None` for point values only.
        ordered: Whether the classes are in order, which adds the metrics of ordered classes.
        names: Metrics to compute; all by default.
        groups: Number of groups that `counts` resample, such as sentences of words; `None`: rows are resampled.

    Raises:
        ValueError: There are no rows, or logits and targets have different numbers of them.
    """
    if len(targets) == 0 or logits.shape[1] != len(targets):
        raise ValueError(
            "Scoring expects at least one row, and as many targets as rows of logits; got "
            f"{len(targets)} targets and {logits.shape[1]} rows."
        )
    once = torch.ones(1, len(targets), device=logits.device)
    which: dict[str, Any] = {"ordered": ordered, "names": names}
    values = _scores_of_kind(kind, logits, targets, once, **which)
    draws = {} if counts is None else _scores_of_kind(kind, logits, targets, counts.to(logits.device), **which)
    return Scores({name: value[0] for name, value in values.items()}, draws, kind, len(targets), groups=groups)


def permuted_scores(
    kind: TargetKind, logits: Tensor, targets: Tensor, orders: Tensor, *, names: Collection[str]
) -> dict[str, Tensor]:
    """Scores of the same predictions when they are matched with the targets of other rows.

    If predictions and targets are unrelated, the score of the matched rows is one more draw from these, whatever the
    metric, the number of rows and the balance of the classes.

    Args:
        kind: Kind of task.
        logits: Shape `(layers, rows, classes)`.
        targets: Shape `(rows,)`, or `(rows, labels)`.
        orders: Which row of logits each target is matched with, int64 `(permutations, rows)`; without any there are
            scores of none.
        names: Metrics to compute.

    Returns:
        Metric → float64 `(permutations, layers)`.
    """
    if len(orders) == 0:
        return {name: logits.new_empty(0, len(logits), dtype=torch.float64) for name in names}
    once = torch.ones(1, len(targets), device=logits.device)
    at_once = max(1, _PERMUTED_ELEMENTS // logits.numel())
    parts = []
    for some in orders.split(at_once):
        matched = logits[:, some].flatten(0, 1)  # (layers × permutations, rows, classes)
        scores = _scores_of_kind(kind, matched, targets, once, ordered=True, names=names)
        parts.append({name: values.view(len(logits), len(some)).T for name, values in scores.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _scores_of_kind(
    kind: TargetKind,
    logits: Tensor,
    targets: Tensor,
    counts: Tensor,
    *,
    ordered: bool = False,
    names: Collection[str] | None = None,
) -> dict[str, Tensor]:
    counts = counts.to(torch.float64)
    of_kind = [metric for metric in METRICS if metric.kind == kind and (ordered or not metric.of_order)]
    defined = [metric for metric in of_kind if _is_defined(metric, logits.shape[-1])]
    wanted = [metric for metric in defined if names is None or metric.name in names]
    return {metric.name: metric.function(logits, targets, counts) for metric in wanted}


def _is_defined(metric: ProbeMetric, classes: int) -> bool:
    return metric.classes in (None, classes) and classes >= metric.least_classes
