"""How many directions a layer's rows occupy: functions of the eigenvalues of its covariance, and their standard errors.

Notation: X is a layer of n rows and d features, centred by default, and λ₁ … λ_m are the eigenvalues of XᵀX or, where
n < d, of XXᵀ, which has the same ones apart from zeros. Shares are pᵢ = λᵢ / Σλ; none of the quantities depends on the
scale of X, so no eigenvalue is ever divided by n or n − 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from probes.analysis.invariances import invariant_to, require_rows
from probes.analysis.moments import exact_mean
from probes.analysis.similarity.hsic import centre_rows, is_constant
from probes.threads import map_on_cores

NEGLIGIBLE_EIGENVALUE = 1e-12
"""Eigenvalues below this share of the largest are rounding errors and count as 0."""
_ELEMENTS_PER_CHUNK = 2**25
"""Matrix elements held at once at most: 256 MiB in float64."""


@invariant_to("rotation", "scale", "shift")
def effective_rank(x: Tensor) -> Tensor:
    """Effective rank of a layer's covariance: exp(−Σ p log p) over its eigenvalue shares p.

    This is Roy and Vetterli's definition applied to the covariance matrix, whose singular values are variances. Applied
    to the data matrix it would use standard deviations and give larger values. It equals 2 to the power of
    `matrix_entropy` in bits, as `participation_ratio` does for order 2.

    Biased downwards, most with few rows: for an isotropic Gaussian of 576 features, whose true value is 576, it is 90.8
    with 100 rows and 432 with 1,000.

    Args:
        x: Shape `(layers, rows, features)`.

    Returns:
        float64, shape `(layers,)`, in directions, from 1 to min(rows − 1, features); NaN where a layer is constant.

    Raises:
        ValueError: Fewer than 4 rows, or rows that are not finite.

    Source:
        Roy and Vetterli 2007, EUSIPCO, "The effective rank".
    """
    return effective_rank_of_shares(eigenvalue_shares(x))


@invariant_to("rotation", "scale", "shift")
def matrix_entropy(x: Tensor, *, alpha: float = 1.0, normalise: bool = True, centred: bool = True) -> Tensor:
    """Matrix-based Rényi entropy log2(Σ p^alpha) / (1 − alpha), with p the eigenvalues of XXᵀ / tr(XXᵀ).

    XXᵀ is the Gram matrix of a linear kernel. Biased downwards with few rows: for an isotropic Gaussian of 576
    features, whose true entropy is 9.17 bits, it is 6.50 bits with 100 rows and 8.75 with 1,000. Normalised, these are
    0.979 and 0.955 while the truth is 1, so normalised values from different numbers of rows are not comparable.

    Args:
        x: Shape `(layers, rows, features)`.
        alpha: Order of the entropy. 1 is Shannon's (the limit), 2 is log2 of `participation_ratio`, and infinity
            depends on the largest eigenvalue alone.
        normalise: Divide by the largest possible value, log2(min(rows, features)); otherwise the unit is bits.
        centred: Subtract the mean row first. Without it, the mean direction of all rows counts as one of the
            directions, as in Skean et al.

    Returns:
        float64, shape `(layers,)`; NaN where a layer is constant, and if normalised where min(rows, features) is 1.

    Raises:
        ValueError: `alpha` is not positive, there are fewer than 4 rows, or rows are not finite.

    Source:
        Giraldo, Rao and Príncipe 2015, arXiv:1211.2459; Skean et al. 2025, arXiv:2502.02013.
    """
    require_renyi_order(alpha)
    bits = renyi_entropy_bits(eigenvalue_shares(x, centred=centred), alpha)
    return normalised_entropy(bits, x.shape[1], x.shape[2]) if normalise else bits


@invariant_to("rotation", "scale", "shift")
def participation_ratio(x: Tensor) -> Tensor:
    """Participation ratio of a layer's covariance: (Σλ)² / Σλ² over its eigenvalues λ.

    Large eigenvalues weigh more than in `effective_rank`, which is never smaller. Biased downwards: for an isotropic
    Gaussian of 576 features, whose true value is 576, it is 84.3 with 100 rows and 365 with 1,000, which is about
    1 / (1/576 + 1/rows).

    Args:
        x: Shape `(layers, rows, features)`.

    Returns:
        float64, shape `(layers,)`, in directions, from 1 to min(rows − 1, features); NaN where a layer is constant.

    Raises:
        ValueError: Fewer than 4 rows, or rows that are not finite.

    Source:
        Gao et al. 2017, bioRxiv 214262, "A theory of multineuronal dimensionality".
    """
    require_rows(x)
    ratios = torch.cat([participation_of_moments(matrices) for matrices in _second_moments(x, centred=True)])
    return _nan_where_constant(ratios, x)


def eigenvalue_shares(x: Tensor, *, centred: bool = True) -> Tensor:
    """Share of a layer's variance along each principal direction.

    Args:
        x: Shape `(layers, rows, features)`.
        centred: Subtract the mean row first; otherwise the shares are of the mean square about zero.

    Returns:
        float64, shape `(layers, min(rows, features))`, ascending, summing to 1; NaN where a layer is constant.

    Raises:
        ValueError: Fewer than 4 rows, or rows that are not finite.
    """
    require_rows(x)
    shares = torch.cat([shares_of_moments(matrices) for matrices in _second_moments(x, centred=centred)])
    return _nan_where_constant(shares, x)


def spectral_jackknife(x: Tensor, of_shares: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """A function of a layer's eigenvalue shares, and its infinitesimal jackknife errors.

    Let ε of the weight move from all rows, which have 1/n each, to row i. By first-order perturbation theory an
    eigenvalue λ of the covariance, with unit eigenvector u, then changes at the rate

        dλ / dε = (u·xᵢ)² − λ

    where xᵢ is centred. By the chain rule, one eigendecomposition gives the derivative of the quantity with respect to
    every row's weight (its empirical influence function), where the ordinary jackknife needs one decomposition per row.

    Args:
        x: Shape `(layers, rows, features)`.
        of_shares: Differentiable function of the non-zero eigenvalue shares, shape `(directions,)`, to a scalar, such
            as `effective_rank_of_shares`.

    Returns:
        Values `(layers,)` and errors `(rows, layers)`, the influence of each row divided by n, scaled as in
        `jackknife_errors`; float64, NaN where a layer is constant.

    Source:
        Efron 1982, "The jackknife, the bootstrap and other resampling plans", chapter 6.
    """
    by_layer = map_on_cores(lambda layer: _influences(layer, of_shares), centre_rows(x), x.device)
    values = torch.stack([value for value, _ in by_layer])
    errors = torch.stack([influences for _, influences in by_layer], dim=1)
    constant = is_constant(x)
    return values.masked_fill(constant, torch.nan), errors.masked_fill(constant, torch.nan)


def shares_of_moments(matrices: Tensor) -> Tensor:
    """Eigenvalue shares of Gram or scatter matrices, `(layers, n, n)` → ascending `(layers, n)`; NaN for zeros."""
    values = torch.linalg.eigvalsh(matrices)
    values = torch.where(values > NEGLIGIBLE_EIGENVALUE * values[:, -1:], values, 0)
    return values / values.sum(dim=1, keepdim=True)


def participation_of_moments(matrices: Tensor) -> Tensor:
    """Participation ratio of Gram or scatter matrices, `(layers, n, n)` → `(layers,)`; NaN for zeros.

    No eigenvalues are needed: (Σλ)² / Σλ² = tr(M)² / ‖M‖², the norm being Frobenius'.
    """
    trace = matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
    return 1 / (matrices / trace[:, None, None]).square().sum((-1, -2))


def effective_rank_of_shares(shares: Tensor) -> Tensor:
    """exp(−Σ p log p) over the last axis, a number of directions."""
    return torch.special.entr(shares).sum(-1).exp()


def renyi_entropy_bits(shares: Tensor, alpha: float) -> Tensor:
    """Rényi entropy of order `alpha` over the last axis, in bits."""
    if alpha == 1:
        return torch.special.entr(shares).sum(-1) / math.log(2)
    if math.isinf(alpha):
        return -shares.amax(-1).log2()
    return shares.pow(alpha).sum(-1).log2() / (1 - alpha)


def normalised_entropy(bits: Tensor, rows: int, features: int) -> Tensor:
    """Entropies divided by their maximum, log2(min(rows, features)); NaN where that is 0."""
    return bits / (math.log2(min(rows, features)) or math.nan)


def require_renyi_order(alpha: float) -> None:
    """Check the order of a Rényi entropy.

    Raises:
        ValueError: `alpha` is not above 0.
    """
    if not alpha > 0:
        raise ValueError(f"`alpha`, the order of the Rényi entropy, must be above 0; got {alpha}.")


def _second_moments(x: Tensor, *, centred: bool) -> Iterator[Tensor]:
    """XᵀX or XXᵀ, whichever is smaller, float64 `(layers, n, n)`, for as many layers at once as memory allows."""
    rows, features = x.shape[1:]
    elements_per_layer = min(rows, features) ** 2 + rows * features
    for layers in x.split(max(1, _ELEMENTS_PER_CHUNK // elements_per_layer)):
        wide = layers.double()
        if centred:
            wide = wide - exact_mean(wide)
        yield wide @ wide.mT if rows < features else wide.mT @ wide


def _nan_where_constant(values: Tensor, x: Tensor) -> Tensor:
    """Values `(layers, …)` with NaN for the layers of `x` whose rows are all equal, where rounding left a spectrum."""
    return values.masked_fill(is_constant(x).view(-1, *[1] * (values.ndim - 1)), torch.nan)


def _influences(rows: Tensor, of_shares: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Value of one centred layer `(rows, features)` and the influence of each row on it over n, `(rows,)`."""
    eigenvalues, relative_changes = _eigenvalue_influences(rows)
    kept = eigenvalues > NEGLIGIBLE_EIGENVALUE * eigenvalues[-1]
    shares = (eigenvalues[kept] / eigenvalues[kept].sum()).requires_grad_()
    with torch.enable_grad():  # threads of `map_on_cores` do not inherit the caller's gradient mode
        value = of_shares(shares)
    (gradient,) = torch.autograd.grad(value, shares)
    # Σp = 1 whatever the eigenvalues do: dpⱼ = pⱼ (dλⱼ/λⱼ − Σₖ pₖ dλₖ/λₖ), which removes the mean gradient
    gradient = gradient - (gradient * shares).sum()
    return value.detach(), relative_changes[:, kept] @ (gradient * shares).detach() / len(rows)


def _eigenvalue_influences(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues λ `(m,)` of one layer's covariance XᵀX/n, and (u·xᵢ)² / λ − 1 of each row and direction `(rows, m)`.

    With fewer rows than features they come from XXᵀ/n = VΛVᵀ: u·xᵢ = √(nλ) vᵢ, so (u·xᵢ)² / λ = n vᵢ².
    """
    count, features = rows.shape
    if count <= features:
        eigenvalues, left = torch.linalg.eigh((rows @ rows.T).double() / count)
        return eigenvalues, count * left.square() - 1
    eigenvalues, directions = torch.linalg.eigh((rows.T @ rows).double() / count)
    return eigenvalues, (rows.double() @ directions).square() / eigenvalues - 1
