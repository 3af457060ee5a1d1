"""Saves the state of a tuning at fixed steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override


class StepCheckpoint(Checkpoint):
    """Saves the whole state after every so many optimiser steps, each time over the last.

    Not a `ModelCheckpoint`, which under manual optimisation would save weights of before the step.

    Args:
        path: The file.
        every_n_steps: Optimiser steps between saves.
    """

    def __init__(self, path: Path, *, every_n_steps: int) -> None:
        self.path, self.every_n_steps = path, every_n_steps

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save at due steps; Lightning writes whole files or none."""
        if trainer.global_step % self.every_n_steps == 0:
            trainer.save_checkpoint(self.path)
