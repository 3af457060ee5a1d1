"""A task's chosen probes, scored at every layer: profiles with intervals, null and remarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.metrics import (
    LARGER_IS_BETTER,
    MAIN_METRIC,
    SCALES,
    UNITS,
    RowGroups,
    Scores,
    TargetKind,
    bootstrap_counts,
    errors_of_draws,
    majority_logits,
    permuted_orders,
    permuted_scores,
    score_rows,
    widened,
    word_majority_logits,
)
from probes.seeds import derive_seed
from probes.training.task_data import TaskData
from probes.training.training_sets import training_set_errors
from probes.values import Estimates, Layer, LayerProfile

_REFIT_RESAMPLES = 100
"""Resamples of the test rows on which refitted probes are scored."""
_FEW_ROWS, _OF_RARE_ROWS = 15, ("cross_entropy_bits", "selectivity")
"""With fewer rows of a class that is also rare, intervals of these metrics would cover 92 % (docs/calibration.md)."""
_FEW_WRONG = 5
"""With fewer wrong rows, on which a mean cross-entropy then rests, its interval would cover 92 %."""
NO_PROBE = "constant layer: no feature varies over the training rows"


@dataclass(frozen=True)
class SplitLogits:
    """Logits of probes and controls on one split.

    Attributes:
        split: Its name.
        logits: Shape `(layers, 1 + controls, rows, classes)`, the probe of the true labels first.
        targets: Shape `(1 + controls, rows, ...)`.
        remark: Reported with every score of this split, such as that it was cross-validated.
        refits: Logits of probes and controls refitted on halves of the training rows, shape
            `(layers, 1 + controls, sets, rows, classes)`; `None`: intervals hold the trained probes fixed.
        groups: Sentences, or values of `suite.group`, that are resampled; `None`: rows are.
    """

    split: str
    logits: Tensor
    targets: Tensor
    remark: str = ""
    refits: Tensor | None = None
    groups: RowGroups | None = None

    @property
    def units(self) -> str:
        """What is resampled."""
        return "rows" if self.groups is None else self.groups.name


@dataclass(frozen=True)
class TaskScorer:
    """Turns logits of one task's probes into profiles over all of the task's layers.

    Attributes:
        data: The task.
        probe: Name of the probe.
        probed_layers: Layers that have a probe; the others of the task are constant and get no value.
        penalties: λ of each probed layer.
        remarks: What must be reported of each probed layer, such as that its probe has not converged.
        bootstrap_samples: Resamples of the rows behind each interval; 0 for none.
        permutations: Permutations of the test labels behind each null; 0 for none.
        seed: Decides resamples and permutations.
    """

    data: TaskData
    probe: str
    probed_layers: tuple[Layer, ...]
    penalties: Sequence[float]
    remarks: Sequence[str]
    bootstrap_samples: int
    permutations: int
    seed: int

    def profiles(self, outputs: SplitLogits) -> list[LayerProfile]:
        """Every metric of the probes, of their controls, and selectivity; the main metric first.

        All of them are scored on the same resamples of the rows (none on the training split), so that selectivity, the
        main metric minus the controls', has a paired interval. On test rows, all are also scored on the same
        permutations of the labels, which give the null of the score and of selectivity.
        """
        true, *shuffled = self._scores(outputs)
        if not shuffled:
            return self._of_scores(outputs, true)
        control = _mean(shuffled)
        remark = f"mean of {len(shuffled)} shuffles" if len(shuffled) > 1 else ""
        return [
            *self._of_scores(outputs, true),
            *self._of_scores(outputs, control, control=self._control, remark=remark),
            *self._of_scores(outputs, _difference(true, control, MAIN_METRIC[self.data.kind])),
        ]

    @property
    def _control(self) -> str:
        """Name of what the controls' labels are."""
        return "shuffled_labels" if self.data.word_types is None else "word_types"

    def majority_profiles(self, split: str, train_targets: Tensor, targets: Tensor) -> list[LayerProfile]:
        """Scores of the constant prediction that fits the training labels best; they belong to no layer."""
        logits = majority_logits(self.data.kind, train_targets, len(targets), classes=self.data.num_classes)
        scores = score_rows(self.data.kind, logits, targets, ordered=self.data.ordered)
        return [
            self._profile(metric, split, Estimates(values.double().numpy(), len(targets)), (None,), control="majority")
            for metric, values in scores.values.items()
        ]

    def word_majority_profiles(
        self, split: str, train: tuple[Tensor, Sequence[str]], targets: Tensor, types: Sequence[str]
    ) -> list[LayerProfile]:
        """Scores of giving each word the label that it has most often in training; they belong to no layer.

        Args:
            split: Its name.
            train: Targets and words of the training rows.
            targets: Class indices of the rows, `(rows,)`.
            types: The word of each row.
        """
        logits = word_majority_logits(*train, types, classes=self.data.num_classes)
        scores = score_rows(self.data.kind, logits, targets)
        place = {"control": "majority_per_word"}
        return [
            self._profile(metric, split, Estimates(values.double().numpy(), len(targets)), (None,), **place)
            for metric, values in scores.values.items()
        ]

    def missing_profiles(self, split: str, metrics: Sequence[str]) -> list[LayerProfile]:
        """Profiles without values, for a task of which no layer has a probe."""
        rows = len(getattr(self.data, split).targets)
        values = np.full(len(self.data.layers), np.nan)
        return [
            self._profile(metric, split, Estimates(values, rows, note=NO_PROBE), self.data.layers) for metric in metrics
        ]

    def _scores(self, outputs: SplitLogits) -> list[Scores]:
        """Scores of the probe and of each control."""
        kind, rows = self.data.kind, outputs.targets.shape[1]
        counts, orders = None, None
        number = None if outputs.groups is None else outputs.groups.number
        if self.bootstrap_samples > 0 and outputs.split != "train":
            seed = derive_seed(self.seed, "bootstrap", outputs.split)
            counts = bootstrap_counts(rows, self.bootstrap_samples, seed=seed, groups=number)
        if self.permutations > 0 and outputs.split == "test":
            seed = derive_seed(self.seed, "permutations")
            orders = permuted_orders(rows, self.permutations, seed=seed, groups=number)
        groups = None if outputs.groups is None else outputs.groups.count
        scores = []
        for replica, targets in enumerate(outputs.targets):
            logits = outputs.logits[:, replica]
            of_replica = score_rows(kind, logits, targets, counts, ordered=self.data.ordered, groups=groups)
            if outputs.refits is not None and counts is not None:
                refits = _refitted_scores(kind, outputs.refits[:, replica], targets, counts[:_REFIT_RESAMPLES])
                of_replica = replace(of_replica, refits=refits)
            if orders is not None:
                # of controls, selectivity needs the main metric alone
                names = of_replica.values.keys() if replica == 0 else {MAIN_METRIC[kind]}
                of_replica = replace(of_replica, null=permuted_scores(kind, logits, targets, orders, names=names))
            scores.append(of_replica)
        return scores

    def _of_scores(
        self, outputs: SplitLogits, scores: Scores, *, control: str = "", remark: str = ""
    ) -> list[LayerProfile]:
        layers = self.probed_layers if control else self.data.layers
        joined = ("; ".join(filter(None, (of_layer, outputs.remark, remark))) for of_layer in self.remarks)
        remarks = dict(zip(self.probed_layers, joined, strict=True))
        profiles = []
        for metric, values in _main_metric_first(scores.values, self.data.kind):
            interval, errors, freedom, over = _uncertainty(scores, metric, outputs.units)
            why_none = self._why_without_interval(outputs, metric) if not control else [""] * len(self.probed_layers)
            if interval is not None and errors is not None:
                without = torch.tensor([bool(reason) for reason in why_none])
                interval, errors = (part.masked_fill(without, torch.nan) for part in (interval, errors))
            has_errors = errors is not None and outputs.split == "test" and not control
            reasons = dict(zip(self.probed_layers, why_none, strict=True))
            estimates = Estimates(
                self._over(layers, values),
                outputs.targets.shape[1],
                errors=self._over(layers, errors) if errors is not None and has_errors else None,
                null=self._over(layers, scores.null[metric]) if metric in scores.null and not control else None,
                alternative="greater" if LARGER_IS_BETTER[metric] else "less",
                note=NO_PROBE,
                interval=None if interval is None else self._over(layers, interval),
                interval_over=over,
                remarks=tuple(
                    "; ".join(filter(None, (remarks.get(layer, ""), reasons.get(layer, "")))) for layer in layers
                ),
                freedom=freedom,
            )
            profiles.append(self._profile(metric, outputs.split, estimates, layers, control=control))
        return profiles

    def _why_without_interval(self, outputs: SplitLogits, metric: str) -> list[str]:
        """For each probed layer, why the interval of a metric would be too narrow; empty where it has one."""
        reasons = [""] * len(self.probed_layers)
        if outputs.groups is not None and outputs.groups.count == 1 and outputs.split == "test":
            return [f"no interval: all test rows are of one {outputs.groups.name.removesuffix('s')}"] * len(reasons)
        if self.data.kind != "classification" or outputs.split != "test" or self.bootstrap_samples == 0:
            return reasons
        targets = outputs.targets[0]
        if metric in _OF_RARE_ROWS and (rarest := class_of_few_rows(targets, self.data.labels)):
            reasons = [f"no interval: {rarest}"] * len(reasons)
        elif metric == "cross_entropy_bits":
            wrong = (outputs.logits[:, 0].argmax(-1) != targets).sum(1).tolist()
            reasons = [f"no interval: {rows} rows are wrong" if rows < _FEW_WRONG else "" for rows in wrong]
        return reasons

    def _profile(
        self, metric: str, split: str, estimates: Estimates, layers: Sequence[Layer | None], *, control: str = ""
    ) -> LayerProfile:
        penalties: tuple[float | None, ...] = ()
        if not control.startswith("majority"):
            by_layer = dict(zip(self.probed_layers, self.penalties, strict=True))
            penalties = tuple(None if layer is None else by_layer.get(layer) for layer in layers)
        place: dict[str, Any] = {"task": self.data.task, "reading": self.data.reading, "split": split}
        return LayerProfile(
            quantity=f"probe/{metric}",
            unit=UNITS[metric],
            estimates=estimates,
            layers=tuple(layers),
            control=control,
            probe=self.probe,
            penalties=penalties,
            seed=self.seed,
            **place,
        )

    def _over(self, layers: Sequence[Layer], values: Tensor) -> np.ndarray:
        """Values of the probed layers, the last axis, as float64 over `layers`; NaN at layers without a probe."""
        spread = np.full((*values.shape[:-1], len(layers)), np.nan)
        spread[..., [layers.index(layer) for layer in self.probed_layers]] = values.numpy(force=True)
        return spread


def _refitted_scores(kind: TargetKind, logits: Tensor, targets: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """Metric → `(1 + samples, sets, layers)` as in `Scores.refits`, from logits `(layers, sets, rows, classes)`."""
    layers, sets = logits.shape[:2]
    scores = score_rows(kind, logits.flatten(0, 1), targets, counts)  # of layers × sets probes
    return {
        metric: torch.cat([values[None], scores.draws[metric]]).view(-1, layers, sets).transpose(1, 2)
        for metric, values in scores.values.items()
    }


def class_of_few_rows(targets: Tensor, labels: Sequence[str]) -> str:
    """The rarest class, in words, if so few rows are of it that some intervals would be too narrow; else empty.

    Args:
        targets: Class indices, shape `(rows,)`.
        labels: Names of the classes.
    """
    counts = torch.bincount(targets, minlength=len(labels))
    rarest = int(counts.argmin())
    few = counts[rarest] < min(_FEW_ROWS, len(targets) / (2 * len(labels)))
    return f"class '{labels[rarest]}' has {int(counts[rarest])} test rows" if few else ""


def _uncertainty(
    scores: Scores, metric: str, units: str
) -> tuple[Tensor | None, Tensor | None, tuple[tuple[int, int], ...], str]:
    """Interval `(2, layers)`, errors `(errors, layers)` and their freedom as in `Estimates`, and what they are over.

    Without resamples, there are none. Errors over test rows and over training sets stand one below the other, so that
    their squares sum to the sum of both variances.
    """
    ends = scores.interval(metric)
    if ends is None:
        return None, None, (), units
    resampled = scores.rows if scores.groups is None else scores.groups
    interval, errors = torch.stack(ends), errors_of_draws(scores.draws[metric], units=resampled)
    of_rows = (len(errors), resampled - 1)
    if metric not in scores.refits:
        return interval, errors, (of_rows,), units
    over_sets = training_set_errors(scores.refits[metric])
    errors = torch.cat([errors, over_sets])
    scale = SCALES.get((scores.kind, metric), "difference")
    interval = widened(interval, scores.values[metric], over_sets, scale=scale)
    return interval, errors, (of_rows, (len(over_sets), len(over_sets) - 1)), f"{units} and training sets"


def _main_metric_first(values: Mapping[str, Tensor], kind: TargetKind) -> list[tuple[str, Tensor]]:
    return sorted(values.items(), key=lambda item: item[0] != MAIN_METRIC[kind])


def _difference(true: Scores, control: Scores, metric: str) -> Scores:
    """Selectivity: one metric of the probe minus the controls', resample by resample, permutation by permutation."""
    parts = zip(_parts(true), _parts(control), strict=True)
    return _with_parts(true, [{"selectivity": a[metric] - b[metric]} if metric in a else {} for a, b in parts])


def _mean(scores: Sequence[Scores]) -> Scores:
    def mean(part: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {metric: torch.stack([of_score[metric] for of_score in part]).mean(0) for metric in part[0]}

    return _with_parts(scores[0], [mean(part) for part in zip(*map(_parts, scores), strict=True)])


def _parts(scores: Scores) -> tuple[Mapping[str, Tensor], ...]:
    return scores.values, scores.draws, scores.null, scores.refits


def _with_parts(scores: Scores, parts: Sequence[Mapping[str, Tensor]]) -> Scores:
    values, draws, null, refits = parts
    return replace(scores, values=values, draws=draws, null=null, refits=refits)
