"""A task's chosen probes, turned into rows of `results.csv`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.metrics import MAIN_METRIC, Scores, TargetKind, bootstrap_counts, majority_logits, score_rows
from probes.seeds import derive_seed
from probes.values import Estimates, Layer, Result


@dataclass(frozen=True)
class SplitLogits:
    """What probes and controls answer on one split.

    Attributes:
        split: Its name.
        logits: Shape `(layers, 1 + controls, rows, classes)`, the true labels' probe first.
        targets: Shape `(1 + controls, rows, ...)`.
        note: Said of every row of this split, such as that it was cross-validated.
    """

    split: str
    logits: Tensor
    targets: Tensor
    note: str = ""


@dataclass(frozen=True)
class SplitScores:
    """What those answers score.

    Attributes:
        answers: What was scored.
        true: Scores of the probes.
        control: Mean scores of the controls; `None` without controls.
    """

    answers: SplitLogits
    true: Scores
    control: Scores | None

    def selectivity(self, kind: TargetKind) -> Scores:
        """Main metric minus the control's, resample by resample; nothing without controls."""
        if self.control is None:
            return Scores({}, {})
        metric = MAIN_METRIC[kind]
        true, control = self.true, self.control
        draws = {"selectivity": true.draws[metric] - control.draws[metric]} if metric in true.draws else {}
        return Scores({"selectivity": true.values[metric] - control.values[metric]}, draws)


@dataclass(frozen=True)
class ScoreSheet:
    """What the results of one task have in common.

    Attributes:
        kind: Kind of task.
        common: Fields every result shares.
        layers: Names of the probed layers.
        penalties: λ of each layer.
        notes: What is to be said of each layer; empty for most.
        samples: Resamples behind each interval; 0 for none.
        seed: Decides the resamples.
    """

    kind: TargetKind
    common: Mapping[str, Any]
    layers: tuple[Layer, ...]
    penalties: Sequence[float]
    notes: Sequence[str]
    samples: int
    seed: int

    def score(self, answers: SplitLogits) -> SplitScores:
        """Score probes and controls on one split, with resamples on all splits but train."""
        counts = None
        if self.samples > 0 and answers.split != "train":
            seed = derive_seed(self.seed, "bootstrap", answers.split)
            counts = bootstrap_counts(answers.targets.shape[1], self.samples, seed=seed)
        true, *shuffled = [
            score_rows(self.kind, answers.logits[:, i], targets, counts) for i, targets in enumerate(answers.targets)
        ]
        return SplitScores(answers, true, _mean(shuffled) if shuffled else None)

    def results(self, scores: SplitScores) -> list[Result]:
        """Every metric of probes and controls, and selectivity, at every layer."""
        answers, control = scores.answers, scores.control
        rows = [*self._rows(answers, scores.true, control="", null=control)]
        if control is not None:
            shuffles = len(answers.targets) - 1
            rows += self._rows(answers, control, control="shuffled_labels", null=None, shuffles=shuffles)
            rows += self._rows(answers, scores.selectivity(self.kind), control="", null=None)
        return rows

    def estimates(self, scores: SplitScores, layers: Sequence[Layer]) -> dict[str, Estimates]:
        """Main metric and selectivity of one split as `Estimates` of these layers, NaN at those without a probe."""
        metric, selectivity = MAIN_METRIC[self.kind], scores.selectivity(self.kind)
        main = Scores({metric: scores.true.values[metric]}, {k: v for k, v in scores.true.draws.items() if k == metric})
        return {
            f"probe/{name}": self._estimates(part, name, layers, scores.answers.targets.shape[1])
            for part in (main, selectivity)
            for name in part.values
        }

    def _estimates(self, scores: Scores, metric: str, layers: Sequence[Layer], rows: int) -> Estimates:
        probed = [layers.index(layer) for layer in self.layers]
        values, errors = np.full(len(layers), np.nan), None
        values[probed] = scores.values[metric].numpy(force=True)
        if metric in scores.draws:
            draws = scores.draws[metric].numpy(force=True)
            errors = np.full((len(draws), len(layers)), np.nan)
            errors[:, probed] = (draws - draws.mean(0)) / math.sqrt(len(draws) - 1)
        return Estimates(values, rows, errors)

    def constant_rows(self, splits: Sequence[str], metrics: Sequence[str], layers: Sequence[Layer]) -> list[Result]:
        """Mark the cells of layers that have no probe."""
        note = "constant layer: no feature varies over the training rows"
        return [
            Result(**self.common, layer=layer, split=split, metric=metric, note=note)
            for layer in layers
            for split in splits
            for metric in metrics
        ]

    def majority_rows(self, split: str, train_targets: Tensor, targets: Tensor, classes: int) -> list[Result]:
        """Score the constant prediction that the training labels make best."""
        logits = majority_logits(self.kind, train_targets, len(targets), classes=classes)
        scores = score_rows(self.kind, logits, targets)
        shared = {**self.common, "control": "majority", "split": split, "n": len(targets)}
        return [Result(**shared, metric=metric, value=value[0].item()) for metric, value in scores.values.items()]

    def _rows(
        self, answers: SplitLogits, scores: Scores, *, control: str, null: Scores | None, shuffles: int = 1
    ) -> Iterator[Result]:
        shuffle_note = f"mean of {shuffles} shuffles" if shuffles > 1 else ""
        for metric, values in scores.values.items():
            interval = scores.interval(metric)
            for i, layer in enumerate(self.layers):
                yield Result(
                    **self.common,
                    layer=layer,
                    penalty=self.penalties[i],
                    control=control,
                    split=answers.split,
                    metric=metric,
                    value=values[i].item(),
                    ci_low=None if interval is None else interval[0][i].item(),
                    ci_high=None if interval is None else interval[1][i].item(),
                    null_mean=None if null is None else null.values[metric][i].item(),
                    n=answers.targets.shape[1],
                    note="; ".join(filter(None, (self.notes[i], answers.note, shuffle_note))),
                )


def _mean(scores: Sequence[Scores]) -> Scores:
    first = scores[0]
    return Scores(
        {metric: torch.stack([s.values[metric] for s in scores]).mean(0) for metric in first.values},
        {metric: torch.stack([s.draws[metric] for s in scores]).mean(0) for metric in first.draws},
    )
