"""The activations of one task in batches, as a Lightning data module serves them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from lightning import LightningDataModule
from torch import Tensor

from probes.seeds import derive_seed
from probes.training.task_data import TaskData


@dataclass(frozen=True)
class Rows:
    """Rows of all layers with the targets of the probe and of its controls.

    Attributes:
        values: Raw activations, shape `(layers, rows, features)`.
        targets: True targets first, then each control's; shape `(1 + controls, rows, ...)`.
        weights: Weight of each row in the loss, mean 1, shape `(1 + controls, rows)`.
    """

    values: Tensor
    targets: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return self.values.shape[1]

    def at(self, rows: Tensor | slice) -> Rows:
        """Return some of the rows, by index; a slice gives a view."""
        values = self.values[:, rows] if isinstance(rows, slice) else self.values.index_select(1, rows)
        return Rows(values, self.targets[:, rows], self.weights[:, rows])

    def of_layers(self, layers: slice) -> Rows:
        """Return some of the layers, as a view."""
        return Rows(self.values[layers], self.targets, self.weights)


class RowBatch(NamedTuple):
    """Values `(layers, batch, features)`, targets `(1 + controls, batch, ...)`, weights `(1 + controls, batch)`.

    `share` is what one row counts in the batch's mean loss: 1 over the rows of all processes' shares, times their
    number (distributed training takes the mean of the processes' gradients).
    """

    values: Tensor
    targets: Tensor
    weights: Tensor
    share: float


class RowBatches:
    """Batches of rows, in a new order every pass if shuffled; the orders depend on the seed alone.

    Not a `DataLoader`: indexing one tensor in memory needs no workers, and every process takes its own part of each
    batch. Rows in order are served as views, which are not to be written to.

    Args:
        rows: What to serve.
        batch_size: Rows a batch, over all processes.
        shuffle_seed: Decides the orders; `None` serves rows in order.
        rank: This process.
        world_size: Processes.
    """

    def __init__(
        self, rows: Rows, batch_size: int, *, shuffle_seed: int | None = None, rank: int = 0, world_size: int = 1
    ) -> None:
        self.rows, self.batch_size, self.shuffle_seed = rows, batch_size, shuffle_seed
        self.rank, self.world_size = rank, world_size
        self._passes = itertools.count()

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[RowBatch]:
        order = self._order(next(self._passes))
        for start in range(0, len(self.rows), self.batch_size):
            stop = min(start + self.batch_size, len(self.rows))
            mine = slice(start + self.rank, stop, self.world_size)
            part = self.rows.at(mine if order is None else order[mine])
            yield RowBatch(part.values, part.targets, part.weights, self.world_size / (stop - start))

    def _order(self, number: int) -> Tensor | None:
        if self.shuffle_seed is None:
            return None
        generator = torch.Generator().manual_seed(derive_seed(self.shuffle_seed, "order", number))
        return torch.randperm(len(self.rows), generator=generator)


class LayerBatch(NamedTuple):
    """All rows of some layers; `first` is the index of the first of them."""

    values: Tensor
    targets: Tensor
    weights: Tensor
    first: int


class LayerBatches:
    """All rows of a few layers at a time, for solvers that see the whole training split.

    Args:
        rows: What to serve.
        layers_per_batch: Layers a batch.
    """

    def __init__(self, rows: Rows, layers_per_batch: int) -> None:
        self.rows, self.layers_per_batch = rows, layers_per_batch

    def __len__(self) -> int:
        return -(-len(self.rows.values) // self.layers_per_batch)

    def __iter__(self) -> Iterator[LayerBatch]:
        first = 0
        for values in self.rows.values.split(self.layers_per_batch):
            yield LayerBatch(values, self.rows.targets, self.rows.weights, first)
            first += len(values)


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
