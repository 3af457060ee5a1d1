"""The device a benchmark runs on, and how near the work comes to its rate of matrix products."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import cache

import torch
from claim import timed
from torch.utils.flop_counter import FlopCounterMode

SIZE, ROUNDS = 4096, 5


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with `--device`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto: a GPU where there is one")
    return parser


def chosen(name: str) -> torch.device:
    """The device of that name."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def suffix(name: str) -> str:
    """What the names of a device's results end in; nothing for a CPU."""
    return "" if chosen(name).type == "cpu" else f"_{chosen(name).type}"


@cache
def flop_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Rate of large matrix products, the most that any work can reach."""
    x = torch.randn(SIZE, SIZE, device=device, dtype=dtype)
    torch.mm(x, x)
    return 2 * SIZE**3 / statistics.median(timed(lambda: torch.mm(x, x)) for _ in range(ROUNDS))


def reached(flop: float, seconds: float, device: torch.device, dtype: torch.dtype) -> str:
    """What rate some work reached, and what share of the device's that is."""
    rate, most = flop / seconds, flop_per_second(device, dtype)
    name = str(dtype).removeprefix("torch.")
    return f"{rate / 1e9:,.0f} GFLOP/s, {rate / most:.0%} of the {most / 1e9:,.0f} of large {name} products ({device})"


def counted_flop(function: Callable[[], object]) -> float:
    """Operations of the matrix products in a call; run in one thread, where the counter sees them all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with FlopCounterMode(display=False) as counter:
            function()
    finally:
        torch.set_num_threads(threads)
    return counter.get_total_flops()
