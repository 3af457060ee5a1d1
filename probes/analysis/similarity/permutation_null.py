"""What would a relation between two sets of rows be if rows were not matched? Permutation nulls of CKA.

Rows are put in a random order and then shifted along it, in a circle: such shifts form a group, so counting how often
they reach the observed value is an exact test, and all shifts of a kernel cost a few Fourier transforms instead of one
pass over it each. All layers share the permutations of a task's rows, so that the largest value over cells has a null.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.stats import pearson3, skew
from torch import Tensor

from probes.analysis.geometry.spectra import EMPTY
from probes.analysis.similarity.hsic import centred, diagonal, song_sum

_ELEMENTS_AT_ONCE = 2**24
_DIAGONALS_AT_ONCE = 256


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
        """Which row takes each row's place; int64, shape `(permutations, rows)`."""
        rows = len(self.order)
        shifted = self.order[(torch.arange(rows) + self.shifts[:, None]) % rows]
        return torch.empty_like(shifted).scatter_(1, self.order.expand_as(shifted), shifted)


def circular_shifts(rows: int, permutations: int, *, seed: int = 0) -> tuple[CircularShifts, ...]:
    """Seeded permutations of rows: as many orders as needed, each with up to rows − 1 different shifts."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, permutations, rows - 1):
        order = torch.randperm(rows, generator=generator)
        shifts = 1 + torch.randperm(rows - 1, generator=generator)[: permutations - start]
        parts.append(CircularShifts(order, shifts))
    return tuple(parts)


def cka_null(x: Tensor, y: Tensor, *, norm: Tensor, permutations: int = 200, seed: int = 0) -> Tensor:
    """Debiased CKA of matched layers with the rows of one side permuted.

    Only the sum over both kernels changes under a permutation. With few columns on one side, such as labels, it is one
    product of the activations with the permuted columns of all permutations; else a correlation of the kernels.

    Args:
        x: Shape `(layers, rows, x_features)`.
        y: Shape `(layers, rows, y_features)`, or `(1, rows, y_features)` for all layers, such as `label_features`.
        norm: `Alignment.norm` of x and y, shape `(layers,)`.
        permutations: How many.
        seed: Decides them; they depend on the number of rows besides.

    Returns:
        float64, shape `(permutations, layers)`; NaN where `norm` is.
    """
    x, y = centred(x), centred(y)
    shifts = circular_shifts(x.shape[1], permutations, seed=seed)
    orders = torch.cat([part.permutations for part in shifts])
    if y.shape[2] * permutations < 16 * x.shape[1]:
        few = [_fewest_columns(own) for own in y]
        products = torch.stack([_by_features(own, few[i % len(few)], orders) for i, own in enumerate(x)], dim=1)
    else:
        layers = [(own, y[i % len(y)]) for i, own in enumerate(x)]
        products = torch.stack([torch.cat([_by_rows(a, b, part) for part in shifts]) for a, b in layers], dim=1)
    x_diagonal, y_diagonal = diagonal(x), diagonal(y).expand(len(x), -1)
    on_diagonal = torch.stack([(x_diagonal * y_diagonal[:, order]).sum(1) for order in orders])
    totals = x_diagonal.sum(1) * y_diagonal.sum(1)
    return song_sum(products - on_diagonal, on_diagonal, totals, rows=x.shape[1]) / norm


Tail = Literal["counted", "moments"]


def family_wise_p(observed: np.ndarray, null: np.ndarray, *, tail: Tail = "counted") -> np.ndarray:
    """Probability, if nothing is related, that any cell lies as far above its null as this one does.

    Cells are compared in units of their own null's deviation, so that a noisy cell does not hide the others.

    Args:
        observed: Shape `(cells,)`; NaN cells stay NaN, and so do cells whose null does not vary.
        null: The same under permutations, shape `(permutations, cells)`.
        tail: `counted`, or `moments`: a cell above all permutations of all cells gets more digits than they can count,
            its `moment_matched_tail` times the number of cells where that is smaller; so times too large, not small.

    Returns:
        float64, shape `(cells,)`; counted at least `1 / (permutations + 1)`.

    Source:
        Westfall and Young 1993, single-step maxT.
    """
    known = np.isfinite(observed) & np.isfinite(null).all(0) & (np.ptp(null, axis=0) > 0)
    if not known.any():
        return np.full(observed.shape, np.nan)
    mean, deviation = null[:, known].mean(0), null[:, known].std(0)
    largest = ((null[:, known] - mean) / deviation).max(1)
    above = (largest[:, None] >= (observed[known] - mean) / deviation).sum(0)
    p = np.full(observed.shape, np.nan)
    p[known] = (1 + above) / (1 + len(null))
    if tail == "moments":
        beyond = np.flatnonzero(known)[above == 0]
        matched = known.sum() * moment_matched_tail(observed[beyond], null[:, beyond])
        p[beyond] = np.minimum(p[beyond], matched)
    return p


def moment_matched_tail(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Tail probabilities with more digits than permutations can count, from a Pearson III with the null's moments.

    Args:
        observed: Shape `(cells,)`.
        null: Shape `(permutations, cells)`; a few hundred pin down mean, deviation and skewness.

    Returns:
        float64, shape `(cells,)`; not corrected for the number of cells.

    Source:
        Josse, Pagès and Husson 2008, for the RV coefficient.
    """
    return pearson3.sf(observed, skew(null, axis=0), loc=null.mean(0), scale=null.std(0))


def _fewest_columns(rows: Tensor) -> Tensor:
    """As many columns as the rank, with the same kernel: centred one-hot rows, for one, have a column too many."""
    wide = rows.double()
    eigenvalues, axes = torch.linalg.eigh(wide.T @ wide)
    kept = eigenvalues > EMPTY * eigenvalues[-1]
    return (wide @ axes[:, kept]).to(rows) if kept.any() else rows


def _by_features(x: Tensor, y: Tensor, permutations: Tensor) -> Tensor:
    at_once = max(1, _ELEMENTS_AT_ONCE // (max(x.shape) * y.shape[1]))
    sums = []
    for orders in permutations.split(at_once):
        columns = y[orders].permute(1, 0, 2)  # (rows, permutations, columns)
        product = (x.T @ columns.flatten(1)).view(x.shape[1], len(orders), -1)
        sums.append(product.square().sum((0, 2), dtype=torch.float64))
    return torch.cat(sums)


def _by_rows(x: Tensor, y: Tensor, part: CircularShifts) -> Tensor:
    """Σᵢⱼ k(i, j) l(i + s, j + s): along each circular diagonal of the ordered kernels a circular correlation in s."""
    kernels = [_doubled_kernel(z[part.order]) for z in (x, y)]
    rows = len(x)
    spectrum = torch.zeros(rows // 2 + 1, dtype=torch.complex128, device=x.device)
    for first in range(0, rows // 2 + 1, _DIAGONALS_AT_ONCE):
        last = min(first + _DIAGONALS_AT_ONCE, rows // 2 + 1)
        k, other = (torch.fft.rfft(_circular_diagonals(kernel, first, last).double()) for kernel in kernels)
        products = k.conj() * other
        # diagonals d and rows − d of a symmetric kernel hold the same elements; 0 and rows / 2 are their own partners
        twice = [1.0 if 2 * offset in {0, rows} else 2.0 for offset in range(first, last)]
        spectrum += (products * torch.tensor(twice, dtype=torch.float64, device=x.device)[:, None]).sum(0)
    return torch.fft.irfft(spectrum, n=rows)[part.shifts]


def _doubled_kernel(rows: Tensor) -> Tensor:
    kernel = rows @ rows.T
    return torch.cat([kernel, kernel], dim=1)


def _circular_diagonals(doubled: Tensor, first: int, last: int) -> Tensor:
    """k(i, i + d) for offsets `first` ≤ d < `last`, as a view; shape `(offsets, rows)`."""
    rows = len(doubled)
    return doubled.as_strided((last - first, rows), (1, 2 * rows + 1), first)
