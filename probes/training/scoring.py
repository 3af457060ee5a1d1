"""A task's chosen probes, scored at every layer: profiles with intervals, null and remarks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.metrics import (
    LARGER_IS_BETTER,
    MAIN_METRIC,
    UNITS,
    Scores,
    TargetKind,
    bootstrap_counts,
    majority_logits,
    permuted_scores,
    score_rows,
)
from probes.seeds import derive_seed
from probes.training.task_data import TaskData
from probes.values import Estimates, Layer, LayerProfile

NO_PROBE = "constant layer: no feature varies over the training rows"


@dataclass(frozen=True)
class SplitLogits:
    """Logits of probes and controls on one split.

    Attributes:
        split: Its name.
        logits: Shape `(layers, 1 + controls, rows, classes)`, the probe of the true labels first.
        targets: Shape `(1 + controls, rows, ...)`.
        remark: Reported with every score of this split, such as that it was cross-validated.
    """

    split: str
    logits: Tensor
    targets: Tensor
    remark: str = ""


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
            *self._of_scores(outputs, control, control="shuffled_labels", remark=remark),
            *self._of_scores(outputs, _difference(true, control, MAIN_METRIC[self.data.kind])),
        ]

    def majority_profiles(self, split: str, train_targets: Tensor, targets: Tensor) -> list[LayerProfile]:
        """Scores of the constant prediction that fits the training labels best; they belong to no layer."""
        logits = majority_logits(self.data.kind, train_targets, len(targets), classes=self.data.num_classes)
        scores = score_rows(self.data.kind, logits, targets, ordered=self.data.ordered)
        return [
            self._profile(metric, split, Estimates(values.double().numpy(), len(targets)), (None,), control="majority")
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
        if self.bootstrap_samples > 0 and outputs.split != "train":
            seed = derive_seed(self.seed, "bootstrap", outputs.split)
            counts = bootstrap_counts(rows, self.bootstrap_samples, seed=seed)
        if self.permutations > 0 and outputs.split == "test":
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "permutations"))
            orders = torch.stack([torch.randperm(rows, generator=generator) for _ in range(self.permutations)])
        scores = []
        for replica, targets in enumerate(outputs.targets):
            logits = outputs.logits[:, replica]
            of_replica = score_rows(kind, logits, targets, counts, ordered=self.data.ordered)
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
            interval = scores.interval(metric)
            has_errors = metric in scores.draws and outputs.split == "test" and not control
            estimates = Estimates(
                self._over(layers, values),
                outputs.targets.shape[1],
                errors=self._over(layers, _errors_of_draws(scores.draws[metric])) if has_errors else None,
                null=self._over(layers, scores.null[metric]) if metric in scores.null and not control else None,
                alternative="greater" if LARGER_IS_BETTER[metric] else "less",
                note=NO_PROBE,
                interval=None if interval is None else np.stack([self._over(layers, end) for end in interval]),
                remarks=tuple(remarks.get(layer, "") for layer in layers),
            )
            profiles.append(self._profile(metric, outputs.split, estimates, layers, control=control))
        return profiles

    def _profile(
        self, metric: str, split: str, estimates: Estimates, layers: Sequence[Layer | None], *, control: str = ""
    ) -> LayerProfile:
        penalties: tuple[float | None, ...] = ()
        if control != "majority":
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


def _errors_of_draws(draws: Tensor) -> Tensor:
    """Bootstrap draws `(samples, layers)` as errors: deviations scaled so that their squares sum to the variance."""
    draws = draws[draws.isfinite().all(1)]  # without resamples that leave the metric undefined
    return (draws - draws.mean(0)) / math.sqrt(len(draws) - 1)


def _main_metric_first(values: Mapping[str, Tensor], kind: TargetKind) -> list[tuple[str, Tensor]]:
    return sorted(values.items(), key=lambda item: item[0] != MAIN_METRIC[kind])


def _difference(true: Scores, control: Scores, metric: str) -> Scores:
    """Selectivity: one metric of the probe minus the controls', resample by resample, permutation by permutation."""
    parts = zip((true.values, true.draws, true.null), (control.values, control.draws, control.null), strict=True)
    values, draws, null = (
        {"selectivity": own[metric] - other[metric]} if metric in own else {} for own, other in parts
    )
    return replace(true, values=values, draws=draws, null=null)


def _mean(scores: Sequence[Scores]) -> Scores:
    def mean(part: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {metric: torch.stack([of_score[metric] for of_score in part]).mean(0) for metric in part[0]}

    values, draws, null = (mean([getattr(s, part) for s in scores]) for part in ("values", "draws", "null"))
    return replace(scores[0], values=values, draws=draws, null=null)
