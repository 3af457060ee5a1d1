"""The principal axes of rows, where one diagonal preconditions every penalty, class and control."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Eigenbasis:
    """Centred rows of several layers, and the axes of their second moments.

    Fewer rows than features are turned onto their axes, which makes them shorter. More rows stay as they are, and only
    gradients are turned: that costs less than turning all rows. An orthonormal basis leaves the norm of the weights, so
    also the penalised objective, as it is.

    Attributes:
        rows: Shape `(layers, rows, rank)`.
        eigenvalues: Of the second moments, shape `(layers, rank)`.
        axes: Orthonormal columns, shape `(layers, features, rank)`.
        turned: Whether the rows' coordinates are those along the axes.
    """

    rows: Tensor
    eigenvalues: Tensor
    axes: Tensor
    turned: bool

    @classmethod
    def of(cls, x: Tensor) -> Eigenbasis:
        """Find the axes of rows `x`, shape `(layers, rows, features)`; the rank is the smaller of rows and features."""
        turned = x.shape[1] < x.shape[2]
        if turned:
            span, upper = torch.linalg.qr(x.mT)
            eigenvalues, within = _eigh(upper @ upper.mT / x.shape[1])
            axes, coordinates = span @ within, upper.mT @ within
        else:
            eigenvalues, axes = _eigh(_lower_products(x) / x.shape[1])
            coordinates = x
        return cls(coordinates, eigenvalues.clamp_min(0), axes, turned)

    def keep(self, layers: Tensor) -> Eigenbasis:
        """The basis of these layers alone."""
        return replace(self, rows=self.rows[layers], eigenvalues=self.eigenvalues[layers], axes=self.axes[layers])

    def enter(self, weights: Tensor, biases: Tensor) -> Tensor:
        """Turn weights `(layers, ..., features)` and biases into parameters `(layers, ..., rank + 1)`."""
        own = weights.to(self.axes)
        return torch.cat([_times(own, self.axes) if self.turned else own, biases[..., None].to(own)], dim=-1)

    def leave(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `enter`."""
        own = parameters[..., :-1]
        return _times(own, self.axes.mT) if self.turned else own, parameters[..., -1]

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
            coordinates = rows if self.turned else rows @ axes
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
        own = own * scale if self.turned else _times(_times(own, self.axes) * scale, self.axes.mT)
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
