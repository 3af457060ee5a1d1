"""Macro-F1, accuracies and cross-entropy of multi-label predictions under any resampling of the rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def multilabel_scores(logits: Tensor, targets: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """Scores of multi-label predictions; a label is predicted where its logit is above 0.

    `macro_f1` averages over all labels; one that is neither true nor predicted in the resample counts as 0, as in
    torchmetrics and scikit-learn.

    Args:
        logits: Shape `(layers, rows, labels)`, before any sigmoid.
        targets: 0 or 1, shape `(rows, labels)`.
        counts: How often each row is in each resample, shape `(samples, rows)`; ones give the plain score.

    Returns:
        `subset_accuracy` (rows with every label right), `label_accuracy` (labels right), `macro_f1` (shares in [0, 1])
        and `cross_entropy_bits` (bits a label), each float64 of shape `(samples, layers)`.
    """
    counts = counts.to(torch.float64)
    totals = counts.sum(1, keepdim=True)
    predicted, truth = logits > 0, targets > 0.5
    right = (predicted == truth).double()
    nats = functional.binary_cross_entropy_with_logits(
        logits, targets.to(logits.dtype).expand_as(logits), reduction="none"
    )

    def mean(by_row: Tensor) -> Tensor:
        return counts @ by_row.double().T / totals

    return {
        "subset_accuracy": mean(right.amin(-1)),
        "label_accuracy": mean(right.mean(-1)),
        "macro_f1": _macro_f1(predicted.double(), truth.double(), counts),
        "cross_entropy_bits": mean(nats.mean(-1)) / math.log(2),
    }


def _macro_f1(predicted: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
    both = torch.einsum("sr,lrk->slk", counts, predicted * truth)
    either = torch.einsum("sr,lrk->slk", counts, predicted + truth)
    return (2 * both / either.clamp_min(1)).mean(-1)
