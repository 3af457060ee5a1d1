"""The biased CKA that unrelated activations have at this number of rows and with these spectra."""

from __future__ import annotations

import torch
from torch import Tensor

from probes.analysis.hsic import centred, diagonal, is_constant
from probes.analysis.leave_one_out import row_products


def biased_cka_floor(x: Tensor, y: Tensor) -> Tensor:
    """Mean of the biased linear CKA over all ways to match the rows of matched layers.

    Centred kernels permuted against each other have tr(K) tr(L) / (rows − 1) in common on average, exactly. Divided by
    their norms this is √(rank of K · rank of L) / (rows − 1), with the ranks as participation ratios: high for wide,
    round data and few rows.

    Args:
        x: Shape `(layers, rows, x_features)`.
        y: Shape `(layers, rows, y_features)`, or one layer for all.

    Returns:
        float64, shape `(layers,)`; NaN for a constant layer.

    >>> x, y = torch.randn(2, 1, 64, 768, generator=torch.Generator().manual_seed(0))
    >>> round(biased_cka_floor(x, y).item(), 2)
    0.92
    """
    constant = is_constant(x) | is_constant(y)
    x, y = centred(x), centred(y)
    sums = row_products(x, y)
    shared = diagonal(x).sum(1) * diagonal(y).sum(1) / (x.shape[1] - 1)
    return torch.where(constant, torch.nan, shared / (sums.xx.sum(1) * sums.yy.sum(1)).sqrt())
