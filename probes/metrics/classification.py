"""Macro-F1, accuracies and cross-entropy of multi-label predictions under any resampling of the rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def classification_scores(logits: Tensor, targets: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """Scores of single-label predictions.

    `macro_f1` averages over the classes that occur among the targets or the predictions of the resample; a class that
    is neither has no F1 and is left out, as in torchmetrics and scikit-learn. `auroc` is there for two classes only.

    Args:
        logits: Shape `(layers, rows, classes)`, before any softmax.
        targets: Class indices, int64, shape `(rows,)`.
        counts: How often each row is in each resample, shape `(samples, rows)`; ones give the plain score.

    Returns:
        `accuracy`, `macro_f1`, `auroc` (shares in [0, 1]) and `cross_entropy_bits` (bits a row), each float64 of shape
        `(samples, layers)`. AUROC is NaN in a resample that holds one class only.
    """
    counts = counts.to(torch.float64)
    totals = counts.sum(1, keepdim=True)
    predicted = logits.argmax(-1)
    nats = functional.cross_entropy(logits.transpose(1, 2), targets.expand(len(logits), -1), reduction="none")
    scores = {
        "accuracy": counts @ (predicted == targets).double().T / totals,
        "macro_f1": _macro_f1(predicted, targets, counts, classes=logits.shape[-1]),
        "cross_entropy_bits": counts @ nats.double().T / totals / math.log(2),
    }
    if logits.shape[-1] == 2:
        scores["auroc"] = auroc(logits[..., 1] - logits[..., 0], targets, counts)
    return scores


def _macro_f1(predicted: Tensor, targets: Tensor, counts: Tensor, *, classes: int) -> Tensor:
    total = counts.new_zeros(len(counts), len(predicted))
    present = torch.zeros_like(total)
    for k in range(classes):
        is_predicted, is_true = (predicted == k).double(), (targets == k).double()
        both = counts @ (is_predicted * is_true).T
        either = counts @ is_predicted.T + (counts @ is_true)[:, None]
        total += torch.where(either > 0, 2 * both / either.clamp_min(1), 0.0)
        present += either > 0
    return total / present


def auroc(scores: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Area under the ROC curve: the chance that a positive row outscores a negative one, ties counting half.

    Args:
        scores: Higher means more likely positive, shape `(layers, rows)`.
        targets: 0 or 1, shape `(rows,)`.
        counts: Shape `(samples, rows)`.

    Returns:
        float64 of shape `(samples, layers)`; NaN in a resample that holds one class only.
    """
    by_row = counts.float().T.contiguous()
    positive, negative = by_row * (targets == 1)[:, None], by_row * (targets == 0)[:, None]
    pairs = positive.double().sum(0) * negative.double().sum(0)
    return torch.stack([_pairs_won(layer, positive, negative) / pairs for layer in scores], dim=1)


def _pairs_won(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Count the (positive, negative) pairs in the right order, ties half: counts `(rows, samples)` → `(samples,)`."""
    levels, level = scores.unique(return_inverse=True)
    empty = negative.new_zeros(len(levels), negative.shape[1])
    positive_at, negative_at = empty.index_add(0, level, positive), empty.index_add(0, level, negative)
    below = negative_at.cumsum(0) - negative_at / 2
    return (positive_at * below).sum(0, dtype=torch.float64)


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
        "macro_f1": _macro_f1_of_labels(predicted.double(), truth.double(), counts),
        "cross_entropy_bits": mean(nats.mean(-1)) / math.log(2),
    }


def _macro_f1_of_labels(predicted: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
    both = torch.einsum("sr,lrk->slk", counts, predicted * truth)
    either = torch.einsum("sr,lrk->slk", counts, predicted + truth)
    return (2 * both / either.clamp_min(1)).mean(-1)
