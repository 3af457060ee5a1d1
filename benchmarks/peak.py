"""Most memory a process has held at once (Linux), or a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

_KIB_A_GIB = 2**20


def peak_gib() -> float:
    """Most resident memory of this process since it began, or since the last `more_gib`."""
    return _status("VmHWM")


def more_gib(function: Callable[[], object], device: torch.device) -> float:
    """How far the peak of one call lies above what the process held before it, or the device, if it is a GPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**30
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before = _status("VmRSS")
    function()
    return peak_gib() - before


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / _KIB_A_GIB
