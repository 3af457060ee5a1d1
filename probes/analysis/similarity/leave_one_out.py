"""HSIC and CKA of matched layers, and what they would be without each row: the jackknife's raw material."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.analysis.similarity.hsic import MIN_ROWS, centred, diagonal, song_sum

_BLOCK_ROWS = 512
_OWN_BLOCK_ROWS = 256
"""Few enough for what is made of them to stay in the cache."""


@dataclass(frozen=True)
class LeaveOneOut:
    """A statistic of all rows, and of all rows but one; float64.

    Attributes:
        values: Shape `(layers,)`; NaN where a layer is constant, or unbiased and all rows but one are equal.
        without: Shape `(layers, rows)`: the value without row `i`; NaN where that is so of the others.
    """

    values: Tensor
    without: Tensor


@dataclass(frozen=True)
class Alignment(LeaveOneOut):
    """CKA of matched layers; `norm`, `(layers,)`, is what their HSIC was divided by."""

    norm: Tensor


def cka_leave_one_out(x: Tensor, y: Tensor, *, debiased: bool = True) -> Alignment:
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
    undefined, undefined_without = _undefined(x, y, least_odd_rows=2 if debiased else 1)
    x, y = centred(x), centred(y)
    sums = row_products(x, y)
    between = hsic_leave_one_out(x, y, sums.xy, debiased=debiased)
    within_x = hsic_leave_one_out(x, x, sums.xx, debiased=debiased)
    within_y = hsic_leave_one_out(y, y, sums.yy, debiased=debiased)
    values, norm = _ratio(between.values, within_x.values * within_y.values, undefined)
    without, _ = _ratio(between.without, within_x.without * within_y.without, undefined_without)
    return Alignment(values, without, norm)


def odd_rows(x: Tensor) -> Tensor:
    """Rows that differ from the others where nearly all rows of a layer are equal; bool, shape `(layers, rows)`.

    Exact where at most two rows differ, of five or more; where more do, more than two are named.
    """
    first = x[:, :5]
    alike = (first[:, :, None] == first[:, None]).all(dim=3).sum(dim=2)
    usual = x[torch.arange(len(x), device=x.device), alike.argmax(1)]
    return (x != usual[:, None]).any(dim=2)


def hsic_leave_one_out(x: Tensor, y: Tensor, products: Tensor, *, debiased: bool) -> LeaveOneOut:
    """HSIC of matched layers of centred rows, with and without each row.

    Leaving out row `i` shifts the mean of the rest; the sums say what it would be without computing it anew.

    Args:
        x: Centred rows, shape `(layers, rows, x_features)`.
        y: Centred rows, shape `(layers, rows, y_features)`, or one layer for all.
        products: Row sums of the product of their kernels, diagonal included; shape `(layers, rows)`.
        debiased: Song's U-statistic, else tr(KHLH)/(rows − 1)².
    """
    rows = products.shape[1]
    same = x is y
    x_diagonal = diagonal(x)
    y_diagonal = x_diagonal if same else diagonal(y)
    both = x_diagonal * y_diagonal
    total = products.sum(1, keepdim=True)
    if not debiased:
        rest = total - 2 * products + both
        without = rest - 2 / (rows - 1) * (products - both) + both / (rows - 1) ** 2
        return LeaveOneOut(total[:, 0] / (rows - 1) ** 2, without / (rows - 2) ** 2)
    # Over hollow kernels: rows sum to −k(i, i) because they are centred; without row i, to −k(j, j) − k(i, j).
    x_total, y_total = x_diagonal.sum(1, keepdim=True), y_diagonal.sum(1, keepdim=True)
    on_diagonal, off_diagonal = both.sum(1, keepdim=True), products - both
    x_times = _kernel_times(x, y_diagonal)
    crossed = x_times + (x_times if same else _kernel_times(y, x_diagonal)) - 2 * both
    values = song_sum(total - on_diagonal, on_diagonal, x_total * y_total, rows=rows)
    without = song_sum(
        total - on_diagonal - 2 * off_diagonal,
        on_diagonal - both + crossed + off_diagonal,
        (x_total - 2 * x_diagonal) * (y_total - 2 * y_diagonal),
        rows=rows - 1,
    )
    return LeaveOneOut(values[:, 0], without)


@dataclass(frozen=True)
class RowProducts:
    """Row sums of products of linear kernels, diagonal included; float64, shape `(layers, rows)`."""

    xx: Tensor
    xy: Tensor
    yy: Tensor


def row_products(x: Tensor, y: Tensor) -> RowProducts:
    """Σⱼ k(i, j) l(i, j) of each row `i` for the three pairs of kernels, of centred rows.

    Whichever takes fewer multiplications: both kernels in blocks of rows, or each pair by itself.
    """
    rows, x_features, y_features = x.shape[1], x.shape[2], y.shape[2]
    own = sum(rows * min(rows / 2, 2 * features) * features for features in (x_features, y_features))
    if rows**2 * (x_features + y_features) < own + 2 * rows * x_features * y_features:
        return _by_rows(x, y)
    return RowProducts(_own(x), _by_features(x, y), _own(y))


def _by_rows(x: Tensor, y: Tensor) -> RowProducts:
    sums = []
    for i in range(len(x)):
        parts = []
        for kx, ky in zip(_kernel_blocks(x[i]), _kernel_blocks(y[i % len(y)]), strict=True):
            parts.append(torch.stack([(a * b).sum(1, dtype=torch.float64) for a, b in ((kx, kx), (kx, ky), (ky, ky))]))
        sums.append(torch.cat(parts, dim=1))
    return RowProducts(*torch.stack(sums, dim=1))


def _kernel_blocks(rows: Tensor) -> Iterator[Tensor]:
    for block in rows.split(_BLOCK_ROWS):
        yield block @ rows.T


def _by_features(x: Tensor, y: Tensor) -> Tensor:
    """xᵢᵀ (Xᵀ Y) yᵢ of each row, one layer after another."""
    layers = ((x[i], y[i % len(y)]) for i in range(len(x)))
    return torch.stack([((a @ (a.T @ b)) * b).sum(1, dtype=torch.float64) for a, b in layers])


def _own(x: Tensor) -> Tensor:
    """Row sums of each layer's squared kernel, of which half is computed."""
    if x.shape[1] > 4 * x.shape[2]:
        return _by_features(x, x)
    sums = x.new_zeros(x.shape[:2], dtype=torch.float64)
    for layer, of_layer in zip(x, sums, strict=True):
        blocks, of_blocks = layer.split(_OWN_BLOCK_ROWS), of_layer.split(_OWN_BLOCK_ROWS)
        for i, block in enumerate(blocks):
            for j, other in enumerate(blocks[: i + 1]):
                squares = (block @ other.T).square_()
                of_blocks[i].add_(squares.sum(1, dtype=torch.float64))
                if i != j:
                    of_blocks[j].add_(squares.sum(0, dtype=torch.float64))
    return sums


def _kernel_times(x: Tensor, weights: Tensor) -> Tensor:
    """Linear kernels times vectors, without the kernels; `(layers, rows)`, where one side may be one for all."""
    products = []
    for i in range(max(len(x), len(weights))):
        parts, own = x[i % len(x)].split(_OWN_BLOCK_ROWS), weights[i % len(weights)].split(_OWN_BLOCK_ROWS)
        sums = torch.stack([part.double().T @ w for part, w in zip(parts, own, strict=True)]).sum(0)
        products.append(torch.cat([part.double() @ sums for part in parts]))
    return torch.stack(products)


def _undefined(x: Tensor, y: Tensor, *, least_odd_rows: int) -> tuple[Tensor, Tensor]:
    """Where CKA is 0 / 0, for all rows and without each: `(layers,)` and `(layers, rows)`.

    A constant layer has no HSIC with anything; one with a single odd row has no unbiased HSIC either.
    """
    undefined = torch.zeros(len(x), x.shape[1] + 1, dtype=torch.bool, device=x.device)
    for odd in (odd_rows(x), odd_rows(y)):
        remaining = odd.sum(1, keepdim=True) - torch.cat([torch.zeros_like(odd[:, :1]), odd], dim=1).int()
        undefined |= remaining < least_odd_rows
    return undefined[:, 0], undefined[:, 1:]


def _ratio(between: Tensor, within: Tensor, undefined: Tensor) -> tuple[Tensor, Tensor]:
    norm = torch.where(undefined | ~(within > 0), torch.nan, within).sqrt()
    return between / norm, norm
