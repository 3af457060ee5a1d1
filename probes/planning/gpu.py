"""GPUs whose hours are planned without having one: their published rates, and the shares of them that are assumed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A kind of GPU.

    Attributes:
        name: As `plan.gpu` names it.
        flop: Most operations per second of dense matrix products in bfloat16, as its maker states them.
        memory_bytes: Its memory.
        bandwidth: Bytes per second that it reads from its memory, which limits greedy answers.
    """

    name: str
    flop: float
    memory_bytes: int
    bandwidth: float


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(name="a100", flop=312e12, memory_bytes=80 * 10**9, bandwidth=2.0e12),
        Gpu(name="h100", flop=989e12, memory_bytes=80 * 10**9, bandwidth=3.35e12),
        Gpu(name="h200", flop=989e12, memory_bytes=141 * 10**9, bandwidth=4.8e12),
        Gpu(name="l40s", flop=362e12, memory_bytes=48 * 10**9, bandwidth=0.864e12),
    )
}
"""Data sheets of NVIDIA, without sparsity."""
