"""Seeded Gaussian tensors for tests of the mathematics."""

from __future__ import annotations

import torch


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Standard normal numbers; each pair of seed and dtype has its own."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def draw_float32(*shape: int, seed: int = 0) -> torch.Tensor:
    """`draw`, as activations come from a model."""
    return draw(*shape, seed=seed, dtype=torch.float32)
