"""Dependence of two linear kernels over the same rows: biased and unbiased HSIC of all pairs of layers at once."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_ROWS = 4
_BLOCK_ROWS = 512


def hsic_pairs(x: Tensor, y: Tensor, *, debiased: bool = True) -> Tensor:
    """HSIC between every layer of one stack of activations and every layer of another.

    Kernels are linear. Products are float32 (float64 for float64 input), sums float64, in whichever form takes fewer
    multiplications: rows × rows in blocks, or features × features.

    Args:
        x: Shape `(x_layers, rows, x_features)`.
        y: Shape `(y_layers, rows, y_features)`; row `i` is the same sample as row `i` of `x`.
        debiased: The unbiased U-statistic, which is 0 on average for independent rows and may be negative; else the
            biased tr(KHLH)/(rows − 1)².

    Returns:
        float64, shape `(x_layers, y_layers)`, in units of squared activation of x times that of y.

    Raises:
        ValueError: The row counts differ, or there are fewer than 4 rows.

    Source:
        Gretton et al. 2005; unbiased: Song et al. 2012, JMLR 13, equation 5.
    """
    if x.ndim != 3 or y.ndim != 3 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"HSIC wants (layers, rows, features) twice, with equal rows; got {tuple(x.shape)}, {tuple(y.shape)}. "
            "Join both on their row ids first."
        )
    rows = x.shape[1]
    if rows < MIN_ROWS:
        raise ValueError(f"HSIC wants at least {MIN_ROWS} rows; got {rows}.")
    x, y = centred(x), centred(y)
    by_rows = rows * (len(x) * x.shape[2] + len(y) * y.shape[2] + len(x) * len(y))
    by_features = len(x) * len(y) * x.shape[2] * y.shape[2]
    products = (_products_by_rows if by_rows < by_features else _products_by_features)(x, y)
    if not debiased:
        return products / (rows - 1) ** 2
    return _unbiased(products, x, y)


def centred(x: Tensor) -> Tensor:
    """Rows about their mean, which no HSIC of linear kernels changes by; about the mean, rounding is smallest."""
    wide = x.double()
    centred = wide - wide.mean(dim=1, keepdim=True)
    return centred if x.dtype == torch.float64 else centred.float()


def _products_by_features(x: Tensor, y: Tensor) -> Tensor:
    """Sums over all elements of K ∘ L as ‖xᵀy‖², one row of layer pairs after another."""
    return torch.stack([(layer.T @ y).double().square().sum((-1, -2)) for layer in x])


def _products_by_rows(x: Tensor, y: Tensor) -> Tensor:
    """Sums over all elements of K ∘ L from blocks of rows of the kernels, the lower triangle counted twice."""
    total = x.new_zeros(len(x), len(y), dtype=torch.float64)
    rows = x.shape[1]
    for start in range(0, rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, rows)
        for first, last, weight in ((start, stop, 1.0), (0, start, 2.0)):
            if last > first:
                kernel = (x[:, start:stop] @ x[:, first:last].mT).flatten(1)
                other = (y[:, start:stop] @ y[:, first:last].mT).flatten(1)
                total += weight * (kernel @ other.T).double()
    return total


def _unbiased(products: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """With centred rows K 1 = 0, so every sum over the hollow kernel is one over its diagonal."""
    x_diagonal, y_diagonal = diagonal(x), diagonal(y)
    on_diagonal = x_diagonal @ y_diagonal.T
    totals = x_diagonal.sum(1)[:, None] * y_diagonal.sum(1)[None]
    return song_sum(products - on_diagonal, on_diagonal, totals, rows=x.shape[1])


def song_sum(trace: Tensor, row_sums: Tensor, totals: Tensor, *, rows: int) -> Tensor:
    """Unbiased HSIC from sums over two hollow kernels (Song et al. 2012, equation 5).

    Args:
        trace: Sum over all elements of their elementwise product.
        row_sums: Inner product of their row sums.
        totals: Product of their sums over all elements.
        rows: Rows of the kernels.
    """
    return (trace + totals / ((rows - 1) * (rows - 2)) - 2 / (rows - 2) * row_sums) / (rows * (rows - 3))


def diagonal(x: Tensor) -> Tensor:
    """Diagonals of linear kernels: squared norms of rows; float64, shape `(layers, rows)`."""
    return x.double().square().sum(2)


def is_constant(x: Tensor) -> Tensor:
    """Whether all rows of a layer are equal; bool, shape `(layers,)`."""
    return (x == x[:, :1]).all(dim=2).all(dim=1)
