"""Do two layers agree on which samples are close? The share of common nearest neighbours."""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from probes.analysis.invariances import by_layer, invariant_to, require_matched_rows
from probes.analysis.similarity.hsic import is_constant

NeighbourMetric = Literal["cosine", "euclidean"]


@invariant_to("rotation", "scale")
def neighbour_overlap(x: Tensor, y: Tensor, *, k: int = 10, metric: NeighbourMetric = "cosine") -> Tensor:
    """Mean over rows of the share of their `k` nearest neighbours that a layer has in both inputs.

    A row is not its own neighbour. By chance the value is k / (rows − 1), see `neighbour_overlap_by_chance`; it is
    unbiased around that. Exact duplicates are equally far from every row: the one with the lower row index is taken as
    the nearer, in both inputs. Do not bootstrap: repeated rows are each other's neighbours.

    Args:
        x: Shape `(layers, rows, x_features)`.
        y: Shape `(layers, rows, y_features)`; row `i` is the same sample as row `i` of `x`.
        k: Neighbours per row, from 1 to rows − 1.
        metric: `"cosine"` ignores the lengths of rows; `"euclidean"` does not, and is unchanged by a shift as well.

    Returns:
        float64, shape `(layers,)`, in [0, 1]; NaN where a layer is constant, and for `"cosine"` also where all rows
        have one direction (to the last bit) or a row is all zeros and has none.

    Raises:
        ValueError: Fewer than 4 rows, layers or rows that don't match, non-finite rows, `k` out of its range.

    Source:
        Mutual k-nearest neighbours: Huh et al. 2024, arXiv:2405.07987.

    >>> x = torch.randn(1, 50, 8, generator=torch.Generator().manual_seed(0))
    >>> neighbour_overlap(x, 3 * x.flip(2)).item()
    1.0
    """
    if metric not in get_args(NeighbourMetric):
        raise ValueError(f"No metric is called '{metric}'. There are {get_args(NeighbourMetric)}.")
    require_matched_rows(x, y)
    _require_fewer_than_rows(k, x.shape[1])
    return by_layer(partial(_overlap, k=k, metric=metric), x, y)


def neighbour_overlap_by_chance(rows: int, k: int) -> float:
    """Mean of `neighbour_overlap` when neighbours in one layer are independent of those in the other: k / (rows − 1).

    Raises:
        ValueError: `k` is not from 1 to rows − 1.

    >>> neighbour_overlap_by_chance(rows=101, k=10)
    0.1
    """
    _require_fewer_than_rows(k, rows)
    return k / (rows - 1)


def distance_matrix(points: Tensor) -> Tensor:
    """Euclidean distances between all rows, from direct differences: exactly 0 between duplicates, ties kept.

    Args:
        points: float64, shape `(rows, features)`.

    Returns:
        float64, shape `(rows, rows)`, in units of the features; two such matrices of memory are used.
    """
    return symmetric_matrix(torch.pdist(points), len(points))


def symmetric_matrix(pairs: Tensor, rows: int) -> Tensor:
    """A symmetric matrix with diagonal 0 from its upper triangle, row after row.

    Args:
        pairs: Shape `(rows × (rows − 1) / 2,)`, the order of `torch.pdist`.
        rows: Size of the matrix.
    """
    above = torch.ones(rows, rows, dtype=torch.bool, device=pairs.device).triu(1)
    matrix = pairs.new_zeros(rows, rows).masked_scatter_(above, pairs)
    return matrix.add_(matrix.T.clone())


def unit_rows(points: Tensor) -> Tensor:
    """Rows scaled to length 1, float64 `(rows, features)`; NaN for a row of zeros, which has no direction.

    Half the squared distance of two such rows is one minus their cosine.
    """
    return points / torch.linalg.vector_norm(points, dim=1, keepdim=True)


def nearest(points: Tensor, k: int) -> Tensor:
    """Which rows are the `k` nearest to each row, itself excluded; among equally near rows those of lower index.

    Args:
        points: float64, shape `(rows, features)`.
        k: Neighbours per row.

    Returns:
        bool, shape `(rows, rows)`, `k` True in every row.
    """
    distances = distance_matrix(points).fill_diagonal_(torch.inf)
    kth = distances.topk(k, dim=1, largest=False).values[:, -1:]  # (rows, 1)
    nearer, tied = distances < kth, distances == kth
    places_left = k - nearer.sum(dim=1, keepdim=True)
    return nearer | (tied & (tied.cumsum(dim=1) <= places_left))


def _overlap(x: Tensor, y: Tensor, *, k: int, metric: NeighbourMetric) -> Tensor:
    if metric == "cosine":
        x, y = unit_rows(x), unit_rows(y)
    if any(bool(is_constant(side[None]) | side.isnan().any()) for side in (x, y)):
        return x.new_tensor(torch.nan)
    return (nearest(x, k) & nearest(y, k)).double().sum() / (k * len(x))


def _require_fewer_than_rows(k: int, rows: int) -> None:
    if not 1 <= k < rows:
        raise ValueError(f"A row of {rows} has 1 to {rows - 1} neighbours; got k={k}.")
