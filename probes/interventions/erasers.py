"""Erasers: affine maps after which no linear probe finds a label, and random ones of the same rank to compare with.

All have the form x − D Rᵀ (x − c), and differ in the subspace that they remove:

| eraser | removes |
|---|---|
| `leace` | what covaries with the label, in whitened coordinates: the smallest change that leaves nothing linear |
| `mean_difference` | the span of the differences of class means, orthogonally |
| `inlp` | the directions of one least-squares classifier after another, orthogonally |
| `random_subspace` | as many random directions in whitened coordinates, which know nothing of the label |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probes.backbones import Edit
from probes.interventions.edits import project_out
from probes.interventions.moments import LabelMoments, Whitening, shrunk
from probes.values import Layer

_SMALLEST = 1e-9
"""Singular values below this share of the largest possible one are rounding: there is nothing to erase."""


@dataclass(frozen=True)
class Eraser:
    """The map x − D Rᵀ (x − c) with RᵀD = I; with rank 0 it changes nothing.

    Attributes:
        directions: D, what is removed, float64, shape `(features, rank)`.
        read: R, how the coordinates along D are read, same shape.
        centre: c, the mean of the rows, float64, shape `(features,)`.
    """

    directions: Tensor
    read: Tensor
    centre: Tensor

    @property
    def rank(self) -> int:
        """Dimensions that are removed."""
        return self.directions.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        """Erase rows, shape `(…, features)`, in their dtype."""
        rows = x.double()
        return (rows - ((rows - self.centre) @ self.read) @ self.directions.T).to(x.dtype)

    def edit(self, layer: Layer, **place: Any) -> Edit:
        """The same map inside a forward pass; `place` are `site`, `positions` and `stack` of the `Edit`."""
        return project_out(self.directions, layer=layer, centre=self.centre, read=self.read, **place)


def leace(moments: LabelMoments, *, shrink: bool = True) -> Eraser:
    """The eraser after which activations and label have no covariance, so that no linear classifier beats a constant.

    With W = Σ^(−1/2) and Q an orthonormal basis of the columns of W Σ_xz, x − W⁺ Q Qᵀ W (x − mean).

    Args:
        moments: Of the rows to erase.
        shrink: Shrink the correlations in Σ (`shrunk`). The rows' own covariance with the label is 0 afterwards in any
            case, and as much is left in other rows; but with few rows in many dimensions, other rows would be changed
            more than needed.

    Source:
        Belrose, Schneider-Joseph, Ravfogel, Cotterell, Raff and Biderman 2023, "LEACE: Perfect linear concept erasure
        in closed form", theorem 4.3.
    """
    whitening = _whitening(moments, shrink=shrink)
    basis = _column_basis(whitening.forth @ moments.cross_covariance, scale=1.0)
    return Eraser(whitening.back @ basis, whitening.forth @ basis, moments.mean)


def mean_difference(moments: LabelMoments) -> Eraser:
    """Project orthogonally onto what is at right angles to all differences of class means."""
    basis = _column_basis(moments.cross_covariance, scale=float(moments.covariance.trace().clamp(min=0).sqrt()))
    return Eraser(basis, basis, moments.mean)


def inlp(moments: LabelMoments, *, iterations: int = 8, shrink: bool = True) -> Eraser:
    """Iterative nullspace projection: remove the directions of a least-squares classifier, fit the next one, and so on.

    Args:
        moments: Of the rows to erase.
        iterations: Classifiers; each removes one direction less than there are classes. It ends early if one finds
            nothing.
        shrink: As in `leace`.

    Source:
        Ravfogel, Elazar, Gonen, Twiton and Goldberg 2020, "Null it out", with least squares in place of an SVM.
    """
    covariance, cross = moments.covariance, moments.cross_covariance
    covariance = shrunk(covariance, moments.count) if shrink else covariance
    removed = torch.zeros(len(cross), 0, dtype=torch.float64)
    for _ in range(iterations):
        kept = torch.eye(len(cross), dtype=torch.float64) - removed @ removed.T
        inverse = Whitening.of(kept @ covariance @ kept).forth
        basis = _column_basis(inverse @ (inverse @ (kept @ cross)), scale=None)
        if basis.shape[1] == 0 or removed.shape[1] + basis.shape[1] > len(cross):
            break
        removed, _ = torch.linalg.qr(torch.cat([removed, kept @ basis], dim=1))
    return Eraser(removed, removed, moments.mean)


def random_subspace(moments: LabelMoments, rank: int, *, seed: int, shrink: bool = True) -> Eraser:
    """An eraser of the form of `leace` whose Q is random: it removes as much of the rows, but nothing in particular.

    Args:
        moments: Of the rows to erase; the label plays no part.
        rank: Dimensions to remove.
        seed: Decides which.
        shrink: As in `leace`.
    """
    whitening = _whitening(moments, shrink=shrink)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(moments.mean), rank, generator=generator, dtype=torch.float64)
    # within the directions that have variance, so that RᵀD = I
    basis = _column_basis(whitening.back @ (whitening.forth @ drawn), scale=None)
    return Eraser(whitening.back @ basis, whitening.forth @ basis, moments.mean)


def _whitening(moments: LabelMoments, *, shrink: bool) -> Whitening:
    covariance = moments.covariance
    return Whitening.of(shrunk(covariance, moments.count) if shrink else covariance)


def _column_basis(columns: Tensor, *, scale: float | None) -> Tensor:
    """Orthonormal basis of the columns, without those that are 0 up to rounding.

    Args:
        columns: Shape `(features, columns)`.
        scale: The largest size that a column could have; by default that of the largest there is.
    """
    left, sizes, _ = torch.linalg.svd(columns, full_matrices=False)
    largest = sizes.max().item() if scale is None else scale
    return left[:, (sizes > _SMALLEST * largest) & (sizes > _SMALLEST * sizes.max())]
