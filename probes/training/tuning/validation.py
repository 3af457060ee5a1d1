"""Measures the validation loss while tuning, and stops when it no longer falls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from .adapters import trainable
from .evaluation import answer_loss
from .examples import Example
from .module import InstructionTuner


class AnswerValidation(Callback):
    """Measures the loss on validation rows at fixed steps and at the last.

    With a patience, tuning stops after so many measurements without a new lowest, and ends with the weights of the
    lowest.

    Args:
        examples: Validation rows; none are measured if empty.
        every_n_steps: Optimiser steps between measurements.
        patience: Measurements without a lower loss after which tuning stops; `None` never stops.
    """

    def __init__(self, examples: Sequence[Example], *, every_n_steps: int, patience: int | None = None) -> None:
        self.examples, self.every_n_steps, self.patience = examples, every_n_steps, patience
        self.losses: dict[int, float] = {}
        self.best_weights: dict[str, Tensor] = {}

    @property
    def best_step(self) -> int | None:
        """The step whose weights are kept; `None` if it is the last."""
        return min(self.losses, key=lambda step: self.losses[step]) if self.best_weights else None

    @property
    def waited(self) -> int:
        """Measurements since the lowest."""
        losses = list(self.losses.values())
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stay stopped if the checkpoint was saved when patience had run out."""
        self._stop_if_due(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure at due steps."""
        assert isinstance(pl_module, InstructionTuner)
        step = trainer.global_step
        if self.examples and (step % self.every_n_steps == 0 or step == pl_module.total_steps):
            tokens = pl_module.micro_batch_tokens
            self.losses[step] = answer_loss(pl_module.model, self.examples, micro_batch_tokens=tokens)
            pl_module.log("tuning/validation_loss", self.losses[step], batch_size=len(self.examples))
            if self.patience is not None and self.waited == 0:
                self.best_weights = {k: p.detach().cpu().clone() for k, p in trainable(pl_module.model).items()}
            self._stop_if_due(trainer)

    @override
    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to the weights of the lowest loss, if patience was asked for."""
        assert isinstance(pl_module, InstructionTuner)
        for name, parameter in trainable(pl_module.model).items():
            if name in self.best_weights:
                parameter.copy_(self.best_weights[name])

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        return {"losses": self.losses, "best_weights": self.best_weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what a checkpoint holds."""
        self.losses, self.best_weights = dict(state_dict["losses"]), dict(state_dict["best_weights"])

    def _stop_if_due(self, trainer: Trainer) -> None:
        if self.patience is not None and self.waited >= self.patience:
            trainer.should_stop = True
