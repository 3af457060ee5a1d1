"""Seeded random tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Independent standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def draw_double(*shape: int, seed: int = 0) -> Tensor:
    """`draw` in float64."""
    return draw(*shape, seed=seed, dtype=torch.float64)
