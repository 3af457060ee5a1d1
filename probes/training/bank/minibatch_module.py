"""Minibatch training of probes of any architecture, each with its own gradient clipping and early stopping."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from probes.metrics import TargetKind
from probes.training.bank.probe_bank import ProbeBank, RowLoss
from probes.training.bank.probe_module import ProbeModule, Standardiser
from probes.training.data_module import RowBatch
from probes.training.probe_settings import ProbeSettings


class MinibatchProbeModule(ProbeModule):
    """Trains every probe of a bank with AdamW, each with gradient clipping and early stopping of its own.

    The loss includes λ/2 · ‖weights‖² over parameters of two or more axes (biases and norms bear no penalty), so that a
    penalty means the same as in the exact solver. Clipping and stopping are not the Trainer's, which would act on all
    probes together and thereby make them depend on each other.

    Args:
        bank: Probes of the layers; the replicas are ordered by penalty, then control.
        standardiser: Statistics of the training rows.
        kind: Kind of task, which decides the default loss.
        settings: Learning rate, patience, clipping, penalties.
    """

    penalties: Tensor
    control_of: Tensor

    def __init__(
        self, bank: ProbeBank, standardiser: Standardiser, *, kind: TargetKind, settings: ProbeSettings
    ) -> None:
        super().__init__(bank, standardiser)
        self.settings = settings
        self.row_loss = row_loss_for(kind)
        controls = bank.shape[1] // len(settings.penalties)
        # λ of each replica, and the index of its targets (0: true labels), shape (replicas,) = (penalties · controls,).
        penalties = torch.tensor(settings.penalties).repeat_interleave(controls)
        self.register_buffer("penalties", penalties, persistent=False)
        self.register_buffer("control_of", torch.arange(controls).repeat(len(settings.penalties)), persistent=False)
        self.early_stopping: PerProbeEarlyStopping | None = None
        self._validation_sums: Tensor | float = 0.0
        self._validation_rows = 0

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer that the architecture brings, or else AdamW with the schedule of its learning rate."""
        parameters = list(self.bank.parameters())
        configure_optimizer = getattr(self.bank.probe, "configure_optimizer", None)
        if configure_optimizer is not None:
            return configure_optimizer(parameters)
        optimizer = AdamW(parameters, lr=self.settings.learning_rate, weight_decay=0.0, fused=True)
        if self.settings.schedule == "constant":
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        schedule = LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: RowBatch) -> Tensor:
        """Sum the losses of all probes; as each depends on one probe's parameters, the gradients do not mix."""
        losses = self._losses(batch)
        if any(self.settings.penalties):
            losses = losses + self.penalties / 2 * self._squared_norms()
        return losses.sum()

    def configure_gradient_clipping(self, *_: object, **__: object) -> None:
        """Clip the gradient of each probe by its norm."""
        if self.settings.gradient_clip_norm is not None:
            clip_each_probe(self.bank.parameters(), self.settings.gradient_clip_norm)

    def on_fit_start(self) -> None:
        """Start to keep the best state of each probe; the bank is on its device by now."""
        self.early_stopping = PerProbeEarlyStopping(self.bank, self.settings.patience)

    def on_validation_epoch_start(self) -> None:
        """Reset the sums of the validation losses."""
        self._validation_sums, self._validation_rows = 0.0, 0

    def validation_step(self, batch: RowBatch) -> None:
        """Add the batch's mean losses times its rows; the last batch may have fewer rows than the others."""
        rows = batch.values.shape[1]
        self._validation_sums = self._validation_sums + self._losses(batch) * rows
        self._validation_rows += rows

    def on_validation_epoch_end(self) -> None:
        """Keep the probes that improved; stop training when every probe has stopped."""
        if self.trainer.sanity_checking or self.early_stopping is None or not isinstance(self._validation_sums, Tensor):
            return
        self.early_stopping.update(self._validation_sums / self._validation_rows)
        if self.early_stopping.stopped.all():
            self.trainer.should_stop = True

    def on_train_end(self) -> None:
        """Restore the best state of every probe."""
        if self.early_stopping is not None:
            self.early_stopping.restore()

    def _losses(self, batch: RowBatch) -> Tensor:
        """Weighted mean loss of each probe over the batch, `(layers, replicas)`; see `RowBatch.mean_factor`."""
        targets, weights = batch.targets[self.control_of], batch.weights[self.control_of]  # (replicas, rows, ...)
        losses = self.bank.losses(
            self.standardiser(batch.values, batch.mask), targets, self.row_loss, mask=batch.mask, step=self.global_step
        )
        if losses.ndim == 3:  # (layers, replicas, rows)
            return (losses * weights).sum(-1) * batch.mean_factor
        if self.settings.class_weights is not None or self.settings.training_sets not in ("auto", 0):
            raise ValueError(
                f"The loss of {type(self.bank.probe).__name__} is a mean, in which rows can't be weighted. Return the "
                "loss of each row, or set `probe.class_weights=null` and `probe.training_sets=0`."
            )
        return losses

    def _squared_norms(self) -> Tensor:
        """‖weights‖² of each probe, shape `(layers, replicas)`."""
        norms = torch.zeros(self.bank.shape, device=self.device)
        for parameter in self.bank.parameters():
            if parameter.ndim > 2:  # the probes and at least two axes of one probe's parameter
                norms = norms + parameter.flatten(1).square().sum(1).view(self.bank.shape)
        return norms


class PerProbeEarlyStopping:
    """Keeps each probe's state at its lowest validation loss; stops it after `patience` epochs without a lower one.

    A stopped probe stays stopped even though the bank is trained further for other probes, so that its best state never
    depends on them.

    Args:
        bank: The bank in training.
        patience: Epochs without a lower loss after which a probe stops.

    Attributes:
        lowest: Lowest validation loss of each probe, shape `(layers, replicas)`; infinite before a finite one.
        epochs_without_improvement: Int64 `(layers, replicas)`.
        state: The bank's state with every probe at its best, tensors of shape `(layers · replicas, ...)`.
    """

    def __init__(self, bank: ProbeBank, patience: int) -> None:
        self.bank, self.patience = bank, patience
        shape, device = bank.shape, next(bank.parameters()).device
        self.lowest = torch.full(shape, torch.inf, device=device)
        self.epochs_without_improvement = torch.zeros(shape, dtype=torch.long, device=device)
        self.state = {name: value.detach().clone() for name, value in bank.state_dict().items()}

    @property
    def stopped(self) -> Tensor:
        """Which probes have stopped, bool `(layers, replicas)`."""
        return self.epochs_without_improvement >= self.patience

    @torch.no_grad()
    def update(self, losses: Tensor) -> None:
        """Take an epoch's validation losses `(layers, replicas)` into account; NaN is no improvement."""
        better = (losses < self.lowest) & ~self.stopped
        self.epochs_without_improvement = torch.where(better, 0, self.epochs_without_improvement + 1)
        self.lowest = torch.where(better, losses, self.lowest)
        improved = better.flatten()  # (layers · replicas,), the first axis of every tensor of the state
        for name, value in self.bank.state_dict().items():
            self.state[name][improved] = value.detach()[improved]

    @torch.no_grad()
    def restore(self) -> None:
        """Put every probe of the bank back to its best state."""
        self.bank.load_state_dict(self.state)


def default_row_loss(kind: TargetKind, logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the default loss of each row: in nats, or in squared units of the targets for regression.

    Args:
        kind: Kind of task: softmax cross-entropy (classification), the sum over labels of binary cross-entropies
            (multi-label), or squared error (regression).
        logits: Before any softmax or sigmoid, shape `(..., rows, classes)`.
        targets: Shape `(..., rows)`, or `(..., rows, labels)` for multi-label tasks.

    Returns:
        Shape `(..., rows)`.
    """
    if kind == "classification":
        return logits.logsumexp(-1) - logits.gather(-1, targets[..., None])[..., 0]  # −log softmax(logits)[target]
    if kind == "multilabel":
        return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1)
    return (logits[..., 0] - targets).square()


def row_loss_for(kind: TargetKind) -> RowLoss:
    """Return a function that computes the loss that the probe's class brings, or else the default of this kind."""

    def row_loss(probe: nn.Module, logits: Tensor, targets: Tensor) -> Tensor:
        loss = getattr(probe, "loss", None)
        return default_row_loss(kind, logits, targets) if loss is None else loss(logits, targets)

    return row_loss


def class_weights(targets: Tensor, classes: int) -> Tensor:
    """Compute the weight of each class, shape `(classes,)`, that gives all classes equal totals and the rows mean 1.

    Args:
        targets: Class indices, shape `(rows,)`.
        classes: Number of classes; the weight of a class without rows is infinite.
    """
    counts = torch.bincount(targets, minlength=classes).float()
    return len(targets) / (classes * counts)


@torch.no_grad()
def clip_each_probe(parameters: Iterator[nn.Parameter], largest_norm: float) -> None:
    """Scale down, in place, the gradient of each probe whose norm over all its parameters exceeds the largest.

    Args:
        parameters: A bank's, with the probes as their first axis.
        largest_norm: Largest Euclidean norm of one probe's gradient.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
    # (parameters, probes) → (probes,); the clamp keeps a probe without gradient from division by 0.
    scale = (largest_norm / torch.linalg.vector_norm(norms, dim=0).clamp_min(1e-12)).clamp_max(1)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))
