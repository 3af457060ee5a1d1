"""Rows of activations that have a vector for each of their tokens, and what rows of either kind have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.training.streamed_rows import StreamedRows


@dataclass(frozen=True)
class RaggedRows:
    """Texts as rows, each with as many vectors as it has tokens; the texts lie one after another.

    Attributes:
        tokens: Raw activations, shape `(layers, tokens of all rows, features)`.
        lengths: Tokens of each row, at least 1, int64 `(rows,)`.

    >>> rows = RaggedRows(torch.arange(6.0).view(1, 3, 2), torch.tensor([1, 2]))
    >>> rows.shape, rows.at(torch.tensor([1])).tokens.tolist()
    ((1, 2, 2), [[[2.0, 3.0], [4.0, 5.0]]])
    """

    tokens: Tensor
    lengths: Tensor

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3 or self.tokens.shape[1] != int(self.lengths.sum()):
            raise ValueError(
                f"{len(self.lengths)} rows of {int(self.lengths.sum())} tokens in all expect activations (layers, "
                f"tokens, features); got {tuple(self.tokens.shape)}."
            )

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Layers, rows and features, as of rows of one vector."""
        return len(self.tokens), len(self.lengths), self.tokens.shape[-1]

    @property
    def longest(self) -> int:
        """Tokens of the longest row; 0 without rows."""
        return int(self.lengths.max()) if len(self.lengths) else 0

    def at(self, rows: Tensor | slice) -> RaggedRows:
        """Some of the rows, as a copy."""
        lengths = self.lengths[rows]
        starts = (self.lengths.cumsum(0) - self.lengths)[rows]
        within = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        places = starts.repeat_interleave(lengths) + within
        return RaggedRows(self.tokens.index_select(1, places.to(self.tokens.device)), lengths)

    def of_layers(self, layers: slice | Tensor) -> RaggedRows:
        """Some of the layers: a copy for indices, a view for a slice."""
        return RaggedRows(self.tokens[layers], self.lengths)

    def padded(self) -> tuple[Tensor, Tensor]:
        """All rows, padded on the right with zeros: `(layers, rows, tokens, features)`, and a mask `(rows, tokens)`."""
        mask = torch.arange(self.longest) < self.lengths[:, None]
        values = self.tokens.new_zeros(len(self), *mask.shape, self.tokens.shape[-1])
        values[:, mask] = self.tokens
        return values, mask.to(self.tokens.device)

    def of_rows(self) -> list[Tensor]:
        """The vectors of each row, shape `(layers, tokens, features)`."""
        return list(self.tokens.split(self.lengths.tolist(), dim=1))


RowValues = Tensor | RaggedRows | StreamedRows
"""Raw activations: a tensor `(layers, rows, features)`, the same on disk, or a vector for each token of a row."""


def rows_at(values: RowValues, rows: Tensor | slice) -> RowValues:
    """Some of the rows: a copy for indices and of ragged rows, else a view."""
    if not isinstance(values, Tensor):
        return values.at(rows)
    return values[:, rows] if isinstance(rows, slice) else values.index_select(1, rows)


def layers_of(values: RowValues, layers: slice | Tensor) -> RowValues:
    """Some of the layers: a copy for indices, a view for a slice."""
    return values[layers] if isinstance(values, Tensor) else values.of_layers(layers)


def vectors_of(values: RowValues) -> Tensor:
    """All vectors, shape `(layers, vectors, features)`: one for each row, or one for each token of all rows."""
    if isinstance(values, StreamedRows):
        return values.read()
    return values.tokens if isinstance(values, RaggedRows) else values


def concatenated_rows(parts: Sequence[RowValues]) -> RowValues:
    """The rows of several parts, one part after another."""
    ragged = [part for part in parts if isinstance(part, RaggedRows)]
    if not ragged:
        return torch.cat([vectors_of(part) for part in parts], dim=1)
    return RaggedRows(torch.cat([p.tokens for p in ragged], dim=1), torch.cat([p.lengths for p in ragged]))


def as_float(values: RowValues) -> RowValues:
    """The same activations in float32."""
    if isinstance(values, StreamedRows):
        return values.read()
    return RaggedRows(values.tokens.float(), values.lengths) if isinstance(values, RaggedRows) else values.float()


def as_batch(values: RowValues) -> tuple[Tensor, Tensor | None]:
    """What a probe is given: the vectors as they are, or padded tokens with their mask."""
    return values.padded() if isinstance(values, RaggedRows) else (vectors_of(values), None)
