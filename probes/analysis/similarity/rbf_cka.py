"""Centred kernel alignment with Gaussian kernels: alike in local structure, not only in directions of variance."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from probes.analysis.invariances import by_layer, invariant_to, require_matched_rows
from probes.analysis.similarity.hsic import MIN_ROWS
from probes.analysis.similarity.neighbours import symmetric


@invariant_to("rotation", "scale", "shift")
def rbf_cka(x: Tensor, y: Tensor, *, debiased: bool = True, bandwidth: float = 1.0) -> Tensor:
    """Similarity of matched layers by CKA with the kernel exp(−distance² / 2 sigma²).

    sigma is `bandwidth` times the median of the distances between different rows of that layer, so that scale does not
    matter. As `bandwidth` grows the value tends to `linear_cka`. Below 1 it weighs near neighbours more; far below, the
    kernel is a diagonal and nothing is left to compare. Do not bootstrap: repeated rows look like similarity.

    Args:
        x: Shape `(layers, rows, x_features)`.
        y: Shape `(layers, rows, y_features)`; row `i` is the same sample as row `i` of `x`.
        debiased: Use the unbiased HSIC estimate in all three places. With `False`, unrelated layers look alike: on
            Gaussian noise 768 wide the mean is 0.95 at 64 samples and still 0.39 at 2,048.
        bandwidth: sigma in medians of the distances, positive.

    Returns:
        float64, shape `(layers,)`, dimensionless, not clamped: in [0, 1] if biased; if debiased at most 1 and scattered
        around 0, negatives included, for unrelated layers. NaN where a layer is constant or more than half of its
        pairs of rows are duplicates (sigma is then 0).

    Raises:
        ValueError: Fewer than 4 rows, layers or rows that don't match, non-finite rows, `bandwidth` not positive.

    Source:
        Kornblith et al. 2019, arXiv:1905.00414, section 5. Unbiased HSIC: Song et al. 2012.

    >>> x = torch.randn(1, 100, 8, generator=torch.Generator().manual_seed(0))
    >>> round(rbf_cka(x, 3 * x.flip(2) + 1).item(), 6)
    1.0
    """
    if not bandwidth > 0:
        raise ValueError(f"`bandwidth` expects a positive number of median distances; got {bandwidth}.")
    require_matched_rows(x, y)
    return by_layer(partial(_cka, debiased=debiased, bandwidth=bandwidth), x, y)


def kernel_hsic(kernel: Tensor, other: Tensor, *, debiased: bool = True) -> Tensor:
    """HSIC of two kernels over the same rows, which need not be centred.

    Args:
        kernel: float64, symmetric, shape `(rows, rows)`.
        other: The same.
        debiased: The unbiased U-statistic, 0 on average for independent rows, which leaves both diagonals out; else
            the biased tr(KHLH)/(rows − 1)².

    Returns:
        float64 scalar.

    Raises:
        ValueError: The shapes differ or are not square, or there are fewer than 4 rows.

    Source:
        Gretton et al. 2005; unbiased: Song et al. 2012, JMLR 13, equation 5.
    """
    if kernel.shape != other.shape or kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"HSIC expects two kernels (rows, rows); got {tuple(kernel.shape)}, {tuple(other.shape)}.")
    if len(kernel) < MIN_ROWS:
        raise ValueError(f"HSIC expects at least {MIN_ROWS} rows; got {len(kernel)}.")
    return _unbiased(kernel, other) if debiased else _biased(kernel, other)


def _biased(kernel: Tensor, other: Tensor) -> Tensor:
    centred = kernel - kernel.mean(dim=0) - kernel.mean(dim=1, keepdim=True) + kernel.mean()
    return (centred * other).sum() / (len(kernel) - 1) ** 2


def _unbiased(kernel: Tensor, other: Tensor) -> Tensor:
    rows = len(kernel)
    hollow, other_hollow = (k.clone().fill_diagonal_(0) for k in (kernel, other))
    sums, other_sums = hollow.sum(dim=1), other_hollow.sum(dim=1)
    total = (hollow * other_hollow).sum() - 2 / (rows - 2) * sums @ other_sums
    total = total + sums.sum() * other_sums.sum() / ((rows - 1) * (rows - 2))
    return total / (rows * (rows - 3))


def _cka(x: Tensor, y: Tensor, *, debiased: bool, bandwidth: float) -> Tensor:
    kernel, other = _gaussian_kernel(x, bandwidth), _gaussian_kernel(y, bandwidth)
    within = kernel_hsic(kernel, kernel, debiased=debiased)
    other_within = kernel_hsic(other, other, debiased=debiased)
    scale = (within * other_within).sqrt()
    return torch.where(scale > 0, kernel_hsic(kernel, other, debiased=debiased) / scale, torch.nan)


def _gaussian_kernel(points: Tensor, bandwidth: float) -> Tensor:
    """The kernel less 1 everywhere: HSIC is the same, and wide bandwidths lose no digits."""
    pairs = torch.pdist(points)
    sigma = bandwidth * _median(pairs)
    return symmetric(torch.expm1(-(pairs / sigma).square() / 2), len(points))


def _median(values: Tensor) -> Tensor:
    """The middle value, or the mean of the two in the middle (`torch.median` takes the lower)."""
    last = len(values) - 1
    return values.sort().values[[last // 2, last - last // 2]].mean()
