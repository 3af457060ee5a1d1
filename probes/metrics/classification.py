"""Metrics of single-label and multi-label predictions, for all layers and all resamples of the rows at once.

Every metric here but `auroc` has the signature that `probes.metrics.ProbeMetric` expects, with these arguments:

    logits: Before any softmax or sigmoid, shape `(layers, rows, classes)`; a multi-label task has labels for classes.
    targets: Class indices, int64, shape `(rows,)`; of a multi-label task 0 or 1, shape `(rows, labels)`.
    counts: How often each row occurs in each resample, float64, shape `(samples, rows)`; ones give the plain score.

The result is float64 of shape `(samples, layers)`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from probes.metrics.regression import spearman


def accuracy(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Share of rows whose class has the largest logit, in [0, 1]."""
    return _mean_over_rows(logits.argmax(-1) == targets, counts)


def top_5_accuracy(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Share of rows whose class has one of the five largest logits, in [0, 1]."""
    largest = logits.topk(min(5, logits.shape[-1]), dim=-1).indices
    return _mean_over_rows((largest == targets[:, None]).any(-1), counts)


def macro_f1(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Unweighted mean of the classes' F1 scores, in [0, 1].

    The mean is over the classes that occur among the targets or the predictions of the resample; a class that occurs in
    neither has no F1 and is left out, as in torchmetrics and scikit-learn.
    """
    predicted = logits.argmax(-1)  # (layers, rows)
    total = counts.new_zeros(len(counts), len(logits))
    present = torch.zeros_like(total)
    for k in range(logits.shape[-1]):
        is_predicted, is_true = (predicted == k).double(), (targets == k).double()
        # F1 = 2 TP / (2 TP + FP + FN), and 2 TP + FP + FN = rows predicted as k + rows of class k
        true_positives = counts @ (is_predicted * is_true).T
        predicted_or_true = counts @ is_predicted.T + (counts @ is_true)[:, None]
        total += torch.where(predicted_or_true > 0, 2 * true_positives / predicted_or_true.clamp_min(1), 0.0)
        present += predicted_or_true > 0
    return total / present


def cross_entropy_bits(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Mean negative log2-probability of the true class, in bits per row."""
    class_first = logits.transpose(1, 2)  # (layers, classes, rows), as cross_entropy expects
    nats = functional.cross_entropy(class_first, targets.expand(len(logits), -1), reduction="none")
    return _mean_over_rows(nats, counts) / math.log(2)


def binary_auroc(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """`auroc` of two classes, class 1 being the positive one; NaN in a resample that holds one class only."""
    return auroc(logits[..., 1] - logits[..., 0], targets, counts)


def ordinal_spearman(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Spearman's correlation of the expected class Σ k·p(k) with the true class, for classes in order; in [−1, 1].

    NaN in a resample whose targets, or whose expected classes, are all equal.
    """
    order = torch.arange(logits.shape[-1], dtype=torch.float64, device=logits.device)
    return spearman(logits.double().softmax(-1) @ order, targets, counts)


def auroc(scores: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Area under the ROC curve: probability that a positive row scores above a negative one, ties counting one half.

    Args:
        scores: Higher means more likely positive, shape `(layers, rows)`.
        targets: 0 or 1, shape `(rows,)`.
        counts: How often each row occurs in each resample, shape `(samples, rows)`.

    Returns:
        float64, shape `(samples, layers)`; NaN in a resample that holds one class only.

    >>> scores, targets = torch.tensor([[0.1, 0.4, 0.4, 0.9]]), torch.tensor([0, 0, 1, 1])
    >>> auroc(scores, targets, torch.ones(1, 4)).item()  # of 4 pairs, 3 are in order and 1 is tied
    0.875
    """
    by_row = counts.float().T.contiguous()  # (rows, samples)
    positive, negative = by_row * (targets == 1)[:, None], by_row * (targets == 0)[:, None]
    pairs = positive.double().sum(0) * negative.double().sum(0)
    return torch.stack([_ordered_pairs(layer, positive, negative) / pairs for layer in scores], dim=1)


def _ordered_pairs(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Number of (positive, negative) pairs in the right order, ties counting one half.

    Args:
        scores: Shape `(rows,)`.
        positive: How often each positive row occurs in each resample, shape `(rows, samples)`; 0 for negative rows.
        negative: The same for negative rows.

    Returns:
        float64, shape `(samples,)`.
    """
    levels, level = scores.unique(return_inverse=True)  # distinct scores in ascending order, and each row's among them
    empty = negative.new_zeros(len(levels), negative.shape[1])
    positive_at, negative_at = empty.index_add(0, level, positive), empty.index_add(0, level, negative)
    # negatives strictly below each level plus half of those at it; the cumulative sum includes the level itself
    below = negative_at.cumsum(0) - negative_at / 2
    return (positive_at * below).sum(0, dtype=torch.float64)


def subset_accuracy(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Share of rows with every label predicted correctly, in [0, 1]; a label is predicted where its logit exceeds 0."""
    return _mean_over_rows(_is_correct(logits, targets).amin(-1), counts)


def label_accuracy(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Share of labels predicted correctly, over rows and labels, in [0, 1]."""
    return _mean_over_rows(_is_correct(logits, targets).mean(-1), counts)


def multilabel_macro_f1(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Unweighted mean of the labels' F1 scores, in [0, 1].

    The mean is over all labels; one that is neither true nor predicted in the resample counts as 0, as in torchmetrics
    and scikit-learn.
    """
    predicted, truth = (logits > 0).double(), (targets > 0.5).double()  # (layers, rows, labels), (rows, labels)
    # s resamples, l layers, r rows, k labels; F1 = 2 TP / (rows predicted + rows true) as in `macro_f1`
    true_positives = torch.einsum("sr,lrk->slk", counts, predicted * truth)
    predicted_or_true = torch.einsum("sr,lrk->slk", counts, predicted + truth)
    return (2 * true_positives / predicted_or_true.clamp_min(1)).mean(-1)


def multilabel_cross_entropy_bits(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Mean negative log2-probability of a label's true value, in bits per label."""
    truth = targets.to(logits.dtype).expand_as(logits)
    nats = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return _mean_over_rows(nats.mean(-1), counts) / math.log(2)


def _mean_over_rows(by_row: Tensor, counts: Tensor) -> Tensor:
    """Mean of values `(layers, rows)` in each resample, float64 of shape `(samples, layers)`."""
    return counts @ by_row.double().T / counts.sum(1, keepdim=True)


def _is_correct(logits: Tensor, targets: Tensor) -> Tensor:
    """1 where a label is predicted correctly, else 0; float64, shape `(layers, rows, labels)`."""
    return ((logits > 0) == (targets > 0.5)).double()
