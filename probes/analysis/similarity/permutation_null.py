"""What would CKA be if rows were not matched? Its null distribution, from permuted rows.

Rows are put in a random order and then shifted along it in a circle. The shifts of one order form a group, so counting
how often they reach the observed value gives an exact test, and all n shifts cost a few Fourier transforms instead of
one pass over the kernels each. With K and L in the random order and positions counted modulo n, a shift by s changes
only

    S(s) = Σᵢⱼ Kᵢⱼ Lᵢ₊ₛ,ⱼ₊ₛ = Σ_d Σᵢ K⁽ᵈ⁾ᵢ L⁽ᵈ⁾ᵢ₊ₛ        with circular diagonals K⁽ᵈ⁾ᵢ = Kᵢ,ᵢ₊_d,

a sum over d of circular correlations, which Fourier transforms F turn into products: S = F⁻¹ Σ_d conj(F K⁽ᵈ⁾) · F L⁽ᵈ⁾.

All layers share the permutations of a task's rows, so that the largest value over layers and tasks has a null too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.analysis.geometry.spectra import NEGLIGIBLE_EIGENVALUE
from probes.analysis.similarity.hsic import centre_rows, kernel_diagonal, linear_unbiased_hsic

_FEW_COLUMNS = 16
"""Permuting the columns of y is quicker than Fourier transforms of the kernels while there are fewer columns than this
many for each row, over all permutations together."""
_ELEMENTS_AT_ONCE = 2**24
"""Most elements of permuted columns, or of their products with a layer, held at once."""
_DIAGONALS_AT_ONCE = 256
"""Circular diagonals transformed at once."""


def cka_null(x: Tensor, y: Tensor, *, norm: Tensor, permutations: int = 200, seed: int = 0) -> Tensor:
    """Debiased CKA of matched layers with the rows of y permuted.

    The norm of CKA does not change under a permutation, nor do the traces. With few columns in y, such as labels,
    ‖XᵀY‖² comes from one product of the activations with the permuted columns of all permutations; else from the
    circular correlations that the module describes.

    Args:
        x: Shape `(layers, rows, x_features)`.
        y: Shape `(layers, rows, y_features)`, or `(1, rows, y_features)` for all layers, such as `label_features`.
        norm: `LeaveOneOutCKA.norm` of x and y, shape `(layers,)`.
        permutations: How many.
        seed: Together with the number of rows it determines the permutations.

    Returns:
        float64, shape `(permutations, layers)`; NaN where `norm` is.
    """
    x, y = centre_rows(x), centre_rows(y)
    rows = x.shape[1]
    orders = circular_shifts(rows, permutations, seed=seed)
    permuted = torch.cat([order.permutations for order in orders])  # (permutations, rows)
    if y.shape[2] * permutations < _FEW_COLUMNS * rows:
        columns = [_fewest_columns(layer) for layer in y]
        layers = [_products_by_features(layer, columns[i % len(columns)], permuted) for i, layer in enumerate(x)]
    else:
        pairs = [(layer, y[i % len(y)]) for i, layer in enumerate(x)]
        layers = [torch.cat([_products_by_rows(a, b, order) for order in orders]) for a, b in pairs]
    products = torch.stack(layers, dim=1)  # (permutations, layers)
    x_diagonal, y_diagonal = kernel_diagonal(x), kernel_diagonal(y).expand(len(x), -1)
    diagonals = torch.stack([(x_diagonal * y_diagonal[:, rows_of_y]).sum(1) for rows_of_y in permuted])
    traces = x_diagonal.sum(1) * y_diagonal.sum(1)
    return linear_unbiased_hsic(products, diagonals, traces, rows=rows) / norm


@dataclass(frozen=True)
class CircularShifts:
    """Permutations that shift rows in a circle along a random order.

    Attributes:
        order: Rows in a random order, int64 of shape `(rows,)`.
        shifts: By how many places, each from 1 to rows − 1; int64 of shape `(permutations,)`.
    """

    order: Tensor
    shifts: Tensor

    @property
    def permutations(self) -> Tensor:
        """Which row of y is matched with each row of x; int64, shape `(permutations, rows)`."""
        rows = len(self.order)
        shifted = self.order[(torch.arange(rows) + self.shifts[:, None]) % rows]
        # row order[i] is matched with row order[i + s]
        return torch.empty_like(shifted).scatter_(1, self.order.expand_as(shifted), shifted)


def circular_shifts(rows: int, permutations: int, *, seed: int = 0) -> tuple[CircularShifts, ...]:
    """Seeded permutations of rows: as many orders as needed, each with up to rows − 1 different shifts."""
    generator = torch.Generator().manual_seed(seed)
    orders = []
    for start in range(0, permutations, rows - 1):
        order = torch.randperm(rows, generator=generator)
        shifts = 1 + torch.randperm(rows - 1, generator=generator)[: permutations - start]
        orders.append(CircularShifts(order, shifts))
    return tuple(orders)


def _fewest_columns(rows: Tensor) -> Tensor:
    """Rows with as many columns as their rank and the same kernel: centred one-hot rows have one column too many."""
    wide = rows.double()
    eigenvalues, axes = torch.linalg.eigh(wide.T @ wide)
    kept = eigenvalues > NEGLIGIBLE_EIGENVALUE * eigenvalues[-1]
    return (wide @ axes[:, kept]).to(rows) if kept.any() else rows


def _products_by_features(x: Tensor, y: Tensor, permutations: Tensor) -> Tensor:
    """‖XᵀY‖² of one layer with the rows of Y in each of the permutations; shape `(permutations,)`."""
    at_once = max(1, _ELEMENTS_AT_ONCE // (max(x.shape) * y.shape[1]))
    sums = []
    for some in permutations.split(at_once):
        columns = y[some].permute(1, 0, 2)  # (rows, permutations, columns)
        product = (x.T @ columns.flatten(1)).view(x.shape[1], len(some), -1)  # (features, permutations, columns)
        sums.append(product.square().sum((0, 2), dtype=torch.float64))
    return torch.cat(sums)


def _products_by_rows(x: Tensor, y: Tensor, order: CircularShifts) -> Tensor:
    """S(s) of one layer for all shifts of one order; shape `(permutations,)`."""
    kernels = [_doubled_kernel(side[order.order]) for side in (x, y)]
    rows = len(x)
    spectrum = torch.zeros(rows // 2 + 1, dtype=torch.complex128, device=x.device)
    # diagonals d and rows − d of a symmetric kernel hold the same elements, so half of them suffice, counted twice, but
    # for d = 0 and d = rows / 2, which are their own mirror images
    for first in range(0, rows // 2 + 1, _DIAGONALS_AT_ONCE):
        last = min(first + _DIAGONALS_AT_ONCE, rows // 2 + 1)
        k, other = (torch.fft.rfft(_circular_diagonals(kernel, first, last).double()) for kernel in kernels)
        counts = [1.0 if 2 * offset in {0, rows} else 2.0 for offset in range(first, last)]
        products = k.conj() * other  # (diagonals, frequencies)
        spectrum += (products * torch.tensor(counts, dtype=torch.float64, device=x.device)[:, None]).sum(0)
    return torch.fft.irfft(spectrum, n=rows)[order.shifts]


def _doubled_kernel(rows: Tensor) -> Tensor:
    """[K K], shape `(rows, 2 × rows)`, in which circular diagonals are straight ones."""
    kernel = rows @ rows.T
    return torch.cat([kernel, kernel], dim=1)


def _circular_diagonals(doubled: Tensor, first: int, last: int) -> Tensor:
    """Kᵢ,ᵢ₊_d for `first` ≤ d < `last`, as a view of the doubled kernel; shape `(diagonals, rows)`."""
    rows = len(doubled)
    return doubled.as_strided((last - first, rows), (1, 2 * rows + 1), first)
