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
    x, y = _centred(x), _centred(y)
    by_rows = rows * (len(x) * x.shape[2] + len(y) * y.shape[2] + len(x) * len(y))
    by_features = len(x) * len(y) * x.shape[2] * y.shape[2]
    products = (_products_by_rows if by_rows < by_features else _products_by_features)(x, y)
    if not debiased:
        return products / (rows - 1) ** 2
    return _unbiased(products, x, y)


def _centred(x: Tensor) -> Tensor:
    """Neither form changes by a shift; about the mean, rounding is smallest."""
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
    """Song's equation 5 with centred rows: K 1 = 0, so every sum over the hollow kernel is one over its diagonal."""
    rows = x.shape[1]
    x_diagonal, y_diagonal = (z.double().square().sum(2) for z in (x, y))
    on_diagonal = x_diagonal @ y_diagonal.T
    trace = products - on_diagonal
    totals = x_diagonal.sum(1)[:, None] * y_diagonal.sum(1)[None]
    total = trace + totals / ((rows - 1) * (rows - 2)) - 2 / (rows - 2) * on_diagonal
    return total / (rows * (rows - 3))
