"""Seeded ways to part rows and to shuffle labels."""

from __future__ import annotations

import torch
from torch import Tensor

from probes.metrics import Kind

from .seeds import derive_seed


def fold_of_rows(kind: Kind, targets: Tensor, folds: int, *, seed: int) -> Tensor:
    """Deal rows to folds at random, every class (or range of numbers) evenly.

    Args:
        kind: Kind of task. Regression targets are dealt in order of size, multi-label rows by their set of labels.
        targets: Shape `(rows,)`, or `(rows, labels)`.
        folds: How many.
        seed: Decides the deal; 0 is a seed like any other.

    Returns:
        Fold of each row, int64 `(rows,)`; −1 for the only row of a class, which no fold may take from training.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "folds"))
    if kind == "regression":
        blocks = targets.argsort().split(folds)
        deal = [torch.randperm(folds, generator=generator)[: len(block)] for block in blocks]
        return torch.empty(len(targets), dtype=torch.long).index_copy_(0, torch.cat(blocks), torch.cat(deal))
    classes = targets if targets.ndim == 1 else targets.unique(dim=0, return_inverse=True)[1]
    shuffled = torch.randperm(len(classes), generator=generator)
    order = shuffled[classes[shuffled].argsort(stable=True)]
    fold = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)) % folds)
    if kind == "classification":
        fold[(torch.bincount(classes) == 1)[classes]] = -1
    return fold


def with_shuffled_controls(targets: Tensor, controls: int, *, seed: int, split: str) -> Tensor:
    """Put control labels beside true ones: the same labels, each control in an order of its own.

    Args:
        targets: Shape `(rows, ...)`.
        controls: How many.
        seed: Decides the orders; 0 is a seed like any other.
        split: Labels are shuffled within a split; its name parts the streams.

    Returns:
        Shape `(1 + controls, rows, ...)`, the true targets first.
    """
    orders = [torch.arange(len(targets))]
    for control in range(controls):
        generator = torch.Generator().manual_seed(derive_seed(seed, "control", split, control))
        orders.append(torch.randperm(len(targets), generator=generator))
    return torch.stack([targets[order] for order in orders])
