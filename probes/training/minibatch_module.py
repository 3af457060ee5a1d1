"""Probes of any architecture, trained by minibatches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from probes.metrics import Kind

from .bank import ProbeBank
from .best import BestOfEachProbe
from .losses import row_loss_of
from .module import ProbeModule
from .rows import RowBatch
from .settings import ProbeSettings
from .standardiser import Standardiser


class MinibatchProbeModule(ProbeModule):
    """Trains every probe of a bank with AdamW, each with its own gradient clipping, early stop and best-restore.

    λ/2 · ‖weights‖² is part of the loss, over parameters of two or more axes (biases and norms bear none), so a penalty
    means what it means to the exact solver.

    Args:
        bank: Replicas are ordered by penalty, then control.
        standardiser: Statistics of the training rows.
        kind: Kind of task, for the default loss.
        settings: Learning rate, patience, clipping, penalties.
    """

    penalties: Tensor
    control_of: Tensor

    def __init__(self, bank: ProbeBank, standardiser: Standardiser, *, kind: Kind, settings: ProbeSettings) -> None:
        super().__init__(bank, standardiser)
        self.settings = settings
        self.row_loss = row_loss_of(kind)
        controls = bank.shape[1] // len(settings.penalties)
        self.register_buffer(
            "penalties", torch.tensor(settings.penalties).repeat_interleave(controls), persistent=False
        )
        self.register_buffer("control_of", torch.arange(controls).repeat(len(settings.penalties)), persistent=False)
        self.best: BestOfEachProbe | None = None
        self._sums: Tensor | float = 0.0
        self._rows = 0

    def configure_optimizers(self) -> Optimizer:
        """Build the probe's own optimizer if it brings one, else AdamW."""
        parameters = list(self.bank.parameters())
        own = getattr(self.bank.probe, "configure_optimizer", None)
        if own is not None:
            return own(parameters)
        return AdamW(parameters, lr=self.settings.learning_rate, weight_decay=0.0, fused=True)

    def _losses(self, batch: RowBatch) -> Tensor:
        """Weighted sum over the batch's rows of each probe's loss `(layers, replicas)`, times what a row counts."""
        targets, weights = batch.targets[self.control_of], batch.weights[self.control_of]
        losses = self.bank.losses(self.standardiser(batch.values), targets, self.row_loss, step=self.global_step)
        if losses.ndim == 3:
            return (losses * weights).sum(-1) * batch.share
        if self.settings.class_weights is not None:
            raise ValueError(
                f"The loss of {type(self.bank.probe).__name__} is a mean, which can't be weighted by class. Return a "
                "loss for each row, or set `probe.class_weights=null`."
            )
        return losses

    def training_step(self, batch: RowBatch) -> Tensor:
        """Sum the probes' losses: each one's gradient is its own."""
        losses = self._losses(batch)
        if any(self.settings.penalties):
            losses = losses + self.penalties / 2 * self._squared_norms()
        return losses.sum()

    def _squared_norms(self) -> Tensor:
        norms = torch.zeros(self.bank.shape, device=self.device)
        for parameter in self.bank.parameters():
            if parameter.ndim > 2:
                norms = norms + parameter.flatten(1).square().sum(1).view(self.bank.shape)
        return norms

    def configure_gradient_clipping(self, *_: object, **__: object) -> None:
        """Clip each probe's gradient by its own norm."""
        if self.settings.gradient_clip_norm is not None:
            clip_each_probe(self.bank.parameters(), self.settings.gradient_clip_norm)

    def on_fit_start(self) -> None:
        """Start keeping the best of each probe."""
        self.best = BestOfEachProbe(self.bank, self.settings.patience)

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's sums."""
        self._sums, self._rows = 0.0, 0

    def validation_step(self, batch: RowBatch) -> None:
        """Add up each probe's loss."""
        rows = batch.values.shape[1]
        self._sums = self._sums + self._losses(batch) * rows
        self._rows += rows

    def on_validation_epoch_end(self) -> None:
        """Keep what got better; stop when every probe has stopped."""
        if self.trainer.sanity_checking or self.best is None or not isinstance(self._sums, Tensor):
            return
        self.best.update(self._sums / self._rows)
        if self.best.stopped.all():
            self.trainer.should_stop = True

    def on_train_end(self) -> None:
        """Put every probe back to its best."""
        if self.best is not None:
            self.best.restore()


@torch.no_grad()
def clip_each_probe(parameters: Iterator[nn.Parameter], largest: float) -> None:
    """Scale down, in place, the gradients of those probes (first axis) whose norm over all parameters is too large."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
    scale = (largest / torch.linalg.vector_norm(norms, dim=0).clamp_min(1e-12)).clamp_max(1)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))
