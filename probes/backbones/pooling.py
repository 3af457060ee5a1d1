"""Tokens to one vector, from the attention mask alone: right for any padding side and any pad token."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor


class TokenPooler:
    """Pools the hidden states of a batch, layer after layer; what the mask alone decides is computed once.

    Each method named as a pooling takes hidden states of shape `(batch, tokens, features)` to one vector a row, shape
    `(batch, features)`.

    Args:
        mask: 1 where a token is attended, shape `(batch, tokens)`; at least one a row.

    >>> hidden = torch.arange(6.0).reshape(1, 3, 2)
    >>> pooler = TokenPooler(torch.tensor([[1, 1, 0]]))
    >>> pooler.last(hidden).tolist(), pooler.mean(hidden).tolist()
    ([[2.0, 3.0]], [[1.0, 2.0]])
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def pool(self, pooling: str, hidden: Tensor) -> Tensor:
        """The method of that name."""
        return getattr(self, pooling)(hidden)

    def last(self, hidden: Tensor) -> Tensor:
        """The last attended token of every row, in the dtype of `hidden`."""
        return self._picked(hidden, self._last)

    def first(self, hidden: Tensor) -> Tensor:
        """The first attended token of every row, in the dtype of `hidden`."""
        return self._picked(hidden, self._first)

    def mean(self, hidden: Tensor) -> Tensor:
        """The float32 mean over attended tokens."""
        weights, counts = (tensor.to(hidden.device) for tensor in self._weights_and_counts)
        total = weights @ hidden.float()  # einsum would move the axes about: four times as slow
        return total[:, 0] / counts

    def max(self, hidden: Tensor) -> Tensor:
        """The largest value of every feature over attended tokens, in the dtype of `hidden`."""
        return hidden.masked_fill(self._unattended.to(hidden.device), float("-inf")).amax(dim=1)

    def _picked(self, hidden: Tensor, positions: Tensor) -> Tensor:
        return hidden[self._rows.to(hidden.device), positions.to(hidden.device)]

    @cached_property
    def _rows(self) -> Tensor:
        return torch.arange(len(self.mask), device=self.mask.device)

    @cached_property
    def _last(self) -> Tensor:
        return (torch.arange(self.mask.shape[1], device=self.mask.device) * self.mask).argmax(dim=1)

    @cached_property
    def _first(self) -> Tensor:
        return self.mask.argmax(dim=1)

    @cached_property
    def _weights_and_counts(self) -> tuple[Tensor, Tensor]:
        """Shapes `(batch, 1, tokens)` and `(batch, 1)`."""
        weights = self.mask.to(torch.float32)
        return weights[:, None], weights.sum(dim=1, keepdim=True)

    @cached_property
    def _unattended(self) -> Tensor:
        """Shape `(batch, tokens, 1)`."""
        return ~self.mask.bool()[..., None]
