"""One probe of the user's architecture: made from its own seed, called for logits or for its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Architecture = Callable[[int, int], nn.Module]
"""Called with `(in_features, num_classes)`, gives one probe."""

RowLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""`(probe, logits, targets)` → loss of each row `(rows,)`, or their mean."""


class OneProbe(nn.Module):
    """A probe with one entrance for logits and loss, so that all of it can be called with other parameters.

    Args:
        probe: The user's module.
        num_classes: Width its logits must have.
    """

    def __init__(self, probe: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.probe = probe
        self.num_classes = num_classes

    def forward(self, x: Tensor, targets: Tensor | None, row_loss: RowLoss | None) -> Tensor:
        """Return logits `(rows, num_classes)`; with targets, the loss plus the probe's own penalty."""
        logits = self.probe(x)
        if tuple(logits.shape) != (len(x), self.num_classes):
            raise ValueError(
                f"Probe architecture {type(self.probe).__name__} gives logits of shape {tuple(logits.shape)}; wanted "
                f"(rows, num_classes) = {(len(x), self.num_classes)}. Mend the class named in `probe.architecture`."
            )
        if targets is None or row_loss is None:
            return logits
        loss = row_loss(self.probe, logits, targets)
        penalty = getattr(self.probe, "penalty", None)
        return loss if penalty is None else loss + penalty()


def build_probe(architecture: Architecture, in_features: int, num_classes: int, *, seed: int) -> nn.Module:
    """Construct a probe whose start depends on the seed alone; the global generators stay as they are.

    Raises:
        TypeError: The architecture gives no `nn.Module`, or one without parameters.
    """
    with own_randomness(seed, torch.device("cpu"), on=True):
        probe = architecture(in_features, num_classes)
    if not isinstance(probe, nn.Module) or not any(True for _ in probe.parameters()):
        raise TypeError(
            f"A probe architecture gives an nn.Module with parameters; got {type(probe).__name__}. "
            "Set `probe.architecture._target_` to such a class."
        )
    return probe


@contextmanager
def own_randomness(seed: int, device: torch.device, *, on: bool) -> Iterator[None]:
    """Seed torch's generators inside the block, and put them back after it; nothing happens if not `on`."""
    if not on:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would walk the call stack each time, for CUDA
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield
