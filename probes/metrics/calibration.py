"""Whether probabilities mean what they say: calibration error, its value by chance, over-confidence and reliability.

An answer is the predicted class of a row, or each predicted label of it; its confidence is the probability that the
probe gives it. A probe is calibrated if, of answers of confidence c, the share c is right.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.metrics.scores import TargetKind

BINS = 15
"""Bins of equal width in [0, 1]."""


@dataclass(frozen=True)
class Answers:
    """Answers of every layer's probe.

    Attributes:
        confidence: float64, shape `(layers, answers)`.
        correct: 1 or 0, float64, same shape.
        per_row: Answers of one row, which stand side by side: 1, or the number of labels.
    """

    confidence: Tensor
    correct: Tensor
    per_row: int = 1

    @classmethod
    def of_logits(cls, kind: TargetKind, logits: Tensor, targets: Tensor) -> Answers:
        """Answers of logits `(layers, rows, classes)` to targets `(rows,)` or `(rows, labels)`."""
        if kind == "classification":
            confidence, predicted = logits.double().softmax(-1).max(-1)
            return cls(confidence, (predicted == targets).double())
        if kind != "multilabel":
            raise ValueError(f"Only classes and labels have probabilities; the task is of kind '{kind}'.")
        confidence = logits.double().abs().sigmoid()  # of the predicted value, 1 where the logit exceeds 0
        correct = ((logits > 0) == (targets > 0.5)).double()
        return cls(confidence.flatten(1), correct.flatten(1), targets.shape[1])

    def bins(self, bins: int = BINS) -> Tensor:
        """Bin of each answer, int64 of its shape; a bin holds its upper end."""
        return ((self.confidence * bins).ceil().long() - 1).clamp(0, bins - 1)


def expected_calibration_error(answers: Answers, *, bins: int = BINS) -> Tensor:
    """Mean over answers of the distance between confidence and accuracy in their bin, float64 `(layers,)`.

    It is biased upwards: chance alone moves every bin's accuracy. `calibrated_errors` says how far.

    Source:
        Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, arXiv:1706.04599.

    >>> always_sure = Answers(torch.full((1, 10), 0.95), torch.tensor([[1.0] * 7 + [0.0] * 3]))
    >>> round(expected_calibration_error(always_sure).item(), 2)
    0.25
    """
    excess = answers.correct - answers.confidence
    by_bin = excess.new_zeros(len(excess), bins).scatter_add_(1, answers.bins(bins), excess)
    return by_bin.abs().sum(1) / excess.shape[1]


def calibrated_errors(answers: Answers, draws: int, *, bins: int = BINS, seed: int) -> Tensor:
    """Calibration errors by chance: of probes with these confidences whose answers are right exactly that often.

    Every layer is drawn with the same random numbers.

    Args:
        answers: Whose confidences count.
        draws: Number of draws; 0 for none.
        bins: Number of bins.
        seed: Decides the draws.

    Returns:
        float64, shape `(draws, layers)`.

    Source:
        Bröcker and Smith 2007, "Increasing the reliability of reliability diagrams": consistency resampling.
    """
    generator = torch.Generator().manual_seed(seed)
    confidence, place = answers.confidence, answers.bins(bins)
    errors = confidence.new_empty(draws, len(confidence))
    for of_draw in errors:
        uniform = torch.rand(confidence.shape[1], generator=generator, dtype=torch.float64)
        excess = (uniform < confidence).double() - confidence
        by_bin = excess.new_zeros(len(excess), bins).scatter_add_(1, place, excess)
        of_draw.copy_(by_bin.abs().sum(1) / excess.shape[1])
    return errors


def over_confidence(answers: Answers) -> Tensor:
    """Each row's mean confidence less its share of right answers, float64 `(layers, rows)`; its mean is signed."""
    excess = answers.confidence - answers.correct
    return excess.unflatten(1, (-1, answers.per_row)).mean(-1)


@dataclass(frozen=True)
class ReliabilityBin:
    """A bin of answers with similar confidence.

    Attributes:
        answers: Their number.
        confidence: Their mean confidence.
        accuracy: Share of right ones.
    """

    answers: int
    confidence: float
    accuracy: float


def reliability(answers: Answers, layer: int, *, bins: int = BINS) -> list[ReliabilityBin]:
    """The bins of a reliability diagram of one layer, ascending; empty ones are left out."""
    place, confidence, correct = answers.bins(bins)[layer], answers.confidence[layer], answers.correct[layer]
    return [
        ReliabilityBin(int(inside.sum()), confidence[inside].mean().item(), correct[inside].mean().item())
        for inside in (place == number for number in range(bins))
        if inside.any()
    ]
