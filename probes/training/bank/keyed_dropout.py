"""Dropout whose mask is a function of a key and a step, so that a probe's mask does not depend on the rest of its bank.

`torch.func.vmap` draws the random numbers of all probes from one generator: a probe's mask would then change with the
number of probes in the bank, its position among them, how layers are split into chunks, and the device. Here the mask
is computed by hashing a counter (as in Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), and no
generator has a state that probes could share.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MULTIPLIER = 0x2545F4914F6CDD1D
"""The multiplier of xorshift64* (Vigna 2016)."""
_STRIDE = 0x1E3779B97F4A7C15
"""2⁶⁴ / golden ratio without its top bit; odd, so that distinct counters times it stay distinct modulo 2⁶⁴."""
_STEP_STRIDE = 1_000_003
"""A prime far above the number of calls of one forward pass, so that no two (step, call) share a counter."""
_LOW_32 = 0xFFFFFFFF
_LEVELS = 2**16
"""Number of values of a 16-bit random number: one 64-bit hash serves four elements."""


class KeyedDropout(nn.Module):
    """Drop-in replacement for `nn.Dropout` inside a bank.

    The mask is a hash of the probe's key, the training step, the count of calls within the forward pass and the
    element's index. It is the same in a bank of one probe or of a thousand, under `vmap` or in a loop, on any device.
    The bank sets `step`, `key` and `calls` before every forward pass.

    Args:
        probability: Probability that an element is set to 0 in training, rounded to a multiple of 1/65,536; the other
            elements are scaled by 1 / (1 − probability).

    Attributes:
        step: Training step.
        calls: Calls of this module so far in the current forward pass, so that a second call draws another mask.
        key: The probe's key, an int64 scalar; `None` outside a bank's forward pass.
    """

    key: Tensor | None

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        # Of the `_LEVELS` values, those that drop an element; at least one keeps it, or the scale would be infinite.
        self.dropped_levels = min(round(probability * _LEVELS), _LEVELS - 1)
        self.step = 0
        self.calls = 0
        self.key = None

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of one probe's tensor of any shape; in evaluation mode, return it unchanged.

        Raises:
            RuntimeError: The module was called outside a bank, in training mode.
        """
        if not self.training or self.probability == 0:
            return x
        if self.key is None:
            raise RuntimeError("KeyedDropout has no key in training mode; it can only be called by a ProbeBank.")
        self.calls += 1
        offset = hash_bits(self.key + self.step * _STEP_STRIDE + self.calls) * _STRIDE
        counters = torch.arange(-(-x.numel() // 4), device=x.device) * _STRIDE  # one for four elements
        levels = hash_bits(counters + offset).view(torch.int16)[: x.numel()]  # in [−2¹⁵, 2¹⁵)
        # A bank computes x Wᵀ as (W xᵀ)ᵀ, whose axes lie in memory in reverse order. A mask laid out in the same way is
        # multiplied without strided access.
        levels = levels.view(x.shape[::-1]).permute(*reversed(range(x.ndim)))
        keep = levels >= self.dropped_levels - _LEVELS // 2
        scale = keep.float().div_(1 - self.dropped_levels / _LEVELS)
        return (x * scale).to(x.dtype)


def use_keyed_dropout(module: nn.Module) -> list[KeyedDropout]:
    """Replace every `nn.Dropout` inside a module, in place, and return the replacements in order of their parents.

    A dropout that several modules share is replaced by one module. Its subclasses are left as they are.
    """
    replaced: dict[nn.Module, KeyedDropout] = {}
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                parent.add_module(name, replaced.setdefault(child, KeyedDropout(child.p)))
    return list(replaced.values())


def hash_bits(numbers: Tensor) -> Tensor:
    """Map int64 numbers one-to-one to 64 evenly distributed bits, as int64.

    Two rounds of xor-shift and multiplication and a final xor-shift, the scheme of splitmix64 (Steele, Lea and Flood
    2014). Products wrap around modulo 2⁶⁴.
    """
    for _ in range(2):
        numbers = _xor_shift(numbers).mul_(_MULTIPLIER)
    return _xor_shift(numbers)


def _xor_shift(numbers: Tensor) -> Tensor:
    """Combine the upper 32 bits with the lower by exclusive or; `>>` copies the sign bit, which the mask removes."""
    return (numbers >> 32).bitwise_and_(_LOW_32).bitwise_xor_(numbers)
