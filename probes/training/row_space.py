"""Rows as the solver walks on them, and their second moments, which precondition its steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CURVATURE = 0.15
"""Mean second derivative of a fitted output, between its largest (1/4) and that of confident probes."""

BLOCK = 144
"""Columns of the second moments computed at once; what lies above a block's diagonal is left out."""


@dataclass(frozen=True)
class RowSpace:
    """Rows of several layers, in an orthonormal basis of their own where they are fewer than the features.

    A rotation leaves the norm of the weights, so also the penalised objective, as it is.

    Attributes:
        rows: Shape `(layers, rows, rank)`, the rank being the smaller of rows and features.
        moments: `rowsᵀ rows / rows`, right in the lower triangle only, shape `(layers, rank, rank)`.
        axes: Orthonormal columns, shape `(layers, features, rank)`; `None` if the coordinates are the features.
    """

    rows: Tensor
    moments: Tensor
    axes: Tensor | None

    @classmethod
    def of(cls, x: Tensor) -> RowSpace:
        """Take rows `x`, shape `(layers, rows, features)`."""
        if x.shape[1] >= x.shape[2]:
            return cls(x, _lower_moments(x), None)
        axes, triangle = torch.linalg.qr(x.mT)
        rows = triangle.mT.contiguous()
        return cls(rows, _lower_moments(rows), axes)

    def factor(self, penalty: float) -> Tensor:
        """Lower Cholesky factor of `moments + penalty / CURVATURE`, shape `(layers, rank, rank)`.

        Times an output's curvature that is about its Hessian, and exactly so at CURVATURE. A sliver of the trace keeps
        rounding from making it indefinite.
        """
        shifted = self.moments.clone()
        diagonal = shifted.diagonal(dim1=-2, dim2=-1)
        sliver = diagonal.sum(-1, keepdim=True) * (10 * torch.finfo(diagonal.dtype).eps)
        diagonal.add_(sliver + penalty / CURVATURE)
        return torch.linalg.cholesky(shifted)

    def rotate(self, weights: Tensor) -> Tensor:
        """Turn weights `(layers, slices, outputs, features)` into coordinates `(layers, slices, outputs, rank)`."""
        return weights if self.axes is None else _by_layer(weights, self.axes)

    def unrotate(self, weights: Tensor) -> Tensor:
        """Turn coordinates into weights."""
        return weights if self.axes is None else _by_layer(weights, self.axes.mT)


def _by_layer(parameters: Tensor, matrices: Tensor) -> Tensor:
    return (parameters.flatten(1, 2) @ matrices).unflatten(1, parameters.shape[1:3])


def _lower_moments(rows: Tensor) -> Tensor:
    layers, count, rank = rows.shape
    moments = rows.new_zeros(layers, rank, rank)
    for start in range(0, rank, BLOCK):
        columns = slice(start, start + BLOCK)
        moments[:, start:, columns] = rows[..., start:].mT @ rows[..., columns]
    return moments.div_(count)
