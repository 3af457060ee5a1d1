"""Parallel work on a CPU: whole items in separate threads, in place of threads inside each operation.

By default torch splits every single operation among its threads, and all of them wait at its end for the slowest. For
many small operations, or on a busy machine, the waiting costs more than the parallelism gains. Threads that each
process whole items with single-threaded operations wait only once, when the last item is done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_this_thread = threading.local()


class Abandoned(Exception):  # noqa: N818 - a signal, not an error
    """Nobody waits for the result of this call any more."""


def map_on_cores(function: Callable[[_Item], _Result], items: Iterable[_Item], device: torch.device) -> list[_Result]:
    """Call a function for each item, on a CPU in as many threads as torch uses, with one core for each thread.

    On other devices, and where torch uses one thread, the calls run one after the other in the calling thread. If one
    fails, or a signal interrupts the waiting, calls that have not begun are left out, and those that call
    `stop_if_abandoned` end there.

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
    abandoned = threading.Event()

    def call(item: _Item) -> _Result:
        _this_thread.abandoned = abandoned
        return function(item)

    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            try:
                return list(pool.map(call, items))
            except BaseException:
                abandoned.set()  # leaving the block waits for the threads
                raise
    finally:
        torch.set_num_threads(threads)


def stop_if_abandoned() -> None:
    """End a call that `map_on_cores` has begun and nobody waits for any more; loops that may take minutes ask this.

    Raises:
        Abandoned: Nobody waits for the result.
    """
    abandoned = getattr(_this_thread, "abandoned", None)
    if abandoned is not None and abandoned.is_set():
        raise Abandoned


def cores(device: torch.device) -> int:
    """How many items `map_on_cores` processes at the same time: torch's number of threads on a CPU, else 1."""
    return torch.get_num_threads() if device.type == "cpu" else 1
