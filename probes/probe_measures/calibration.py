"""Whether a probe's probabilities mean what they say, at every layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import beta

from probes.metrics.calibration import (
    BINS,
    Answers,
    calibrated_errors,
    expected_calibration_error,
    over_confidence,
    reliability,
)
from probes.probe_measures.linear_refits import has_independent_vectors
from probes.probe_measures.protocol import ProbedTask, TaskTable, refuse_fewer
from probes.seeds import derive_seed
from probes.values import Estimates, LayerProfile


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Calibration error and over-confidence of the chosen probes on test rows; regression has none.

    `calibration_error` is the expected calibration error (ECE). It is never 0 with few rows; its null, the errors of
    equally sure probes that are calibrated, says how large it is by chance. `over_confidence`, the mean confidence
    less the accuracy, has an interval and the null 0. The table `reliability` holds the bins at the best layer.

    Attributes:
        bins: Bins of confidence, of equal width.
        draws: Draws of the null; 0 for none.

    Raises:
        ValueError: A number is less.
    """

    bins: int = BINS
    draws: int = 200

    def __post_init__(self) -> None:
        refuse_fewer(self, "analysis.probe_measures.calibration", bins=1, draws=0)

    def __call__(self, probed: ProbedTask) -> Iterator[LayerProfile | TaskTable]:
        """Both profiles, and the table."""
        data = probed.data
        if data.kind == "regression" or not has_independent_vectors(data):
            return
        rows = len(data.test.targets)
        logits = probed.fit.probes.logits(data.test.activations.values)
        answers = Answers.of_logits(data.kind, logits.nan_to_num(), data.test.targets)
        missing = logits.isnan().flatten(1).any(1).numpy()
        place: dict[str, Any] = {"layers": data.layers, "task": data.task, "reading": data.reading, "seed": probed.seed}
        note = "constant layer: no feature varies over the training rows"

        def spread(values: np.ndarray) -> np.ndarray:
            return np.where(missing, np.nan, values)

        null = calibrated_errors(answers, self.draws, bins=self.bins, seed=derive_seed(probed.seed, "calibration"))
        yield LayerProfile(
            quantity="calibration_error",
            unit="share of answers",
            estimates=Estimates(
                spread(expected_calibration_error(answers, bins=self.bins).numpy()),
                rows,
                null=spread(null.numpy()) if self.draws > 0 else None,
                note=note,
            ),
            **place,
        )
        excess = over_confidence(answers)
        errors = (excess - excess.mean(1, keepdim=True)).T / (rows * (rows - 1)) ** 0.5
        yield LayerProfile(
            quantity="over_confidence",
            unit="share of answers",
            estimates=Estimates(
                spread(excess.mean(1).numpy()),
                rows,
                errors=spread(errors.numpy()),
                null=np.zeros((1, len(missing))),
                alternative="two-sided",
                note=note,
            ),
            **place,
        )
        best = probed.fit.validation_best_layer
        if best is not None:
            yield self._reliability(probed, answers, data.layers.index(best))

    def _reliability(self, probed: ProbedTask, answers: Answers, layer: int) -> TaskTable:
        """The bins of one layer; the accuracy of each with its exact interval (Clopper and Pearson)."""
        bins = reliability(answers, layer, bins=self.bins)
        right = [round(one.accuracy * one.answers) for one in bins]
        wrong = [one.answers - hits for one, hits in zip(bins, right, strict=True)]
        pairs = list(zip(right, wrong, strict=True))
        columns = {
            "confidence": [one.confidence for one in bins],
            "accuracy": [one.accuracy for one in bins],
            "lower end": [0.0 if hits == 0 else float(beta.ppf(0.025, hits, misses + 1)) for hits, misses in pairs],
            "upper end": [1.0 if misses == 0 else float(beta.ppf(0.975, hits + 1, misses)) for hits, misses in pairs],
            "answers": [one.answers for one in bins],
        }
        return TaskTable(name="reliability", task=probed.data.task, reading=probed.data.reading, columns=columns)
