"""Training rows that stay on disk: read block by block, or a batch at a time, and never all at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

_FILES_SHUFFLED_TOGETHER = 16
"""Rows of so many files are shuffled together: their order is random, and few files are open at a time."""


class RowSource(Protocol):
    """Where rows lie."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Layers, rows and features."""
        ...

    def files(self) -> Iterator[Tensor]:
        """The rows of each file, int64 indices; every row occurs once."""
        ...

    def read(self, rows: Tensor) -> Tensor:
        """Some rows, shape `(layers, rows, features)`, in the dtype in which they are kept."""
        ...


@dataclass(frozen=True)
class StreamedRows:
    """Rows of a source at some of its layers, which are read when they are needed.

    Attributes:
        source: Where they lie.
        layers: Indices into the source's layers; `None`: all.
        rows: Indices into the source's rows; `None`: all.
        most_bytes: Most bytes of a block in float32.
    """

    source: RowSource
    layers: Tensor | None = None
    rows: Tensor | None = None
    most_bytes: int = 64_000_000
    _statistics: dict[str, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict, compare=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Layers, rows and features."""
        layers, rows, features = self.source.shape
        layers = layers if self.layers is None else len(self.layers)
        return layers, rows if self.rows is None else len(self.rows), features

    @property
    def ndim(self) -> int:
        """Number of axes, as a tensor has it."""
        return 3

    def __len__(self) -> int:
        return self.shape[0]

    def at(self, rows: Tensor | slice) -> StreamedRows:
        """Some of the rows; nothing is read."""
        kept = torch.arange(self.source.shape[1]) if self.rows is None else self.rows
        return replace(self, rows=kept[rows], _statistics={})

    def of_layers(self, layers: Tensor | slice) -> StreamedRows:
        """Some of the layers; nothing is read."""
        kept = torch.arange(self.source.shape[0]) if self.layers is None else self.layers
        statistics = {name: tuple(part[layers] for part in parts) for name, parts in self._statistics.items()}
        return replace(self, layers=kept[layers], _statistics=statistics)

    def read(self) -> Tensor:
        """All of the rows, float32, shape `(layers, rows, features)`."""
        values = self.source.read(torch.arange(self.source.shape[1]) if self.rows is None else self.rows)
        return (values if self.layers is None else values[self.layers]).float()

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows, file after file: their indices, and float32 activations `(layers, rows, features)`."""
        layers, _, features = self.shape
        most = max(1, self.most_bytes // (4 * layers * features))
        position = None
        if self.rows is not None:
            position = torch.full((self.source.shape[1],), -1)
            position[self.rows] = torch.arange(len(self.rows))
        for of_file in self.source.files():
            for rows in of_file.split(most):
                kept = rows if position is None else rows[position[rows] >= 0]
                if len(kept):
                    values = self.source.read(kept)
                    yield (
                        kept if position is None else position[kept],
                        (values if self.layers is None else values[self.layers]).float(),
                    )

    def shuffled(self, generator: torch.Generator) -> Tensor:
        """An order of the rows in which neighbours lie in few files: files at random, and rows within some of them."""
        position = torch.full((self.source.shape[1],), -1)
        position[slice(None) if self.rows is None else self.rows] = torch.arange(self.shape[1])
        files = [places[places >= 0] for rows in self.source.files() if len(places := position[rows])]
        order = [files[i] for i in torch.randperm(len(files), generator=generator).tolist()]
        groups = [
            torch.cat(order[i : i + _FILES_SHUFFLED_TOGETHER]) for i in range(0, len(order), _FILES_SHUFFLED_TOGETHER)
        ]
        return torch.cat([group[torch.randperm(len(group), generator=generator)] for group in groups])

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """Means, standard deviations and largest magnitudes of every feature, float32 `(layers, features)`; one pass.

        Raises:
            ValueError: An activation is NaN or infinite.
        """
        if "all" not in self._statistics:
            self._statistics["all"] = self._computed_statistics()
        return self._statistics["all"]

    def _computed_statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        layers, _, features = self.shape
        count, mean = 0, torch.zeros(layers, features, dtype=torch.float64)
        squares, largest = torch.zeros_like(mean), torch.zeros(layers, features)
        for rows, values in self.blocks():
            variance, block_mean = (part.double() for part in torch.var_mean(values, dim=1, correction=0))
            if not block_mean.isfinite().all():
                raise ValueError(f"Activations of training rows {rows[:3].tolist()} … are NaN or infinite.")
            # Chan's formula: sums of squares about two means become one about the common mean
            share, shift = len(rows) / (count + len(rows)), block_mean - mean
            squares += len(rows) * variance + count * share * shift.square()
            mean += share * shift
            largest = largest.maximum(values.abs().amax(1))
            count += len(rows)
        return mean.float(), (squares / max(count, 1)).sqrt().float(), largest


@dataclass(frozen=True)
class TensorRows:
    """Rows in memory as a source, `(layers, rows, features)`, in files of so many rows."""

    values: Tensor
    rows_per_file: int = 512

    @property
    def shape(self) -> tuple[int, int, int]:
        """Layers, rows and features."""
        layers, rows, features = self.values.shape
        return layers, rows, features

    def files(self) -> Iterator[Tensor]:
        """Neighbouring rows together."""
        yield from torch.arange(self.shape[1]).split(self.rows_per_file)

    def read(self, rows: Tensor) -> Tensor:
        """Some rows."""
        return self.values[:, rows]
