"""Linear CKA of matched layers with and without each row: the first of three steps to the interval of a CKA.

1. `cka_leave_one_out` (here) gives CKA of all rows, and of all rows but row i for every i;
2. `probes.analysis.intervals.jackknife_errors` scales the deviations between the latter into errors;
3. `probes.analysis.intervals.confidence_interval` makes Student's interval of them.

Step 1 computes no CKA from the start again. Let X and Y be centred, uᵢ and vᵢ their rows, K = XXᵀ and L = YYᵀ, and

    bᵢ = Kᵢᵢ Lᵢᵢ        pᵢ = Σⱼ Kᵢⱼ Lᵢⱼ = uᵢᵀ (XᵀY) vᵢ        T = Σᵢ pᵢ = ‖XᵀY‖²

**Biased.** Without row i, XᵀY becomes R = XᵀY − uᵢvᵢᵀ. The remaining rows have means −uᵢ/(n − 1) and −vᵢ/(n − 1);
centring them again therefore subtracts another uᵢvᵢᵀ/(n − 1):

    ‖R‖² = T − 2pᵢ + bᵢ
    ‖R − uᵢvᵢᵀ/(n − 1)‖² = ‖R‖² − 2 (pᵢ − bᵢ)/(n − 1) + bᵢ/(n − 1)²

**Unbiased.** Song's estimate does not depend on the means, so nothing is centred again. The rows of K sum to 0; without
row i, row j of the hollow K̃ therefore sums to −(Kⱼⱼ + Kᵢⱼ). The three sums over the rows j, m ≠ i are

    products    Σⱼₘ K̃ⱼₘ L̃ⱼₘ = (T − Σb) − 2 (pᵢ − bᵢ)
    row sums    Σⱼ (Kⱼⱼ + Kᵢⱼ)(Lⱼⱼ + Lᵢⱼ) = (Σb − bᵢ) + (cᵢ − 2bᵢ) + (pᵢ − bᵢ)
    totals      (tr K − 2Kᵢᵢ)(tr L − 2Lᵢᵢ)

with cᵢ = Σⱼ (Kᵢⱼ Lⱼⱼ + Lᵢⱼ Kⱼⱼ) over all rows j, i included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.analysis.similarity.hsic import (
    MIN_ROWS,
    centre_rows,
    cka_norm,
    kernel_diagonal,
    linear_unbiased_hsic,
    unbiased_hsic,
)

_BLOCK_ROWS = 512
"""Rows of a kernel held at once where two kernels are multiplied."""
_CACHED_BLOCK_ROWS = 256
"""Rows and columns of a block of one kernel, few enough for its square to stay in the processor's cache."""


@dataclass(frozen=True)
class LeaveOneOut:
    """A statistic of all rows, and of all rows but one; float64.

    Attributes:
        values: Shape `(layers,)`; NaN where the statistic is undefined.
        without_row: Shape `(layers, rows)`: the value without row `i`; NaN where the remaining rows leave it undefined.
    """

    values: Tensor
    without_row: Tensor


@dataclass(frozen=True)
class LeaveOneOutCKA(LeaveOneOut):
    """CKA of matched layers; NaN where a layer is constant, and if unbiased also where all rows but one are equal.

    Attributes:
        norm: What the HSIC of all rows was divided by, shape `(layers,)`; NaN where `values` is.
    """

    norm: Tensor


def cka_leave_one_out(x: Tensor, y: Tensor, *, debiased: bool = True) -> LeaveOneOutCKA:
    """Linear CKA of matched layers with and without each row, in about twice the time of the value alone.

    Args:
        x: Shape `(layers, rows, x_features)`.
        y: Shape `(layers, rows, y_features)`, or `(1, rows, y_features)` for all layers; row `i` as in `x`.
        debiased: As in `linear_cka`.

    Raises:
        ValueError: The row counts differ, or there are fewer than 5 rows, so that 4 remain without one.
    """
    if x.ndim != 3 or y.ndim != 3 or x.shape[1] != y.shape[1] or len(y) not in {1, len(x)}:
        raise ValueError(
            f"CKA of matched layers expects (layers, rows, features) twice, with equal rows and layers; got "
            f"{tuple(x.shape)}, {tuple(y.shape)}. Join both on their row ids first."
        )
    if x.shape[1] <= MIN_ROWS:
        raise ValueError(f"CKA without each row expects at least {MIN_ROWS + 1} rows; got {x.shape[1]}.")
    undefined, undefined_without_row = _undefined(x, y, least_deviating=2 if debiased else 1)
    x, y = centre_rows(x), centre_rows(y)
    sums = row_products(x, y)
    between = _hsic_leave_one_out(x, y, sums.xy, debiased=debiased)
    within_x = _hsic_leave_one_out(x, x, sums.xx, debiased=debiased)
    within_y = _hsic_leave_one_out(y, y, sums.yy, debiased=debiased)
    norm = cka_norm(within_x.values, within_y.values).masked_fill(undefined, torch.nan)
    norm_without_row = cka_norm(within_x.without_row, within_y.without_row)
    without_row = (between.without_row / norm_without_row).masked_fill(undefined_without_row, torch.nan)
    return LeaveOneOutCKA(between.values / norm, without_row, norm)


def deviating_rows(x: Tensor) -> Tensor:
    """Rows that differ from the most common row, in layers where nearly all rows are equal.

    Args:
        x: Shape `(layers, rows, features)`, at least 5 rows.

    Returns:
        bool, shape `(layers, rows)`. Exact where at most two rows deviate; where more do, more than two are marked.
    """
    first = x[:, :5]  # with at most two deviating rows, at least three of five are the most common row
    num_equal = (first[:, :, None] == first[:, None]).all(dim=3).sum(dim=2)  # (layers, 5)
    most_common = x[torch.arange(len(x), device=x.device), num_equal.argmax(1)]
    return (x != most_common[:, None]).any(dim=2)


@dataclass(frozen=True)
class RowProducts:
    """Row sums pᵢ of products of linear kernels, diagonal included; float64, shape `(layers, rows)` each.

    Attributes:
        xx: Of K ∘ K.
        xy: Of K ∘ L.
        yy: Of L ∘ L; one layer if y has one layer for all and `row_products` went by features.
    """

    xx: Tensor
    xy: Tensor
    yy: Tensor


def row_products(x: Tensor, y: Tensor) -> RowProducts:
    """Σⱼ Kᵢⱼ Lᵢⱼ of each row `i` for the three pairs of kernels.

    Computed in whichever form takes fewer multiplications: both kernels in blocks of rows, or each pair by itself.
    Where x and y are equal to the last bit, so are the three sums, and CKA is exactly 1.

    Args:
        x: Centred rows, shape `(layers, rows, x_features)`.
        y: Centred rows, shape `(layers, rows, y_features)`, or one layer for all.
    """
    rows, x_features, y_features = x.shape[1], x.shape[2], y.shape[2]
    squares_cost = sum(rows * min(rows / 2, 2 * features) * features for features in (x_features, y_features))
    if rows**2 * (x_features + y_features) < squares_cost + 2 * rows * x_features * y_features:
        return _products_by_rows(x, y)
    products = RowProducts(_square_products(x), _products_by_features(x, y), _square_products(y))
    if x_features == y_features:
        equal = (x == y).flatten(1).all(1)
        products.xy[equal] = products.xx[equal]  # the two forms round differently
    return products


def _hsic_leave_one_out(x: Tensor, y: Tensor, products: Tensor, *, debiased: bool) -> LeaveOneOut:
    """HSIC of matched layers of centred rows, with and without each row, by the equations of this module.

    Args:
        x: Centred rows, shape `(layers, rows, x_features)`.
        y: Centred rows, shape `(layers, rows, y_features)`, or one layer for all.
        products: pᵢ, shape `(layers, rows)`.
        debiased: Song's U-statistic, else tr(KHLH)/(rows − 1)².
    """
    x_diagonal = kernel_diagonal(x)  # (layers, rows), as all that follows
    y_diagonal = x_diagonal if x is y else kernel_diagonal(y)
    if not debiased:
        return _biased_without_row(products, x_diagonal * y_diagonal)
    x_times = _kernel_times(x, y_diagonal)
    y_times = x_times if x is y else _kernel_times(y, x_diagonal)
    return _unbiased_without_row(products, x_diagonal, y_diagonal, x_times + y_times)


def _biased_without_row(products: Tensor, b: Tensor) -> LeaveOneOut:
    rows = products.shape[1]
    total = products.sum(1, keepdim=True)
    remaining = total - 2 * products + b
    centred_again = remaining - 2 / (rows - 1) * (products - b) + b / (rows - 1) ** 2
    return LeaveOneOut(total[:, 0] / (rows - 1) ** 2, centred_again / (rows - 2) ** 2)


def _unbiased_without_row(products: Tensor, x_diagonal: Tensor, y_diagonal: Tensor, c: Tensor) -> LeaveOneOut:
    rows = products.shape[1]
    b = x_diagonal * y_diagonal
    total, b_total = products.sum(1, keepdim=True), b.sum(1, keepdim=True)
    x_trace, y_trace = x_diagonal.sum(1, keepdim=True), y_diagonal.sum(1, keepdim=True)
    off_diagonal = products - b
    values = linear_unbiased_hsic(total, b_total, x_trace * y_trace, rows=rows)
    without_row = unbiased_hsic(
        total - b_total - 2 * off_diagonal,
        b_total - b + (c - 2 * b) + off_diagonal,
        (x_trace - 2 * x_diagonal) * (y_trace - 2 * y_diagonal),
        rows=rows - 1,
    )
    return LeaveOneOut(values[:, 0], without_row)


def _products_by_rows(x: Tensor, y: Tensor) -> RowProducts:
    layers = []
    for i in range(len(x)):
        blocks = []
        for kx, ky in zip(_kernel_blocks(x[i]), _kernel_blocks(y[i % len(y)]), strict=True):  # (block rows, rows)
            blocks.append(torch.stack([(a * b).sum(1, dtype=torch.float64) for a, b in ((kx, kx), (kx, ky), (ky, ky))]))
        layers.append(torch.cat(blocks, dim=1))  # (3, rows)
    return RowProducts(*torch.stack(layers, dim=1))


def _kernel_blocks(rows: Tensor) -> Iterator[Tensor]:
    for block in rows.split(_BLOCK_ROWS):
        yield block @ rows.T


def _products_by_features(x: Tensor, y: Tensor) -> Tensor:
    """uᵢᵀ (XᵀY) vᵢ of each row, one layer after another."""
    layers = ((x[i], y[i % len(y)]) for i in range(len(x)))
    return torch.stack([((a @ (a.T @ b)) * b).sum(1, dtype=torch.float64) for a, b in layers])


def _square_products(x: Tensor) -> Tensor:
    """Row sums of each layer's squared kernel K ∘ K, from its lower triangle where rows are few."""
    if x.shape[1] > 4 * x.shape[2]:
        return _products_by_features(x, x)
    sums = x.new_zeros(x.shape[:2], dtype=torch.float64)
    for layer, layer_sums in zip(x, sums, strict=True):
        blocks, block_sums = layer.split(_CACHED_BLOCK_ROWS), layer_sums.split(_CACHED_BLOCK_ROWS)
        for i, block in enumerate(blocks):
            for j, other in enumerate(blocks[: i + 1]):
                squares = (block @ other.T).square_()
                block_sums[i].add_(squares.sum(1, dtype=torch.float64))
                if i != j:  # the mirror image of the block, above the diagonal
                    block_sums[j].add_(squares.sum(0, dtype=torch.float64))
    return sums


def _kernel_times(x: Tensor, weights: Tensor) -> Tensor:
    """Linear kernels times vectors as X (Xᵀ w), without the kernels; shape `(layers, rows)`.

    Args:
        x: Shape `(layers, rows, features)`, or one layer for all.
        weights: w, shape `(layers, rows)`, or one layer for all.
    """
    products = []
    for i in range(max(len(x), len(weights))):
        blocks = x[i % len(x)].split(_CACHED_BLOCK_ROWS)
        block_weights = weights[i % len(weights)].split(_CACHED_BLOCK_ROWS)
        sums = torch.stack([block.double().T @ w for block, w in zip(blocks, block_weights, strict=True)]).sum(0)
        products.append(torch.cat([block.double() @ sums for block in blocks]))
    return torch.stack(products)


def _undefined(x: Tensor, y: Tensor, *, least_deviating: int) -> tuple[Tensor, Tensor]:
    """Where CKA is 0 / 0, for all rows and without each; bool, `(layers,)` and `(layers, rows)`.

    The HSIC of a constant layer with anything is 0. The unbiased HSIC is 0 as well where all rows but one are equal, so
    that at least `least_deviating` = 2 rows must differ from the most common one, and 1 for the biased.
    """
    undefined = torch.zeros(len(x), x.shape[1] + 1, dtype=torch.bool, device=x.device)
    for deviating in (deviating_rows(x), deviating_rows(y)):
        none_left_out = torch.zeros_like(deviating[:, :1])
        remaining = deviating.sum(1, keepdim=True) - torch.cat([none_left_out, deviating], dim=1).int()
        undefined |= remaining < least_deviating
    return undefined[:, 0], undefined[:, 1:]
