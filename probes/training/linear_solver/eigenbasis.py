"""The principal axes of rows, where one diagonal preconditions every penalty, class and control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class RowSpan(NamedTuple):
    """What rows span, where they are fewer than their features: an orthonormal basis as Householder reflections.

    The basis itself is never built, which would take twice the time of finding the reflections.

    Attributes:
        reflectors: Below the diagonal, shape `(layers, features, rows)`; as `torch.geqrf` leaves them.
        scales: Of the reflections, shape `(layers, rows)`.

    Source:
        Golub and Van Loan 2013, "Matrix computations", section 5.2.
    """

    reflectors: Tensor
    scales: Tensor

    @classmethod
    def of(cls, x: Tensor) -> tuple[RowSpan, Tensor]:
        """Find the span of rows `(layers, rows, features)`, and their coordinates in it, `(layers, rows, rows)`."""
        reflectors, scales = torch.geqrf(x.mT)
        return cls(reflectors, scales), reflectors[:, : x.shape[1]].triu().mT

    def enter(self, vectors: Tensor) -> Tensor:
        """Coordinates `(layers, vectors, rows)` of vectors `(layers, vectors, features)`."""
        turned = torch.ormqr(self.reflectors, self.scales, vectors.mT, transpose=True)
        return turned[:, : self.scales.shape[1]].mT

    def leave(self, coordinates: Tensor) -> Tensor:
        """Undo `enter` in the span: coordinates `(layers, vectors, rows)` to vectors `(layers, vectors, features)`."""
        beyond = self.reflectors.shape[1] - self.scales.shape[1]
        return torch.ormqr(self.reflectors, self.scales, functional.pad(coordinates, (0, beyond)).mT).mT


class BasisChange(NamedTuple):
    """Turns weights onto the axes of rows that are fewer than their features; else leaves them as they are.

    Attributes:
        onto: What the rows span, and orthonormal columns in the coordinates of the span, shape `(layers, rank, rank)`;
            `None` if rows were left as they are.
    """

    onto: tuple[RowSpan, Tensor] | None = None

    def enter(self, weights: Tensor, biases: Tensor) -> Tensor:
        """BasisChange weights `(layers, ..., features)` and put biases after them: `(layers, ..., rank + 1)`."""
        if self.onto is not None:
            span, axes = self.onto
            weights = (span.enter(weights.flatten(1, -2)) @ axes).view(*weights.shape[:-1], -1)
        return torch.cat([weights, biases[..., None]], dim=-1)

    def leave(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `enter`."""
        weights, biases = parameters[..., :-1], parameters[..., -1]
        if self.onto is not None:
            span, axes = self.onto
            weights = span.leave(weights.flatten(1, -2) @ axes.mT).view(*weights.shape[:-1], -1)
        return weights, biases


@dataclass(frozen=True)
class Eigenbasis:
    """Centred rows of several layers, and the axes of their second moments.

    Fewer rows than features are turned onto their axes, which makes them shorter. More rows stay as they are, and only
    gradients are turned: that costs less than turning all rows. An orthonormal basis leaves the norm of the weights, so
    also the penalised objective, as it is.

    Attributes:
        rows: Shape `(layers, rows, rank)`.
        eigenvalues: Of the second moments, shape `(layers, rank)`.
        axes: Orthonormal columns among the features, shape `(layers, rank, rank)`; `None` if the rows lie along them.
    """

    rows: Tensor
    eigenvalues: Tensor
    axes: Tensor | None

    @classmethod
    def of(cls, x: Tensor) -> tuple[Eigenbasis, BasisChange]:
        """Find the axes of rows `x`, shape `(layers, rows, features)`, and how weights are turned as these rows are.

        The rank is the smaller of rows and features.
        """
        if x.shape[1] >= x.shape[2]:
            return cls(x, *_axes_of(x)), BasisChange()
        span, coordinates = RowSpan.of(x)
        eigenvalues, axes = _axes_of(coordinates)
        return cls(coordinates @ axes, eigenvalues, None), BasisChange((span, axes))

    def keep(self, layers: Tensor) -> Eigenbasis:
        """The basis of these layers alone."""
        axes = None if self.axes is None else self.axes[layers]
        return Eigenbasis(self.rows[layers], self.eigenvalues[layers], axes)

    def weighted_moments(self, weights: Tensor) -> Tensor:
        """Second moments along the axes, each output weighing the rows its own way.

        Args:
            weights: Above 0, shape `(layers, slices, outputs, rows)`; only their shares of the sum count.

        Returns:
            Shape `(layers, slices, outputs, rank)`; with equal weights, the eigenvalues.
        """
        shares = (weights / weights.sum(-1, keepdim=True)).flatten(1, 2)
        moments = []
        for layer, (own, rows) in enumerate(zip(shares, self.rows, strict=True)):
            coordinates = rows if self.axes is None else rows @ self.axes[layer]
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
        own = own * scale if self.axes is None else _times(_times(own, self.axes) * scale, self.axes.mT)
        return torch.cat([own, gradient[..., -1:] / curvature], dim=-1)


def _times(vectors: Tensor, matrix: Tensor) -> Tensor:
    """Multiply vectors `(layers, ..., rank)` by a matrix of their layer."""
    return (vectors.flatten(1, -2) @ matrix).view(*vectors.shape[:-1], -1)


def _axes_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and axes of the second moments of rows."""
    eigenvalues, axes = _eigh(_lower_products(x) / x.shape[1])
    return eigenvalues.clamp_min(0), axes


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
