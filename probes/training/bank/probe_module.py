"""A task's probes as a LightningModule, and the statistics that standardise their input."""

from __future__ import annotations

from typing import Self

import torch
from lightning import LightningModule
from torch import Tensor, nn

from probes.training.bank.probe_bank import ProbeBank

RELATIVE_ROUNDING = 1e-6
"""A feature whose deviation is below this share of its largest magnitude varies by float32 rounding only."""


class Standardiser(nn.Module):
    """Per layer and feature: subtract the mean, divide by the standard deviation. It has nothing to train.

    A feature without variance is only centred. Statistics come from `Standardiser.of` training rows.

    Args:
        mean: Shape `(layers, features)`.
        deviation: Shape `(layers, features)`, above 0.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    @classmethod
    def of(cls, values: Tensor) -> tuple[Self, Tensor]:
        """Fit to training activations `(layers, rows, features)`.

        Returns:
            The standardiser, and which layers are constant (no feature varies over the rows), bool `(layers,)`.
        """
        means, deviations = [], []
        for layer in values:
            variance, mean = torch.var_mean(layer, dim=0, correction=0)
            means.append(mean)
            deviations.append(
                torch.where(variance.sqrt() > RELATIVE_ROUNDING * layer.abs().amax(0), variance.sqrt(), 0)
            )
        deviation = torch.stack(deviations)
        constant = (deviation == 0).all(1)
        return cls(torch.stack(means), torch.where(deviation > 0, deviation, 1.0)), constant

    def forward(self, values: Tensor) -> Tensor:
        """Standardise activations `(layers, rows, features)`."""
        return (values - self.mean[:, None]).div_(self.deviation[:, None])

    def __getitem__(self, layers: slice | Tensor) -> Standardiser:
        """Return the standardiser of some of the layers."""
        return Standardiser(self.mean[layers], self.deviation[layers])


class ProbeModule(LightningModule):
    """The probes of one task: a bank over layers × (penalties × controls), and what standardises its input.

    Checkpoints hold nothing else: no backbone, no activations. How the bank is trained is a subclass's.

    Args:
        bank: Replicas are ordered by penalty, then control.
        standardiser: Statistics of the training rows.
    """

    def __init__(self, bank: ProbeBank, standardiser: Standardiser) -> None:
        super().__init__()
        self.bank, self.standardiser = bank, standardiser

    def forward(self, values: Tensor) -> Tensor:
        """Map raw activations `(layers, rows, features)` to logits `(layers, replicas, rows, classes)`."""
        return self.bank(self.standardiser(values))


@torch.no_grad()
def row_batched_logits(bank: ProbeBank, standardiser: Standardiser, values: Tensor, *, rows: int = 512) -> Tensor:
    """Logits `(layers, replicas, rows, classes)` of raw activations `(layers, rows, features)`, few rows at once."""
    bank.eval()
    if values.shape[1] == 0:
        return bank(standardiser(values.new_zeros(len(values), 1, values.shape[-1])))[:, :, :0]
    return torch.cat([bank(standardiser(part)) for part in values.split(rows, dim=1)], dim=2)
