"""A probe that sees the direction of an activation only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize


class CosineProbe(nn.Module):
    """Logits are cosines between an activation and one direction per class, times a factor.

    Args:
        in_features: Number of features of a layer.
        num_classes: Number of classes.
        scale: The factor; cosines alone would be logits of at most 1.

    Example:
        >>> CosineProbe(4, 3)(torch.ones(5, 4)).shape
        torch.Size([5, 3])
    """

    def __init__(self, in_features: int, num_classes: int, scale: float = 10.0) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(num_classes, in_features))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Map activations `(batch, in_features)` to logits `(batch, num_classes)`."""
        return self.scale * linear(normalize(x, dim=-1), normalize(self.directions, dim=-1))
