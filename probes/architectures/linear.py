"""The linear probe: what an affine map can decode from a layer."""

from __future__ import annotations

from torch import Tensor, nn


class LinearProbe(nn.Module):
    """One affine map, `logits = x Wᵀ + b`.

    Its training problem is convex, so `probe.fit=auto` solves it to a certified optimum instead of by minibatches.

    Args:
        in_features: Width of one layer's activations.
        num_classes: Number of classes (softmax; 2 for a binary task) or labels (sigmoid); 1 for regression.

    Example:
        >>> import torch
        >>> LinearProbe(4, 3)(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map activations `(batch, in_features)` to logits `(batch, num_classes)`, before any softmax or sigmoid."""
        return self.linear(x)
