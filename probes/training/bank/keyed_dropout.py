"""Dropout whose mask is a pure function of a key and a step, so each probe of a bank has a stream of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MULTIPLIER = 0x2545F4914F6CDD1D
_STRIDE = 0x1E3779B97F4A7C15
_LOW_32 = 0xFFFFFFFF
_LEVELS = 2**16
"""Of the random numbers that elements are held against, four of which come from one hash."""


def hash_bits(numbers: Tensor) -> Tensor:
    """Scramble int64 numbers to 64 evenly spread bits, as int64.

    Two rounds of xor-shift and multiplication and a last xor-shift, as in splitmix64; multiplication wraps around.
    """
    for _ in range(2):
        numbers = _folded(numbers).mul_(_MULTIPLIER)
    return _folded(numbers)


def _folded(numbers: Tensor) -> Tensor:
    """The upper half of the bits upon the lower."""
    return (numbers >> 32).bitwise_and_(_LOW_32).bitwise_xor_(numbers)


class KeyedDropout(nn.Module):
    """Drop-in for `nn.Dropout` that depends on no generator.

    The mask hashes the probe's key, the training step, the call within the forward pass and the element's index. It is
    the same in a bank of one probe or of a thousand, under `vmap` or in a loop, on any device.

    Args:
        probability: Share of elements set to 0 in training, in steps of 1/65,536; the others are scaled by
            1 / (1 − share).
    """

    key: Tensor | None

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.dropped_levels = min(round(probability * _LEVELS), _LEVELS - 1)
        self.step = 0
        self.calls = 0
        self.key = None

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of one probe's tensor of any shape, in training mode only."""
        if not self.training or self.probability == 0:
            return x
        if self.key is None:
            raise RuntimeError("Keyed dropout runs inside a bank, which sets its key.")
        self.calls += 1
        offset = hash_bits(self.key + self.step * 1_000_003 + self.calls) * _STRIDE
        fours = torch.arange(-(-x.numel() // 4), device=x.device) * _STRIDE
        levels = hash_bits(fours + offset).view(torch.int16)[: x.numel()]
        levels = levels.view(x.shape[::-1]).permute(*reversed(range(x.ndim)))  # as a bank's products lie in memory
        keep = levels >= self.dropped_levels - _LEVELS // 2
        scale = keep.float().div_(1 - self.dropped_levels / _LEVELS)
        return (x * scale).to(x.dtype)


def use_keyed_dropout(module: nn.Module) -> list[KeyedDropout]:
    """Replace every plain `nn.Dropout` inside a module, in place, and return the replacements in order."""
    replaced: dict[nn.Module, KeyedDropout] = {}
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                parent.add_module(name, replaced.setdefault(child, KeyedDropout(child.p)))
    return list(replaced.values())
