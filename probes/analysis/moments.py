"""Sums over rows that merge exactly: enough for unbiased HSIC, canonical correlations and spectra of the whole sample.

About its mean, a row x becomes the lifted row (1, u, |u|²) with u = x − mean. Sums of products of lifted rows of two
sides hold everything, and moving the centre is linear in them, so two parts with different means merge exactly. They
are kept about their own means: a mean a million times the spread costs no digits.

Packed layout, float64, shape `(layers, x_features + 2, y_features + 2)`:

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
    """Mean over rows, shape `(…, 1, features)`; of equal rows it is that row to the last bit, so their spread is 0."""
    first = x[..., :1, :]
    return first + (x - first).mean(dim=-2, keepdim=True)


def cross_moments(x: Tensor, y: Tensor) -> Tensor:
    """Packed sums of two sides of every layer.

    Args:
        x: Shape `(layers, rows, x_features)`, at least one row.
        y: Shape `(layers, rows, y_features)`, or one layer for all.

    Returns:
        float64, shape `(layers, x_features + 2, y_features + 2)`, laid out as the module says.
    """
    x, y = x.double(), y.double()
    x_mean, y_mean = exact_mean(x), exact_mean(y)
    return _with_means(_lifted(x - x_mean).mT @ _lifted(y - y_mean), x_mean.mT, y_mean)


def merge_moments(parts: Iterable[Tensor]) -> Tensor:
    """Packed sums of the union of disjoint parts, as from all their rows at once.

    Args:
        parts: Packed sums of equal shape; a tensor with the parts on its first axis will do. Parts without rows (all
            zeros) change nothing.
    """
    merged, *rest = parts
    for part in rest:
        if not _has_rows(merged):
            merged = part
        elif _has_rows(part):
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


def _has_rows(packed: Tensor) -> bool:
    return row_count(packed) > 0


def _lifted(centred: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(centred[..., :1]), centred, centred.square().sum(-1, keepdim=True)], dim=-1)


def _with_means(sums: Tensor, x_mean: Tensor, y_mean: Tensor) -> Tensor:
    """Put the means where the sums of centred rows would stand, which are 0."""
    packed = sums.clone()
    packed[..., 1:-1, :1] = x_mean
    packed[..., :1, 1:-1] = y_mean
    return packed


def _merge_two(one: Tensor, other: Tensor) -> Tensor:
    weight = other[..., :1, :1] / (one[..., :1, :1] + other[..., :1, :1])
    x_mean = torch.lerp(one[..., 1:-1, :1], other[..., 1:-1, :1], weight)
    y_mean = torch.lerp(one[..., :1, 1:-1], other[..., :1, 1:-1], weight)
    sums = _about(one, x_mean, y_mean) + _about(other, x_mean, y_mean)
    return _with_means(sums, x_mean, y_mean)


def _about(packed: Tensor, x_centre: Tensor, y_centre: Tensor) -> Tensor:
    """Sums of lifted rows about another centre; `x_centre` is a column, `y_centre` a row."""
    x_step, y_step = x_centre - packed[..., 1:-1, :1], y_centre - packed[..., :1, 1:-1]
    sums = _with_means(packed, torch.zeros_like(x_step), torch.zeros_like(y_step))
    _move_rows(sums, x_step)
    _move_rows(sums.mT, y_step.mT)
    return sums


def _move_rows(sums: Tensor, step: Tensor) -> None:
    """Move the centre of the side on the rows, in place: u to u − step, |u|² to |u|² − 2 step·u + |step|²."""
    ones, centred, norms = sums[..., :1, :], sums[..., 1:-1, :], sums[..., -1:, :]
    norms += step.mT @ step * ones - 2 * step.mT @ centred
    centred.addcmul_(step, ones, value=-1)
