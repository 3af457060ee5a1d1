"""Early stopping and best-restore of every probe of a bank by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from .bank import ProbeBank


class BestOfEachProbe:
    """Keeps each probe as it was at its lowest validation loss, until `patience` epochs bring no lower one.

    A stopped probe stays stopped, though the bank trains on for others: its best never depends on them.

    Args:
        bank: The bank in training.
        patience: Epochs without a lower loss after which a probe stops.
    """

    def __init__(self, bank: ProbeBank, patience: int) -> None:
        self.bank, self.patience = bank, patience
        shape, device = bank.shape, next(bank.parameters()).device
        self.lowest = torch.full(shape, torch.inf, device=device)
        self.waited = torch.zeros(shape, dtype=torch.long, device=device)
        self.state = {name: value.detach().clone() for name, value in bank.state_dict().items()}

    @property
    def stopped(self) -> Tensor:
        """Which probes have stopped, bool `(layers, replicas)`."""
        return self.waited >= self.patience

    @torch.no_grad()
    def update(self, losses: Tensor) -> None:
        """Take in an epoch's validation losses `(layers, replicas)`; NaN is never lower."""
        better = (losses < self.lowest) & ~self.stopped
        self.waited = torch.where(better, 0, self.waited + 1)
        self.lowest = torch.where(better, losses, self.lowest)
        rows = better.flatten()
        for name, value in self.bank.state_dict().items():
            self.state[name][rows] = value.detach()[rows]

    @torch.no_grad()
    def restore(self) -> None:
        """Put every probe of the bank back to its best."""
        self.bank.load_state_dict(self.state)
