"""The activations of one task as a Lightning data module."""

from __future__ import annotations

from lightning import LightningDataModule

from .rows import LayerBatches, RowBatches, Rows
from .task_data import TaskData

EVALUATION_ROWS = 512
"""Rows of a validation batch."""


class ActivationDataModule(LightningDataModule):
    """Serves activations that lie in memory, by rows for minibatches or by layers for the exact solver.

    Every process sees all validation rows, so all of them stop and choose alike; a `DistributedSampler`, which repeats
    rows, is never used.

    Args:
        train: Training rows.
        validation: Validation rows; `None` where nothing is decided while training.
        batch_size: Rows a training batch, over all processes; `None` serves all rows of some layers instead.
        layers_per_batch: Layers a batch, if all rows are served.
        seed: Decides the order of rows; 0 is a seed like any other.
        task_data: The whole task these rows are of, all splits and layers, for callbacks that look at it.
    """

    def __init__(
        self,
        train: Rows,
        validation: Rows | None = None,
        *,
        batch_size: int | None = None,
        layers_per_batch: int = 1,
        seed: int = 0,
        task_data: TaskData | None = None,
    ) -> None:
        super().__init__()
        self.task_data = task_data
        self.train, self.validation = train, validation
        self.batch_size, self.layers_per_batch, self.seed = batch_size, layers_per_batch, seed

    def train_dataloader(self) -> RowBatches | LayerBatches:
        """Serve batches of rows, or of layers."""
        if self.batch_size is None:
            return LayerBatches(self.train, self.layers_per_batch)
        rank, world_size = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return RowBatches(self.train, self.batch_size, shuffle_seed=self.seed, rank=rank, world_size=world_size)

    def val_dataloader(self) -> RowBatches | list[None]:
        """Serve validation rows in order."""
        return [] if self.validation is None else RowBatches(self.validation, EVALUATION_ROWS)
