"""Values and errors of spectral quantities from one eigendecomposition a layer: the infinitesimal jackknife."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from probes.analysis.hsic import centred, is_constant
from probes.analysis.spectra import EMPTY
from probes.threads import map_on_cores


def spectral_jackknife(x: Tensor, of_shares: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """A function of a layer's covariance spectrum, and how each row moves it.

    A little more weight on row `i` moves the eigenvalue of direction `u` by (u·xᵢ)² − λ. So one decomposition with
    directions gives the derivative of the quantity by every row's weight, in place of a decomposition without each row.

    Args:
        x: Shape `(layers, rows, features)`.
        of_shares: Differentiable; eigenvalue shares `(directions,)` to a number, such as `effective_rank_of_shares`.

    Returns:
        Values `(layers,)` and errors `(rows, layers)`, scaled as in `jackknife_errors`; float64, NaN for a constant
        layer.

    Source:
        Efron 1982, "The jackknife, the bootstrap and other resampling plans", chapter 6.
    """
    parts = map_on_cores(lambda layer: _of_layer(layer, of_shares), centred(x), x.device)
    values, errors = torch.stack([value for value, _ in parts]), torch.stack([own for _, own in parts], dim=1)
    constant = is_constant(x)
    return values.masked_fill(constant, torch.nan), errors.masked_fill(constant, torch.nan)


def _of_layer(rows: Tensor, of_shares: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    variances, moves = _directions(rows)
    kept = variances > EMPTY * variances[-1]
    shares = (variances[kept] / variances[kept].sum()).requires_grad_()
    with torch.enable_grad():
        value = of_shares(shares)
    (slope,) = torch.autograd.grad(value, shares)
    slope = slope - (slope * shares).sum()  # shares sum to 1 whatever the variances do
    return value.detach(), moves[:, kept] @ (slope * shares).detach() / len(rows)


def _directions(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of the covariance, and for every row and direction (u·x)² / λ − 1; float64."""
    count, features = rows.shape
    if count <= features:
        variances, left = torch.linalg.eigh((rows @ rows.T).double() / count)
        return variances, count * left.square() - 1
    variances, directions = torch.linalg.eigh((rows.T @ rows).double() / count)
    return variances, (rows.double() @ directions).square() / variances - 1
