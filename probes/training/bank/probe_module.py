"""A task's probes as a LightningModule, and the statistics that standardise their input."""

from __future__ import annotations

from typing import Self

import torch
from lightning import LightningModule
from torch import Tensor, nn

from probes.training.bank.probe_bank import ProbeBank
from probes.training.ragged import RaggedRows, RowValues, as_batch, rows_at, vectors_of
from probes.training.streamed_rows import StreamedRows

TOKENS_PER_BATCH = 2**14
"""Tokens, padding included, to which probes that read tokens are applied at once."""
RELATIVE_ROUNDING = 1e-6
"""A feature whose standard deviation is below this share of its largest magnitude varies by float32 rounding only."""


class ProbeModule(LightningModule):
    """The probes of one task, and what standardises their input; subclasses define how the probes are trained.

    Checkpoints hold the bank and the statistics, but no backbone and no activations.

    Args:
        bank: Probes of the layers; the replicas are ordered by penalty, then control.
        standardiser: Statistics of the training rows.
    """

    def __init__(self, bank: ProbeBank, standardiser: Standardiser) -> None:
        super().__init__()
        self.bank, self.standardiser = bank, standardiser

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map raw activations `(layers, rows, features)` to logits `(layers, replicas, rows, classes)`.

        Args:
            values: Raw activations; for probes that read tokens `(layers, rows, tokens, features)`.
            mask: Where a token is, bool `(rows, tokens)`, for probes that read tokens.
        """
        return self.bank(self.standardiser(values, mask), mask)


class Standardiser(nn.Module):
    """Subtracts the mean and divides by the standard deviation, per layer and feature; it has no parameters to train.

    A feature that does not vary over the training rows is only centred. `Standardiser.of` computes the statistics.

    Args:
        mean: Shape `(layers, features)`.
        deviation: Shape `(layers, features)`, above 0.
        largest: Root mean square to which longer vectors are shortened before, shape `(layers,)`; `None`: no limit.
    """

    mean: Tensor
    deviation: Tensor
    largest: Tensor | None

    def __init__(self, mean: Tensor, deviation: Tensor, largest: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("largest", largest)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    @classmethod
    def of(cls, values: Tensor | StreamedRows, *, largest: float | None = None) -> tuple[Self, Tensor]:
        """Compute the statistics of training activations `(layers, rows, features)`; the variance divides by the rows.

        Args:
            values: Raw activations; those that are streamed have no largest vectors.
            largest: Vectors whose root mean square is more than so many times the median of their layer's are shortened
                to that before; `None`: none are.

        Returns:
            The standardiser, and which layers are constant (no feature varies over the rows), bool `(layers,)`.
        """
        if isinstance(values, StreamedRows):
            mean, spread, magnitude = values.statistics()
            deviation = torch.where(spread > RELATIVE_ROUNDING * magnitude, spread, 0)
            return cls(mean, torch.where(deviation > 0, deviation, 1.0)), (deviation == 0).all(1)
        limits = None
        if largest is not None:
            medians = torch.stack([_sizes(layer).median() for layer in values])
            limits = torch.where(medians > 0, largest * medians, torch.inf)
        means, deviations = [], []
        for i, raw in enumerate(values):  # layer by layer, so that temporary tensors stay small
            layer = raw if limits is None else _shortened(raw, limits[i])
            variance, mean = torch.var_mean(layer, dim=0, correction=0)
            varies = variance.sqrt() > RELATIVE_ROUNDING * layer.abs().amax(0)
            means.append(mean)
            deviations.append(torch.where(varies, variance.sqrt(), 0))
        deviation = torch.stack(deviations)
        constant = (deviation == 0).all(1)
        return cls(torch.stack(means), torch.where(deviation > 0, deviation, 1.0), limits), constant

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Standardise activations `(layers, rows, features)`.

        Args:
            values: Raw activations; with tokens `(layers, rows, tokens, features)`.
            mask: Where a token is, bool `(rows, tokens)`; the rest becomes 0.
        """
        ones = [1] * (values.ndim - 2)
        mean, deviation = (part.view(len(part), *ones, -1) for part in (self.mean, self.deviation))
        if self.largest is None:
            standardised = (values - mean).div_(deviation)
        else:
            largest = self.largest.view(len(self.largest), *ones)
            standardised = _shortened(values, largest).sub_(mean).div_(deviation)
        return standardised if mask is None else standardised.masked_fill_(~mask[..., None], 0)

    def __getitem__(self, layers: slice | Tensor) -> Standardiser:
        """Return the standardiser of some of the layers."""
        largest = None if self.largest is None else self.largest[layers]
        return Standardiser(self.mean[layers], self.deviation[layers], largest)


def with_unit_size(vectors: Tensor) -> Tensor:
    """Divide each vector, the last axis, by its root mean square; a vector of zeros stays as it is.

    >>> with_unit_size(torch.tensor([[3.0, -3.0], [0.0, 0.0]])).tolist()
    [[1.0, -1.0], [0.0, 0.0]]
    """
    size = _sizes(vectors)[..., None]
    return vectors / torch.where(size > 0, size, 1.0)


def _sizes(vectors: Tensor) -> Tensor:
    """Root mean square of each vector, the last axis."""
    return torch.linalg.vector_norm(vectors, dim=-1) / vectors.shape[-1] ** 0.5


def _shortened(vectors: Tensor, largest: Tensor) -> Tensor:
    """The vectors, of which those with a larger root mean square have this one; `largest` has no axis of features."""
    return vectors * (largest / _sizes(vectors).clamp_min(1e-30)).clamp_max(1)[..., None]


@torch.no_grad()
def row_batched_logits(bank: ProbeBank, standardiser: Standardiser, values: RowValues, *, rows: int = 512) -> Tensor:
    """Compute logits in batches of rows, which bounds the memory; leaves the bank in evaluation mode.

    Args:
        bank: Probes of the layers.
        standardiser: Statistics of their training rows.
        values: Raw activations, shape `(layers, rows, features)`, or of the tokens of each row; there may be no rows.
        rows: Rows per batch; fewer of long rows.

    Returns:
        Logits, shape `(layers, replicas, rows, classes)`.
    """
    bank.eval()
    if values.shape[1] == 0:  # probes need not accept an empty batch: take the shape from one row of zeros
        zeros = vectors_of(values).new_zeros(len(values), 1, values.shape[-1])
        one_row = RaggedRows(zeros, torch.ones(1, dtype=torch.long)) if isinstance(values, RaggedRows) else zeros
        return row_batched_logits(bank, standardiser, one_row)[:, :, :0]
    if isinstance(values, RaggedRows):
        rows = max(1, min(rows, TOKENS_PER_BATCH // values.longest))
    logits = []
    for first in range(0, values.shape[1], rows):
        batch, mask = as_batch(rows_at(values, slice(first, first + rows)))
        logits.append(bank(standardiser(batch, mask), mask))
    return torch.cat(logits, dim=2)
