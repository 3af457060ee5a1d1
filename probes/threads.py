"""Parallel work on a CPU: whole items in separate threads, in place of threads inside each operation.

By default torch splits every single operation among its threads, and all of them wait at its end for the slowest. For
many small operations, or on a busy machine, the waiting costs more than the parallelism gains. Threads that each
process whole items with single-threaded operations wait only once, when the last item is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_on_cores(function: Callable[[_Item], _Result], items: Iterable[_Item], device: torch.device) -> list[_Result]:
    """Call a function for each item, on a CPU in as many threads as torch uses, with one core for each thread.

    On other devices, and where torch uses one thread, the calls run one after the other in the calling thread.

    Args:
        function: May run in a thread other than the caller's, where the caller's `torch.no_grad` has no effect.
        items: What the function is called with.
        device: Where the function computes.

    Returns:
        The results, in the order of the items.
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


def cores(device: torch.device) -> int:
    """How many items `map_on_cores` processes at the same time: torch's number of threads on a CPU, else 1."""
    return torch.get_num_threads() if device.type == "cpu" else 1
