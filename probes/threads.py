"""Work shared out to threads that never wait for each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


def cores(device: torch.device) -> int:
    """How many threads work on a device side by side: as many as torch uses on a CPU, else one."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def map_on_cores(function: Callable[[_Item], _Answer], items: Iterable[_Item], device: torch.device) -> list[_Answer]:
    """Call a function of each item, on a CPU in as many threads as torch uses, each with one core.

    Two threads that halve every operation wait for each other at each of them, which on a busy machine costs far more
    than it gains; whole items need no waiting. On other devices one item follows another.

    Args:
        function: Runs in another thread than the caller's, where the caller's gradient mode does not hold.
        items: What it is called with.
        device: Where it computes.

    Returns:
        Its answers, in the order of the items.
    """
    threads = cores(device)
    if threads == 1:
        return [function(item) for item in items]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(threads)
