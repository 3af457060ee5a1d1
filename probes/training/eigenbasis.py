"""The principal axes of rows, where one diagonal preconditions every penalty, class and control."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .row_span import RowSpan


@dataclass(frozen=True)
class Eigenbasis:
    """Centred rows of several layers, and the axes of their second moments.

    Fewer rows than features are turned onto their axes, which makes them shorter. More rows stay as they are, and only
    gradients are turned: that costs less than turning all rows. An orthonormal basis leaves the norm of the weights, so
    also the penalised objective, as it is.

    Attributes:
        rows: Shape `(layers, rows, rank)`.
        eigenvalues: Of the second moments, shape `(layers, rank)`.
        axes: Orthonormal columns, shape `(layers, rank, rank)`; their coordinates are features, or those of the span.
        span: What the rows span, if they were turned.
    """

    rows: Tensor
    eigenvalues: Tensor
    axes: Tensor
    span: RowSpan | None

    @classmethod
    def of(cls, x: Tensor) -> Eigenbasis:
        """Find the axes of rows `x`, shape `(layers, rows, features)`; the rank is the smaller of rows and features."""
        span, x = RowSpan.of(x) if x.shape[1] < x.shape[2] else (None, x)
        eigenvalues, axes = _eigh(_lower_products(x) / x.shape[1])
        return cls(x if span is None else x @ axes, eigenvalues.clamp_min(0), axes, span)

    def keep(self, layers: Tensor) -> Eigenbasis:
        """The basis of these layers alone."""
        span = None if self.span is None else self.span.keep(layers)
        return Eigenbasis(self.rows[layers], self.eigenvalues[layers], self.axes[layers], span)

    def enter(self, weights: Tensor, biases: Tensor) -> Tensor:
        """Turn weights `(layers, ..., features)` and biases into parameters `(layers, ..., rank + 1)`."""
        own = weights.to(self.axes)
        if self.span is not None:
            own = (self.span.enter(own.flatten(1, -2)) @ self.axes).view(*own.shape[:-1], -1)
        return torch.cat([own, biases[..., None].to(own)], dim=-1)

    def leave(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `enter`."""
        own = parameters[..., :-1]
        if self.span is not None:
            own = self.span.leave(own.flatten(1, -2) @ self.axes.mT).view(*own.shape[:-1], -1)
        return own, parameters[..., -1]

    def weighted_moments(self, weights: Tensor) -> Tensor:
        """Second moments along the axes, each output weighing the rows its own way.

        Args:
            weights: Above 0, shape `(layers, slices, outputs, rows)`; only their shares of the sum count.

        Returns:
            Shape `(layers, slices, outputs, rank)`; with equal weights, the eigenvalues.
        """
        shares = (weights / weights.sum(-1, keepdim=True)).flatten(1, 2)
        moments = []
        for own, rows, axes in zip(shares, self.rows, self.axes, strict=True):
            coordinates = rows @ axes if self.span is None else rows
            moments.append(own @ coordinates.square())
        return torch.stack(moments).unflatten(1, weights.shape[1:3])

    def precondition(self, gradient: Tensor, curvature: Tensor, moments: Tensor, penalty: Tensor) -> Tensor:
        """Multiply by the inverse of `curvature · moments + penalty` along the axes, and the bias by 1 / curvature.

        Args:
            gradient: Shape `(layers, slices, outputs, rank + 1)`.
            curvature: Of the loss, shape `(layers, slices, outputs, 1)`.
            moments: As from `weighted_moments`.
            penalty: λ, shape `(slices, 1, 1)`.
        """
        own, scale = gradient[..., :-1], 1 / (curvature * moments + penalty)
        own = _times(_times(own, self.axes) * scale, self.axes.mT) if self.span is None else own * scale
        return torch.cat([own, gradient[..., -1:] / curvature], dim=-1)


def _times(vectors: Tensor, matrix: Tensor) -> Tensor:
    """Multiply vectors `(layers, ..., rank)` by a matrix of their layer."""
    return (vectors.flatten(1, -2) @ matrix).view(*vectors.shape[:-1], -1)


def _eigh(moments: Tensor) -> tuple[Tensor, Tensor]:
    try:
        return torch.linalg.eigh(moments)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]  # documented, missing from its stub
        # In float32 it can fail on rows that repeat a few of them.
        eigenvalues, axes = torch.linalg.eigh(moments.double())
        return eigenvalues.to(moments), axes.to(moments)


def _lower_products(x: Tensor, width: int = 192) -> Tensor:
    """The blocks of `xᵀ x` on and below the diagonal, all that `eigh` reads; zeros above."""
    products = x.new_zeros(len(x), x.shape[-1], x.shape[-1])
    for start in range(0, x.shape[-1], width):
        block = slice(start, start + width)
        products[:, start:, block] = x[..., start:].mT @ x[..., block]
    return products
