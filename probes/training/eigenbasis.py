"""Rows rotated onto their principal axes, where one diagonal preconditions every penalty, class and control."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Eigenbasis:
    """Centred rows of several layers in the basis of their second moments, with a column of ones for the bias.

    A rotation leaves the norm of the weights, so also the penalised objective, as it is.

    Attributes:
        rows: `x V` and a last column of ones, shape `(layers, rows, rank + 1)`.
        eigenvalues: Of `xᵀx / rows`, and a last 1 for the bias, shape `(layers, rank + 1)`.
        axes: V, orthonormal columns, shape `(layers, features, rank)`.
    """

    rows: Tensor
    eigenvalues: Tensor
    axes: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Eigenbasis:
        """Rotate rows `x`, shape `(layers, rows, features)`; the rank is the smaller of rows and features."""
        _, rows, features = x.shape
        if rows < features:
            eigenvalues, axes = _short_side(x)
        else:
            eigenvalues, axes = torch.linalg.eigh(x.mT @ x / rows)
        ones = x.new_ones(*x.shape[:2], 1)
        eigenvalues = torch.cat([eigenvalues.clamp_min(0), ones[:, 0]], dim=-1)
        return cls(torch.cat([x @ axes, ones], dim=-1), eigenvalues, axes)

    def unrotate(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Turn parameters `(layers, ..., rank + 1)` into weights `(layers, ..., features)` and biases."""
        flat = parameters[..., :-1].flatten(1, -2) @ self.axes.mT
        return flat.view(*parameters.shape[:-1], -1), parameters[..., -1]


def _short_side(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and axes from the rows × rows products, with fewer rows than features.

    The axes are an orthonormal basis of the row space whatever rounding does to the small eigenvalues, which only steer
    the preconditioner.
    """
    wide = x.double()
    _, left = torch.linalg.eigh(wide @ wide.mT / x.shape[1])
    axes, upper = torch.linalg.qr(wide.mT @ left.flip(-1))
    kept = upper.diagonal(dim1=-2, dim2=-1).square() / x.shape[1]
    return kept.to(x.dtype), axes.to(x.dtype)
