"""Probes that read every token of a text, and learn which of them matter."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn


class AttentionProbe(nn.Module):
    """Heads that each weigh the tokens by a learned query, and sum linear scores of them.

    With weights aₕⱼ = softmaxⱼ(qₕ·xⱼ + position bias), logits are Σₕ Σⱼ aₕⱼ Vₕ xⱼ + b. Queries start at zero, so that
    training starts from the mean over tokens.

    Args:
        in_features: Width of one layer's activations.
        num_classes: Number of classes (softmax; 2 for a binary task) or labels (sigmoid); 1 for regression.
        num_heads: Number of heads.
        position_bias: Whether weights also depend on where a token stands: fₕ log(1 + tokens before it) + lₕ log(1 +
            tokens after it), with learned f and l. Large negative ones give the first and the last token alone.

    Source:
        EleutherAI 2025, "Attention probes" (blog).

    Example:
        >>> AttentionProbe(4, 3)(torch.zeros(5, 7, 4), torch.ones(5, 7, dtype=torch.bool)).shape
        torch.Size([5, 3])
    """

    reads_tokens: ClassVar[bool] = True

    def __init__(self, in_features: int, num_classes: int, num_heads: int = 4, position_bias: bool = True) -> None:
        super().__init__()
        _check_heads(num_heads)
        self.num_heads = num_heads
        self.queries = nn.Linear(in_features, num_heads, bias=False)
        nn.init.zeros_(self.queries.weight)
        self.values = nn.Linear(in_features, num_heads * num_classes, bias=False)
        self.bias = nn.Parameter(torch.zeros(num_classes))
        # f of the heads, then l; in one axis, so that penalties of weights leave them alone
        self.slopes = nn.Parameter(torch.zeros(2 * num_heads)) if position_bias else None

    def weights(self, x: Tensor, mask: Tensor) -> Tensor:
        """Weights of the tokens, shape `(batch, tokens, heads)`; 0 at padding, and they sum to 1 over the tokens."""
        scores = self.queries(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        if self.slopes is not None:
            before = mask.cumsum(1)
            after = mask.sum(1, keepdim=True) - before + 1
            first, last = self.slopes[: self.num_heads], self.slopes[self.num_heads :]
            scores = scores + before.clamp_min(1).log()[..., None] * first + after.clamp_min(1).log()[..., None] * last
        return scores.masked_fill(~mask[..., None], -torch.inf).softmax(1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map activations `(batch, tokens, in_features)` to logits `(batch, num_classes)`.

        Args:
            x: Activations; anything at padding.
            mask: Where a token is, bool `(batch, tokens)`; at least one in each row.
        """
        values = self.values(x.flatten(0, 1)).unflatten(0, x.shape[:2]).unflatten(-1, (self.num_heads, -1))
        return (self.weights(x, mask)[..., None] * values).sum((1, 2)) + self.bias


class MultiMaxProbe(nn.Module):
    """Heads that each give a class the largest linear score of any token: Σₕ maxⱼ vₕ꜀·xⱼ + b꜀.

    One token decides, however long the text is, where attention has to outweigh all others.

    Args:
        in_features: Width of one layer's activations.
        num_classes: Number of classes (softmax; 2 for a binary task) or labels (sigmoid); 1 for regression.
        num_heads: Number of heads.

    Source:
        Kramár et al. 2026, "Building production-ready probes for Gemini".

    Example:
        >>> MultiMaxProbe(4, 3)(torch.zeros(5, 7, 4), torch.ones(5, 7, dtype=torch.bool)).shape
        torch.Size([5, 3])
    """

    reads_tokens: ClassVar[bool] = True

    def __init__(self, in_features: int, num_classes: int, num_heads: int = 4) -> None:
        super().__init__()
        _check_heads(num_heads)
        self.num_heads = num_heads
        self.values = nn.Linear(in_features, num_heads * num_classes, bias=False)
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map activations `(batch, tokens, in_features)` to logits `(batch, num_classes)`.

        Args:
            x: Activations; anything at padding.
            mask: Where a token is, bool `(batch, tokens)`; at least one in each row.
        """
        scores = self.values(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        largest = scores.masked_fill(~mask[..., None], -torch.inf).amax(1)
        return largest.unflatten(-1, (self.num_heads, -1)).sum(1) + self.bias


def _check_heads(num_heads: int) -> None:
    if num_heads < 1:
        raise ValueError(f"`probe.architecture.num_heads` must be at least 1; got {num_heads}.")
