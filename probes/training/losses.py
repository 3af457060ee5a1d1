"""The default loss of a probe, and weights that even out the classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from probes.metrics import Kind

from .one_probe import RowLoss


def default_row_loss(kind: Kind, logits: Tensor, targets: Tensor) -> Tensor:
    """Loss of each row in nats, or squared units.

    Args:
        kind: Kind of task: cross-entropy of a softmax, the sum over labels of binary cross-entropies, or squared error.
        logits: Before any softmax or sigmoid, shape `(..., rows, classes)`.
        targets: Shape `(..., rows)`, or `(..., rows, labels)`.

    Returns:
        Shape `(..., rows)`.
    """
    if kind == "classification":
        return logits.logsumexp(-1) - logits.gather(-1, targets[..., None])[..., 0]
    if kind == "multilabel":
        return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1)
    return (logits[..., 0] - targets).square()


def row_loss_of(kind: Kind) -> RowLoss:
    """Return a function that asks the probe for its own loss where it brings one, and else uses the default."""

    def row_loss(probe: nn.Module, logits: Tensor, targets: Tensor) -> Tensor:
        own: Callable[[Tensor, Tensor], Tensor] | None = getattr(probe, "loss", None)
        return default_row_loss(kind, logits, targets) if own is None else own(logits, targets)

    return row_loss


def class_weights(targets: Tensor, classes: int) -> Tensor:
    """Weight of each class by which all classes weigh the same and the mean row weighs 1, shape `(classes,)`."""
    counts = torch.bincount(targets, minlength=classes).float()
    return len(targets) / (classes * counts)
