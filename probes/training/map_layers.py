"""Layers shared out to threads that never wait for each other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Answer = TypeVar("Answer")

LAYERS_PER_UNIT = 8
"""Layers solved together on a CPU: enough to outweigh Python's share, few enough for each core to have some."""


def map_layers(solve: Callable[[Tensor], Answer], layers: int, device: torch.device) -> list[Answer]:
    """Call `solve` with neighbouring layers' indices, on a CPU in as many threads as torch uses, each with one core.

    Two threads that halve every small operation wait for each other at each of them, which on a busy machine costs far
    more than it gains; whole layers need no waiting. On other devices all layers go in one call.
    """
    everything = torch.arange(layers)
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return [solve(everything)]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(solve, everything.split(LAYERS_PER_UNIT)))
    finally:
        torch.set_num_threads(threads)
