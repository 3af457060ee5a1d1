"""The prediction that has seen no activations."""

from __future__ import annotations

import torch
from torch import Tensor

from .scores import Kind


def majority_logits(kind: Kind, train_targets: Tensor, rows: int, *, classes: int) -> Tensor:
    """Logits of the best constant prediction, from the training labels alone.

    For classes, the logarithm of their training frequencies: its prediction is the most frequent class, its
    cross-entropy that of the class frequencies. For labels likewise one by one. For regression, the training mean.

    Args:
        kind: Kind of task.
        train_targets: Shape `(train_rows,)`, or `(train_rows, labels)`.
        rows: Rows to predict.
        classes: Classes or labels; 1 for regression.

    Returns:
        Shape `(1, rows, classes)`, the same for every row.
    """
    if kind == "classification":
        frequencies = torch.bincount(train_targets, minlength=classes).double() / len(train_targets)
        constant = frequencies.log()
    elif kind == "multilabel":
        constant = train_targets.double().mean(0).logit()
    else:
        constant = train_targets.double().mean().reshape(1)
    return constant.float().expand(1, rows, classes)
