"""Layers shared out to the cores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from probes.threads import cores, map_on_cores

Answer = TypeVar("Answer")

MOST_LAYERS = 8
"""Layers that a core solves together at most, so that few of them leave a core without work."""
CACHE_BYTES = 20_000_000
"""Rows that a core solves together, so that they stay in its cache; many layers outweigh Python's share."""


def map_layers(solve: Callable[[Tensor], Answer], x: Tensor) -> list[Answer]:
    """Call `solve` with neighbouring layers' indices, on a CPU some at a time on each core, else all in one call.

    Args:
        solve: Given the indices of some layers.
        x: Activations, shape `(layers, rows, features)`.

    Returns:
        An answer for each call, in the order of the layers.
    """
    at_once = len(x) if cores(x.device) == 1 else min(MOST_LAYERS, max(1, CACHE_BYTES // x[0].nbytes))
    return map_on_cores(solve, torch.arange(len(x)).split(at_once), x.device)
