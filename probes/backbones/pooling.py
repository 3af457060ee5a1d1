"""Tokens to one vector, from the attention mask alone: right for any padding side and any pad token."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def pool_last(hidden: Tensor, mask: Tensor) -> Tensor:
    """The last attended token of every row, in the dtype of `hidden`.

    Args:
        hidden: Shape `(batch, tokens, features)`.
        mask: 1 where a token is attended, shape `(batch, tokens)`; at least one a row.

    Returns:
        Shape `(batch, features)`.

    >>> hidden = torch.arange(6.0).reshape(1, 3, 2)
    >>> pool_last(hidden, torch.tensor([[1, 1, 0]])).tolist()
    [[2.0, 3.0]]
    """
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (positions * mask).argmax(dim=1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last.to(hidden.device)]


def pool_first(hidden: Tensor, mask: Tensor) -> Tensor:
    """The first attended token of every row; shapes and dtype as in `pool_last`."""
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), mask.argmax(dim=1).to(hidden.device)]


def pool_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """The float32 mean over attended tokens; shapes as in `pool_last`."""
    weights = mask.to(device=hidden.device, dtype=torch.float32)
    total = weights[:, None] @ hidden.float()  # einsum would move the axes about: four times as slow
    return total[:, 0] / weights.sum(dim=1, keepdim=True)


def pool_max(hidden: Tensor, mask: Tensor) -> Tensor:
    """The largest value of every feature over attended tokens; shapes and dtype as in `pool_last`."""
    return hidden.masked_fill(~mask.bool().to(hidden.device)[..., None], float("-inf")).amax(dim=1)


POOL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "last": pool_last,
    "first": pool_first,
    "mean": pool_mean,
    "max": pool_max,
}
