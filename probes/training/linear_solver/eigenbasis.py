"""The eigenbasis of the rows' second moments, in which a diagonal matrix preconditions every problem of a layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Eigenbasis:
    """Rows of several layers, and the eigenvectors A of their second moments XᵀX / rows = A diag(e) Aᵀ.

    With fewer rows than features, the rows are replaced by their coordinates X A, which makes them shorter, and weights
    W by W A. Nothing is lost: the optimal weights lie in the span of the rows, and an orthonormal basis leaves ‖W‖, so
    also the penalised objective, as it is. With more rows, X A would be no shorter than X; rows and weights stay as
    they are, and only gradients are multiplied by A, which costs less than multiplying all rows.

    Attributes:
        rows: X A if `projected`, else X; shape `(layers, rows, rank)`.
        eigenvalues: e, at least 0, shape `(layers, rank)`.
        axes: A, whose columns are orthonormal, shape `(layers, features, rank)`.
        projected: Whether the rows are coordinates along the axes; if not, the rank is the number of features.
    """

    rows: Tensor
    eigenvalues: Tensor
    axes: Tensor
    projected: bool

    @classmethod
    def of(cls, x: Tensor) -> Eigenbasis:
        """Find the eigenbasis of rows `(layers, rows, features)`; its rank is the smaller of rows and features."""
        if x.shape[1] >= x.shape[2]:
            return cls(x, *_second_moment_eigh(x), projected=False)
        # Xᵀ = Q R, Q (layers, features, rows): the rows of X have coordinates Rᵀ in the orthonormal columns of Q.
        # RRᵀ / rows = V diag(e) Vᵀ is small, and XᵀX / rows = (Q V) diag(e) (Q V)ᵀ.
        q, r = torch.linalg.qr(x.mT)
        eigenvalues, vectors = _second_moment_eigh(r.mT)
        return cls(r.mT @ vectors, eigenvalues, q @ vectors, projected=True)

    def of_layers(self, layers: Tensor) -> Eigenbasis:
        """The bases of some layers, by index or mask."""
        return Eigenbasis(self.rows[layers], self.eigenvalues[layers], self.axes[layers], self.projected)

    def to_parameters(self, weights: Tensor, biases: Tensor) -> Tensor:
        """Parameters `(layers, ..., rank + 1)` of weights `(layers, ..., features)` and biases `(layers, ...)`.

        Weights lose what is orthogonal to the rows, which no prediction on these rows depends on.
        """
        if self.projected:
            weights = _matmul_by_layer(weights, self.axes)
        return torch.cat([weights, biases[..., None]], dim=-1)

    def to_weights(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Weights `(layers, ..., features)` and biases `(layers, ...)` of parameters `(layers, ..., rank + 1)`."""
        weights, biases = parameters[..., :-1], parameters[..., -1]
        return (_matmul_by_layer(weights, self.axes.mT) if self.projected else weights), biases

    def weighted_moments(self, row_weights: Tensor) -> Tensor:
        """Diagonal of Aᵀ Xᵀ diag(s) X A, with row shares s that differ between problems and outputs.

        Args:
            row_weights: Above 0, shape `(layers, problems, outputs, rows)`; divided by their sum over rows, they are s.

        Returns:
            Shape `(layers, problems, outputs, rank)`; with equal weights, the eigenvalues.
        """
        shares = (row_weights / row_weights.sum(-1, keepdim=True)).flatten(1, 2)  # (layers, problems · outputs, rows)
        moments = []
        for layer in range(len(shares)):  # one layer at a time, as the coordinates of all may not fit in memory
            coordinates = self.rows[layer] if self.projected else self.rows[layer] @ self.axes[layer]  # (rows, rank)
            moments.append(shares[layer] @ coordinates.square())
        return torch.stack(moments).unflatten(1, row_weights.shape[1:3])

    def precondition(self, gradient: Tensor, curvature: Tensor, moments: Tensor, penalty: Tensor) -> Tensor:
        """Multiply by an approximate inverse Hessian: A diag(1 / (c · m + λ)) Aᵀ for weights, 1 / c for the bias.

        Args:
            gradient: Shape `(layers, problems, outputs, rank + 1)`.
            curvature: c, the loss's mean second derivative by each output, shape `(layers, problems, outputs, 1)`.
            moments: m, from `weighted_moments` or the eigenvalues, shape `(layers, problems, outputs, rank)`.
            penalty: λ, shape `(problems, 1, 1)`.
        """
        by_weights, scale = gradient[..., :-1], 1 / (curvature * moments + penalty)
        if self.projected:  # coordinates along the axes already: A is the identity
            by_weights = by_weights * scale
        else:
            by_weights = _matmul_by_layer(_matmul_by_layer(by_weights, self.axes) * scale, self.axes.mT)
        return torch.cat([by_weights, gradient[..., -1:] / curvature], dim=-1)


def _matmul_by_layer(vectors: Tensor, matrices: Tensor) -> Tensor:
    """Multiply row vectors `(layers, ..., m)` by the matrix of their layer, `(layers, m, n)` → `(layers, ..., n)`."""
    return (vectors.flatten(1, -2) @ matrices).view(*vectors.shape[:-1], -1)


def _second_moment_eigh(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues `(layers, features)` and eigenvectors `(layers, features, features)` of XᵀX / rows."""
    moments = x.mT @ x / x.shape[1]
    try:
        eigenvalues, vectors = torch.linalg.eigh(moments)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]  # documented, missing from its stub
        # In float32 it can fail to converge where rows repeat a few distinct ones.
        eigenvalues, vectors = (result.to(x) for result in torch.linalg.eigh(moments.double()))
    return eigenvalues.clamp_min(0), vectors
