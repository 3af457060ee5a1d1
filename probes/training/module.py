"""A task's probes as a LightningModule."""

from __future__ import annotations

import torch
from lightning import LightningModule
from torch import Tensor

from .bank import ProbeBank
from .standardiser import Standardiser


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
