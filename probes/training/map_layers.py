"""Layers shared out to threads that never wait for each other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Answer = TypeVar("Answer")


def map_layers(solve: Callable[[Tensor], Answer], layers: int, device: torch.device) -> list[Answer]:
    """Call `solve` with layers' indices: on a CPU one layer at a time, in as many threads as torch uses, one core each.

    Two threads that halve every small operation wait for each other at each of them, which on a busy machine costs far
    more than it gains; whole layers need no waiting. A layer by itself stays in the cache, and its answer is to the
    last bit the same in any company. On other devices all layers go in one call.
    """
    everything = torch.arange(layers)
    if device.type != "cpu":
        return [solve(everything)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(solve, everything.split(1)))
    finally:
        torch.set_num_threads(threads)
