"""Predictions without activations, which scores of probes are held against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from probes.metrics.scores import TargetKind


def majority_logits(kind: TargetKind, train_targets: Tensor, rows: int, *, classes: int) -> Tensor:
    """Logits of the best constant prediction, from the training labels alone: a baseline without activations.

    For classes, the log of their training frequencies: the prediction is the most frequent class, and the cross-entropy
    on the training rows is the entropy of the class frequencies. For multi-label tasks the same for each label. For
    regression, the mean of the training targets.

    Args:
        kind: Kind of task.
        train_targets: Shape `(train_rows,)`, or `(train_rows, labels)` for multi-label tasks.
        rows: Number of rows to predict.
        classes: Number of classes or labels; 1 for regression.

    Returns:
        float32, shape `(1, rows, classes)`, the same in every row; minus infinity for a class without training rows,
        and plus or minus infinity for a label that all or no training rows have.
    """
    if kind == "classification":
        frequencies = torch.bincount(train_targets, minlength=classes).double() / len(train_targets)
        constant = frequencies.log()
    elif kind == "multilabel":
        constant = train_targets.double().mean(0).logit()
    else:
        constant = train_targets.double().mean().reshape(1)
    return constant.float().expand(1, rows, classes)


def word_majority_logits(
    train_targets: Tensor, train_words: Sequence[str], words: Sequence[str], *, classes: int
) -> Tensor:
    """Logits of the class that each word has most often in training: a baseline without activations or context.

    They are the logs of the frequencies of a word's classes, to which the frequencies of all words are added as if they
    were one more occurrence; these decide for words that training lacks, and between equally frequent classes.

    Args:
        train_targets: Class indices, shape `(train_rows,)`.
        train_words: The word of each training row.
        words: The word of each row to predict.
        classes: Number of classes.

    Returns:
        float32, shape `(1, rows, classes)`.

    >>> logits = word_majority_logits(torch.tensor([0, 0, 1, 1, 1]), ["a", "a", "b", "b", "a"], ["a", "c"], classes=2)
    >>> logits.argmax(-1).tolist()
    [[0, 1]]
    """
    number = {word: i for i, word in enumerate(dict.fromkeys(train_words))}
    counts = torch.zeros(len(number) + 1, classes, dtype=torch.float64)  # the last row is for words without training
    places = torch.tensor([number[word] for word in train_words])
    counts.index_put_((places, train_targets), torch.ones((), dtype=torch.float64), accumulate=True)
    counts += torch.bincount(train_targets, minlength=classes).double() / len(train_targets)
    rows = counts[torch.tensor([number.get(word, len(number)) for word in words])]
    return (rows / rows.sum(1, keepdim=True)).log().float()[None]
