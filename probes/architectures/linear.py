"""The linear probe: what can be read off a layer without any computation of the probe's own."""

from __future__ import annotations

from torch import Tensor, nn


class LinearProbe(nn.Module):
    """One affine map, `logits = x Wᵀ + b`.

    Its training is convex, so `probe.fit=auto` solves it exactly instead of by minibatches.

    Args:
        in_features: Width of one layer's activations.
        num_classes: Classes (softmax, 2 for a binary task), labels (multi-label, sigmoid) or 1 (regression).

    Example:
        >>> import torch
        >>> LinearProbe(4, 3)(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map activations `(batch, in_features)` to logits `(batch, num_classes)`, with no softmax or sigmoid."""
        return self.linear(x)
