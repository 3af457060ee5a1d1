"""Layers shared out to the cores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from probes.threads import map_on_cores

Answer = TypeVar("Answer")

LAYERS_PER_UNIT = 4
"""Layers solved together on a CPU: enough to outweigh Python's share, few enough for each core to have some."""


def map_layers(solve: Callable[[Tensor], Answer], layers: int, device: torch.device) -> list[Answer]:
    """Call `solve` with neighbouring layers' indices, on a CPU some at a time on each core, else all in one call."""
    alone = device.type != "cpu" or torch.get_num_threads() == 1
    return map_on_cores(solve, torch.arange(layers).split(layers if alone else LAYERS_PER_UNIT), device)
