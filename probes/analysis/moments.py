"""Sums over rows that merge exactly, from which unbiased HSIC, canonical correlations and spectra of all rows follow.

With u = x − mean of x, every row x is lifted to (1, u, |u|²), and every row y to (1, v, |v|²). Outer products of lifted
rows, summed over rows, hold all second moments and the sums that HSIC needs. Shifting the mean is linear in lifted
rows:

    u → u − s        |u|² → |u|² − 2 s·u + |s|²

so the sums of two sets of rows are moved to their common mean and added. As each set keeps sums about its own mean, a
mean a million times larger than the spread costs no digits.

Packed layout, float64, shape `(layers, x_features + 2, y_features + 2)`; the sums of u and of v are 0, so the means
take their places:

    row count      mean of y      Σ|v|²
    mean of x      Σ u vᵀ         Σ u|v|²
    Σ|u|²          Σ|u|² v        Σ|u|²|v|²
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Second moments of two sides of one layer about their means; sums over rows, not divided by their number.

    Attributes:
        rows: Number of rows.
        xx: float64, shape `(x_features, x_features)`.
        yy: float64, shape `(y_features, y_features)`.
        xy: float64, shape `(x_features, y_features)`.
    """

    rows: int
    xx: Tensor
    yy: Tensor
    xy: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Moments:
        """The moments of one layer.

        Args:
            x: Shape `(rows, x_features)`.
            y: Shape `(rows, y_features)`, rows as in `x`.
        """
        x, y = x.double(), y.double()
        x, y = x - exact_mean(x), y - exact_mean(y)
        return cls(rows=len(x), xx=x.mT @ x, yy=y.mT @ y, xy=x.mT @ y)


def exact_mean(x: Tensor) -> Tensor:
    """Mean over rows, shape `(…, 1, features)`; the mean of equal rows is that row to the last bit, their spread 0."""
    first = x[..., :1, :]
    return first + (x - first).mean(dim=-2, keepdim=True)


def cross_moments(x: Tensor, y: Tensor) -> Tensor:
    """Packed sums of two sides of every layer.

    Args:
        x: Shape `(layers, rows, x_features)`, at least one row.
        y: Shape `(layers, rows, y_features)`, or one layer for all.

    Returns:
        float64, shape `(layers, x_features + 2, y_features + 2)`, in the layout of this module.
    """
    x, y = x.double(), y.double()
    x_mean, y_mean = exact_mean(x), exact_mean(y)
    return _with_means(_lifted(x - x_mean).mT @ _lifted(y - y_mean), x_mean.mT, y_mean)


def merge_moments(parts: Iterable[Tensor]) -> Tensor:
    """Packed sums of the union of disjoint sets of rows, equal to those computed from all rows at once.

    Args:
        parts: Packed sums of equal shape, or one tensor with the sets on its first axis. Sets without rows (all zeros)
            change nothing.
    """
    merged, *rest = parts
    for part in rest:
        if row_count(merged) == 0:
            merged = part
        elif row_count(part) > 0:
            merged = _merge_two(merged, part)
    return merged


def row_count(packed: Tensor) -> int:
    """How many rows packed sums are over."""
    return round(packed.flatten()[0].item())


def scatter(packed: Tensor) -> Tensor:
    """The sums Σ u vᵀ about the means, shape `(layers, x_features, y_features)`."""
    return packed[..., 1:-1, 1:-1]


def x_means(packed: Tensor) -> Tensor:
    """Means of the first side, shape `(layers, x_features)`."""
    return packed[..., 1:-1, 0]


def unpack_layers(xy: Tensor, xx: Tensor, yy: Tensor) -> list[Moments]:
    """Moments of every layer from packed sums of both sides together and of each with itself."""
    rows = row_count(xy)
    sides = zip(scatter(xx), scatter(yy), scatter(xy), strict=True)
    return [Moments(rows=rows, xx=within_x, yy=within_y, xy=between) for within_x, within_y, between in sides]


def _lifted(centred: Tensor) -> Tensor:
    """(1, u, |u|²) of every row u, shape `(…, rows, features + 2)`."""
    return torch.cat([torch.ones_like(centred[..., :1]), centred, centred.square().sum(-1, keepdim=True)], dim=-1)


def _with_means(sums: Tensor, x_mean: Tensor, y_mean: Tensor) -> Tensor:
    """A copy with a column `x_mean` and a row `y_mean` in place of the sums of u and of v."""
    packed = sums.clone()
    packed[..., 1:-1, :1] = x_mean
    packed[..., :1, 1:-1] = y_mean
    return packed


def _merge_two(one: Tensor, other: Tensor) -> Tensor:
    weight = other[..., :1, :1] / (one[..., :1, :1] + other[..., :1, :1])  # share of the rows in `other`
    x_mean = torch.lerp(one[..., 1:-1, :1], other[..., 1:-1, :1], weight)
    y_mean = torch.lerp(one[..., :1, 1:-1], other[..., :1, 1:-1], weight)
    sums = _about(one, x_mean, y_mean) + _about(other, x_mean, y_mean)
    return _with_means(sums, x_mean, y_mean)


def _about(packed: Tensor, x_centre: Tensor, y_centre: Tensor) -> Tensor:
    """Sums of lifted rows about another centre; `x_centre` is a column, `y_centre` a row."""
    x_shift, y_shift = x_centre - packed[..., 1:-1, :1], y_centre - packed[..., :1, 1:-1]
    sums = _with_means(packed, torch.zeros_like(x_shift), torch.zeros_like(y_shift))
    _shift_x(sums, x_shift)
    _shift_x(sums.mT, y_shift.mT)  # the transpose swaps the sides
    return sums


def _shift_x(sums: Tensor, shift: Tensor) -> None:
    """Replace u by u − s and |u|² by |u|² − 2 s·u + |s|² in sums of lifted rows, in place.

    The three row blocks hold the products of 1, u and |u|² with the lifted rows of the other side.
    """
    ones, linear, squares = sums[..., :1, :], sums[..., 1:-1, :], sums[..., -1:, :]
    squares += shift.mT @ shift * ones - 2 * shift.mT @ linear
    linear.addcmul_(shift, ones, value=-1)
