"""A task's probes as a LightningModule, and the statistics that standardise their input."""

from __future__ import annotations

from typing import Self

import torch
from lightning import LightningModule
from torch import Tensor, nn

from probes.training.bank.probe_bank import ProbeBank

RELATIVE_ROUNDING = 1e-6
"""A feature whose standard deviation is below this share of its largest magnitude varies by float32 rounding only."""


class ProbeModule(LightningModule):
    """The probes of one task, and what standardises their input; subclasses define how the probes are trained.

    Checkpoints hold the bank and the statistics, but no backbone and no activations.

    Args:
        bank: Probes of the layers; the replicas are ordered by penalty, then control.
        standardiser: Statistics of the training rows.
    """

    def __init__(self, bank: ProbeBank, standardiser: Standardiser) -> None:
        super().__init__()
        self.bank, self.standardiser = bank, standardiser

    def forward(self, values: Tensor) -> Tensor:
        """Map raw activations `(layers, rows, features)` to logits `(layers, replicas, rows, classes)`."""
        return self.bank(self.standardiser(values))


class Standardiser(nn.Module):
    """Subtracts the mean and divides by the standard deviation, per layer and feature; it has no parameters to train.

    A feature that does not vary over the training rows is only centred. `Standardiser.of` computes the statistics.

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
        """Compute the statistics of training activations `(layers, rows, features)`; the variance divides by the rows.

        Returns:
            The standardiser, and which layers are constant (no feature varies over the rows), bool `(layers,)`.
        """
        means, deviations = [], []
        for layer in values:  # layer by layer, so that temporary tensors stay small
            variance, mean = torch.var_mean(layer, dim=0, correction=0)
            varies = variance.sqrt() > RELATIVE_ROUNDING * layer.abs().amax(0)
            means.append(mean)
            deviations.append(torch.where(varies, variance.sqrt(), 0))
        deviation = torch.stack(deviations)
        constant = (deviation == 0).all(1)
        return cls(torch.stack(means), torch.where(deviation > 0, deviation, 1.0)), constant

    def forward(self, values: Tensor) -> Tensor:
        """Standardise activations `(layers, rows, features)`."""
        return (values - self.mean[:, None]).div_(self.deviation[:, None])

    def __getitem__(self, layers: slice | Tensor) -> Standardiser:
        """Return the standardiser of some of the layers."""
        return Standardiser(self.mean[layers], self.deviation[layers])


@torch.no_grad()
def row_batched_logits(bank: ProbeBank, standardiser: Standardiser, values: Tensor, *, rows: int = 512) -> Tensor:
    """Compute logits in batches of rows, which bounds the memory; leaves the bank in evaluation mode.

    Args:
        bank: Probes of the layers.
        standardiser: Statistics of their training rows.
        values: Raw activations, shape `(layers, rows, features)`; there may be no rows.
        rows: Rows per batch.

    Returns:
        Logits, shape `(layers, replicas, rows, classes)`.
    """
    bank.eval()
    if values.shape[1] == 0:  # probes need not accept an empty batch: take the shape from one row of zeros
        return bank(standardiser(values.new_zeros(len(values), 1, values.shape[-1])))[:, :, :0]
    return torch.cat([bank(standardiser(batch)) for batch in values.split(rows, dim=1)], dim=2)
