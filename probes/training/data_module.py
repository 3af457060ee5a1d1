"""The activations of one task in batches of rows or of layers, as a Lightning data module serves them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from lightning import LightningDataModule
from torch import Tensor

from probes.seeds import derive_seed
from probes.training.ragged import RaggedRows, RowValues, as_batch, layers_of, rows_at
from probes.training.streamed_rows import StreamedRows
from probes.training.task_data import TaskData

EVALUATION_ROWS = 512
"""Rows per validation batch."""
EVALUATION_TOKENS = 2**14
"""Tokens, padding included, per validation batch of rows with a vector for each token."""
_BATCHES_SORTED_TOGETHER = 16
"""Batches of rows with a vector for each token, among which rows of like length are put together."""


@dataclass(frozen=True)
class Rows:
    """Rows of all layers with the targets of the probes and of their controls.

    Attributes:
        values: Raw activations, shape `(layers, rows, features)`, or a vector for each token of each row.
        targets: True targets first, then each control's; shape `(1 + controls, rows, ...)`.
        weights: Weight of each row in the loss, mean 1, shape `(1 + controls, rows)`.
        sentences: Number of each row's sentence, int64 `(rows,)`, where rows are words; `None`: rows are independent.
        groups: Number of each row's group, as in `TaskData.groups`; `None`: no two rows are of one.
        token_axes: How many axes of a row's targets, the last ones, run over its tokens, padded to the longest row.
    """

    values: RowValues
    targets: Tensor
    weights: Tensor
    token_axes: int = 0
    sentences: Tensor | None = None
    groups: Tensor | None = None

    def __len__(self) -> int:
        return self.values.shape[1]

    def at(self, rows: Tensor | slice) -> Rows:
        """Return some of the rows: a copy for indices, a view for a slice."""
        sentences = None if self.sentences is None else self.sentences[rows]
        return replace(
            self,
            values=rows_at(self.values, rows),
            targets=self.targets[:, rows],
            weights=self.weights[:, rows],
            sentences=sentences,
            groups=None if self.groups is None else self.groups[rows],
        )

    def of_layers(self, layers: slice | Tensor) -> Rows:
        """Return some of the layers: a copy for indices, a view for a slice."""
        return replace(self, values=layers_of(self.values, layers))

    def batch(self, rows: Tensor | slice, mean_factor: float) -> RowBatch:
        """Some of the rows as probes are given them, padded to the longest of them."""
        some = self.at(rows)
        values, mask = as_batch(some.values)
        targets = some.targets
        for axis in range(-self.token_axes, 0):
            targets = targets.narrow(axis, 0, values.shape[2])
        return RowBatch(values, targets, some.weights, mean_factor, mask)


class ActivationDataModule(LightningDataModule):
    """Serves activations, by rows for minibatches or by layers for the exact solver.

    Every process sees all validation rows, so that all processes make the same decisions; a `DistributedSampler`, which
    repeats rows, is never used.

    Args:
        train: Training rows.
        validation: Validation rows; `None` where training makes no decisions.
        batch_size: Rows per training batch, over all processes; `None` serves all rows of some layers instead.
        layers_per_batch: Layers per batch, if all rows are served.
        seed: Decides the order of the rows; 0 is a seed like any other.
        task_data: The whole task that these rows come from, with all splits and layers, for callbacks that analyse it.
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
        """Serve all validation rows in order, on every process."""
        if self.validation is None:
            return []
        rows = EVALUATION_ROWS
        if isinstance(self.validation.values, RaggedRows):
            rows = max(1, min(rows, EVALUATION_TOKENS // max(self.validation.values.longest, 1)))
        return RowBatches(self.validation, rows)


class RowBatch(NamedTuple):
    """Some rows of all layers.

    Attributes:
        values: Raw activations, shape `(layers, batch, features)`; with tokens `(layers, batch, tokens, features)`.
        targets: Shape `(1 + controls, batch, ...)`.
        weights: Shape `(1 + controls, batch)`.
        mean_factor: What turns a sum over these rows into a mean over the batch: the number of processes, over the
            batch's rows on all processes. Distributed training averages the gradients of the processes, so that the
            number of processes cancels.
        mask: Where a token is, bool `(batch, tokens)`; `None` for rows of one vector.
    """

    values: Tensor
    targets: Tensor
    weights: Tensor
    mean_factor: float
    mask: Tensor | None = None


class RowBatches:
    """Batches of rows, in a new order in every pass if shuffled; the orders depend on the seed alone.

    This is no `DataLoader`: tensors in memory need no workers, and each process takes its share of every batch, so that
    a batch holds the same rows whatever the number of processes. A process for which a batch has no row, because it has
    fewer rows than there are processes, gets one of weight 0, as not every probe can read none. Unshuffled rows are
    served as views, which must not be written to.

    Args:
        rows: The rows to serve.
        batch_size: Rows per batch, over all processes.
        shuffle_seed: Decides the orders; `None` serves the rows in order.
        rank: Number of this process.
        world_size: Number of processes.
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
        order = self._order_of_pass(next(self._passes))
        for start in range(0, len(self.rows), self.batch_size):
            stop = min(start + self.batch_size, len(self.rows))
            has_share = start + self.rank < stop
            positions = slice(start + self.rank, stop, self.world_size) if has_share else slice(start, start + 1)
            factor = self.world_size / (stop - start)
            batch = self.rows.batch(positions if order is None else order[positions], factor)
            yield batch if has_share else batch._replace(weights=torch.zeros_like(batch.weights))

    def _order_of_pass(self, number: int) -> Tensor | None:
        if self.shuffle_seed is None:
            return None
        generator = torch.Generator().manual_seed(derive_seed(self.shuffle_seed, "order", number))
        if isinstance(self.rows.values, StreamedRows):
            return self.rows.values.shuffled(generator)
        order = torch.randperm(len(self.rows), generator=generator)
        if isinstance(self.rows.values, RaggedRows):
            order = _like_lengths_together(order, self.rows.values.lengths, self.batch_size, generator)
        return order


def _like_lengths_together(order: Tensor, lengths: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """Sort the rows of some batches by length, so that less is padded, and put the batches in a random order."""
    batches = []
    for some in order.split(batch_size * _BATCHES_SORTED_TOGETHER):
        batches += some[lengths[some].argsort(stable=True)].split(batch_size)
    full = [batch for batch in batches if len(batch) == batch_size]
    rest = [batch for batch in batches if len(batch) < batch_size]
    shuffled = torch.randperm(len(full), generator=generator).tolist()
    return torch.cat([*(full[i] for i in shuffled), *rest])


class LayerBatch(NamedTuple):
    """All rows of some consecutive layers.

    Attributes:
        values: Raw activations, shape `(layers, rows, features)`.
        targets: Shape `(1 + controls, rows, ...)`.
        weights: Shape `(1 + controls, rows)`.
        first_layer: Index of the first of these layers.
    """

    values: Tensor
    targets: Tensor
    weights: Tensor
    first_layer: int


class LayerBatches:
    """All rows of a few layers at a time, for a solver that needs the whole training split at once.

    Args:
        rows: The rows to serve.
        layers_per_batch: Layers per batch.
    """

    def __init__(self, rows: Rows, layers_per_batch: int) -> None:
        self.rows, self.layers_per_batch = rows, layers_per_batch

    def __len__(self) -> int:
        return -(-len(self.rows.values) // self.layers_per_batch)

    def __iter__(self) -> Iterator[LayerBatch]:
        first_layer = 0
        assert isinstance(self.rows.values, Tensor)  # the solver's probes read one vector
        for values in self.rows.values.split(self.layers_per_batch):
            yield LayerBatch(values, self.rows.targets, self.rows.weights, first_layer)
            first_layer += len(values)
