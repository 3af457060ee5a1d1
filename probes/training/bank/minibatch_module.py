"""Probes of any architecture, trained by minibatches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW, Optimizer

from probes.metrics import TargetKind
from probes.training.bank.probe_bank import ProbeBank, RowLoss
from probes.training.bank.probe_module import ProbeModule, Standardiser
from probes.training.data_module import RowBatch
from probes.training.probe_settings import ProbeSettings


def default_row_loss(kind: TargetKind, logits: Tensor, targets: Tensor) -> Tensor:
    """Loss of each row in nats, or squared units.

    Args:
        kind: Kind of task: cross-entropy of a softmax, the sum over labels of binary cross-entropies, or squared error.
        logits: Before any softmax or sigmoid, shape `(..., rows, classes)`.
        targets: Shape `(..., rows)`, or `(..., rows, labels)`.

    Returns:
        Shape `(..., rows)`.
    """
    if kind == "classification":
        return logits.logsumexp(-1) - logits.gather(-1, targets[..., None])[..., 0]
    if kind == "multilabel":
        return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1)
    return (logits[..., 0] - targets).square()


def row_loss_of(kind: TargetKind) -> RowLoss:
    """Return a function that asks the probe for its own loss where it brings one, and else uses the default."""

    def row_loss(probe: nn.Module, logits: Tensor, targets: Tensor) -> Tensor:
        own: Callable[[Tensor, Tensor], Tensor] | None = getattr(probe, "loss", None)
        return default_row_loss(kind, logits, targets) if own is None else own(logits, targets)

    return row_loss


def class_weights(targets: Tensor, classes: int) -> Tensor:
    """Weight of each class by which all classes weigh the same and the mean row weighs 1, shape `(classes,)`."""
    counts = torch.bincount(targets, minlength=classes).float()
    return len(targets) / (classes * counts)


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

    def __init__(
        self, bank: ProbeBank, standardiser: Standardiser, *, kind: TargetKind, settings: ProbeSettings
    ) -> None:
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
