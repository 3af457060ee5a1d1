"""The Hilbert–Schmidt independence criterion (HSIC): how strongly do two kernels over the same n rows depend?

With H = I − 11ᵀ/n, and K̃ and L̃ for the kernels with their diagonals set to 0:

    biased      tr(K H L H) / (n − 1)²                                                          (Gretton et al. 2005)
    unbiased    [Σᵢⱼ K̃ᵢⱼ L̃ᵢⱼ + ΣK̃ ΣL̃ / ((n − 1)(n − 2)) − 2 (K̃1)·(L̃1) / (n − 2)] / (n (n − 3))   (Song et al. 2012)

`unbiased_hsic` is the second line; all estimates of the package call it. Linear kernels K = XXᵀ and L = YYᵀ of centred
rows simplify it: K1 = 0, so row i of K̃ sums to −Kᵢᵢ, and

    Σᵢⱼ K̃ᵢⱼ L̃ᵢⱼ = Σᵢⱼ Kᵢⱼ Lᵢⱼ − Σᵢ Kᵢᵢ Lᵢᵢ        (K̃1)·(L̃1) = Σᵢ Kᵢᵢ Lᵢᵢ        ΣK̃ ΣL̃ = tr K tr L

What costs time is Σᵢⱼ Kᵢⱼ Lᵢⱼ = ‖XᵀY‖², from rows × rows or from features × features.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from probes.threads import map_on_cores

MIN_ROWS = 4
"""Unbiased HSIC divides by n − 3."""

_TILE_ROWS = 512
"""Rows and columns of the tile of all layers' kernels that a core holds at once."""
_SMALLEST_TILE_ROWS = 128
"""Rows of the smallest tiles on the diagonal, whose upper triangles are computed and not needed."""
_STRIPE_ROWS = 8
"""Rows of a tile whose elements are summed in float32."""
_MEAN_ROWS = 64
"""Rows of a layer that are summed in float32 for its mean."""
_NORM_FEATURES = 128
"""Features of a row whose squares are summed in float32."""


class PairHSIC(NamedTuple):
    """HSIC of every layer of x with every layer of y, and of each layer with itself; float64.

    Attributes:
        between: Shape `(x_layers, y_layers)`.
        within_x: Shape `(x_layers,)`.
        within_y: Shape `(y_layers,)`.
    """

    between: Tensor
    within_x: Tensor
    within_y: Tensor

    def cka(self) -> Tensor:
        """CKA of every pair of layers, shape `(x_layers, y_layers)`; NaN unless both self-HSICs are positive."""
        return self.between / cka_norm(self.within_x[:, None], self.within_y)


def hsic_pairs(x: Tensor, y: Tensor, *, debiased: bool = True) -> Tensor:
    """HSIC between every layer of one stack of activations and every layer of another.

    Kernels are linear. Products are float32 (float64 for float64 input), sums float64, in whichever form takes fewer
    multiplications: rows × rows in tiles, or features × features.

    Args:
        x: Shape `(x_layers, rows, x_features)`.
        y: Shape `(y_layers, rows, y_features)`; row `i` is the same sample as row `i` of `x`.
        debiased: Use the unbiased U-statistic, which is 0 on average for independent rows and may be negative; else
            the biased tr(KHLH)/(rows − 1)².

    Returns:
        float64, shape `(x_layers, y_layers)`, in units of squared activation of x times that of y.

    Raises:
        ValueError: The row counts differ, or there are fewer than 4 rows.

    Source:
        Gretton et al. 2005; unbiased: Song et al. 2012, JMLR 13, equation 5.
    """
    return hsic_with_norms(x, y, debiased=debiased).between


def hsic_with_norms(x: Tensor, y: Tensor, *, debiased: bool = True) -> PairHSIC:
    """`hsic_pairs`, and in the same pass over the kernels the self-HSICs that CKA divides by.

    Args:
        x: As in `hsic_pairs`.
        y: As in `hsic_pairs`; passing the same object as `x` halves the cost, and the HSIC of a layer with itself is
            then exactly the norm, so that its CKA is exactly 1.
        debiased: As in `hsic_pairs`.

    Raises:
        ValueError: As in `hsic_pairs`.
    """
    if x.ndim != 3 or y.ndim != 3 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"HSIC expects (layers, rows, features) twice, with equal rows; got {tuple(x.shape)}, {tuple(y.shape)}. "
            "Join both on their row ids first."
        )
    rows = x.shape[1]
    if rows < MIN_ROWS:
        raise ValueError(f"HSIC expects at least {MIN_ROWS} rows; got {rows}.")
    same = x is y
    x = centre_rows(x)
    y = x if same else centre_rows(y)
    products = _pair_products(x, y)
    if not debiased:
        return _with_exact_diagonal(PairHSIC(*(sums / (rows - 1) ** 2 for sums in products)), same=same)
    x_diagonal = kernel_diagonal(x)
    y_diagonal = x_diagonal if same else kernel_diagonal(y)
    x_trace, y_trace = x_diagonal.sum(1), y_diagonal.sum(1)
    unbiased = partial(linear_unbiased_hsic, rows=rows)
    hsic = PairHSIC(
        unbiased(products.between, x_diagonal @ y_diagonal.T, x_trace[:, None] * y_trace[None]),
        unbiased(products.within_x, x_diagonal.square().sum(1), x_trace.square()),
        unbiased(products.within_y, y_diagonal.square().sum(1), y_trace.square()),
    )
    return _with_exact_diagonal(hsic, same=same)


def kernel_hsic(kernel: Tensor, other: Tensor, *, debiased: bool = True) -> Tensor:
    """HSIC of any two kernels over the same rows, which need not be centred.

    Args:
        kernel: float64, symmetric, shape `(rows, rows)`.
        other: The same.
        debiased: As in `hsic_pairs`.

    Returns:
        float64 scalar.

    Raises:
        ValueError: The shapes differ or are not square, or there are fewer than 4 rows.
    """
    if kernel.shape != other.shape or kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"HSIC expects two kernels (rows, rows); got {tuple(kernel.shape)}, {tuple(other.shape)}.")
    rows = len(kernel)
    if rows < MIN_ROWS:
        raise ValueError(f"HSIC expects at least {MIN_ROWS} rows; got {rows}.")
    if not debiased:  # tr(K H L H) = Σᵢⱼ (H K H)ᵢⱼ Lᵢⱼ
        doubly_centred = kernel - kernel.mean(dim=0) - kernel.mean(dim=1, keepdim=True) + kernel.mean()
        return (doubly_centred * other).sum() / (rows - 1) ** 2
    hollow, other_hollow = (k.clone().fill_diagonal_(0) for k in (kernel, other))
    row_sums, other_row_sums = hollow.sum(dim=1), other_hollow.sum(dim=1)
    totals = row_sums.sum() * other_row_sums.sum()
    return unbiased_hsic((hollow * other_hollow).sum(), row_sums @ other_row_sums, totals, rows=rows)


def unbiased_hsic(products: Tensor, row_sums: Tensor, totals: Tensor, *, rows: int) -> Tensor:
    """Unbiased HSIC from three sums over two hollow kernels K̃ and L̃ (Song et al. 2012, equation 5), elementwise.

    For a kernel with itself it is at least 0 up to rounding: it equals the squared norm of the U-centred kernel divided
    by n (n − 3) (Székely and Rizzo 2014, Annals of Statistics 42).

    Args:
        products: Σᵢⱼ K̃ᵢⱼ L̃ᵢⱼ.
        row_sums: (K̃1)·(L̃1), the inner product of the kernels' row sums.
        totals: ΣK̃ ΣL̃, the product of the sums over all elements.
        rows: Rows of the kernels, n.
    """
    return (products + totals / ((rows - 1) * (rows - 2)) - 2 / (rows - 2) * row_sums) / (rows * (rows - 3))


def linear_unbiased_hsic(products: Tensor, diagonals: Tensor, traces: Tensor, *, rows: int) -> Tensor:
    """Unbiased HSIC from three sums over the linear kernels K and L of centred rows, elementwise.

    Args:
        products: Σᵢⱼ Kᵢⱼ Lᵢⱼ, diagonal included.
        diagonals: Σᵢ Kᵢᵢ Lᵢᵢ.
        traces: tr K tr L.
        rows: Rows of the kernels, n.
    """
    return unbiased_hsic(products - diagonals, diagonals, traces, rows=rows)


def cka_norm(within_x: Tensor, within_y: Tensor) -> Tensor:
    """√(HSIC(K, K) HSIC(L, L)), which CKA divides HSIC(K, L) by, elementwise; NaN unless both are positive."""
    defined = (within_x > 0) & (within_y > 0)
    return torch.where(defined, within_x * within_y, torch.nan).sqrt()


def centre_rows(x: Tensor) -> Tensor:
    """Rows less their mean: no HSIC of linear kernels depends on the mean, and rounding is smallest about it.

    Args:
        x: Shape `(layers, rows, features)`.

    Returns:
        The same shape; float64 for float64 input, else float32.
    """
    result = torch.empty(x.shape, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32, device=x.device)
    for layer, centred_layer in zip(x, result, strict=True):
        sums = torch.stack([rows.sum(0, dtype=result.dtype) for rows in layer.split(_MEAN_ROWS)])
        mean = sums.sum(0, dtype=torch.float64) / len(layer)
        torch.sub(layer, mean.to(result), out=centred_layer)
    return result


def kernel_diagonal(x: Tensor) -> Tensor:
    """Diagonals of the linear kernels, which are the squared norms of rows; float64, shape `(layers, rows)`."""
    norms = [torch.linalg.vector_norm(features, dim=2) for features in x.split(_NORM_FEATURES, dim=2)]
    return torch.stack(norms).double().square().sum(0)


def is_constant(x: Tensor) -> Tensor:
    """Whether all rows of a layer are equal; bool, shape `(layers,)`."""
    constant = (x[:, 0] == x[:, -1]).all(dim=1)  # two rows suffice for nearly every layer that varies
    if constant.any():
        constant[constant.clone()] = (x[constant] == x[constant][:, :1]).all(dim=2).all(dim=1)
    return constant


def _with_exact_diagonal(hsic: PairHSIC, *, same: bool) -> PairHSIC:
    """If both sides are the `same`, each layer's HSIC with itself is its norm, which is rounded in another order."""
    if same:
        hsic.between.diagonal().copy_(hsic.within_x)
    return hsic


def _pair_products(x: Tensor, y: Tensor) -> PairHSIC:
    """Σᵢⱼ Kᵢⱼ Lᵢⱼ of all pairs and of each layer with itself, in whichever form takes fewer multiplications."""
    rows = x.shape[1]
    by_rows = rows * (len(x) * x.shape[2] + len(y) * y.shape[2] + len(x) * len(y))
    by_features = len(x) * len(y) * x.shape[2] * y.shape[2]
    if by_rows < by_features:
        return _products_by_rows(x, y)
    return PairHSIC(_products_by_features(x, y), _self_products(x), _self_products(y))


def _products_by_features(x: Tensor, y: Tensor) -> Tensor:
    """‖XᵀY‖² of all pairs, one layer of x after another."""
    # (x_features, rows) @ (y_layers, rows, y_features) → (y_layers, x_features, y_features)
    return torch.stack([(layer.T @ y).double().square().sum((-1, -2)) for layer in x])


def _self_products(x: Tensor) -> Tensor:
    """‖XᵀX‖² = ‖XXᵀ‖² of each layer, from the smaller matrix."""
    wide = x.shape[1] < x.shape[2]
    return torch.stack([((z @ z.T) if wide else (z.T @ z)).double().square().sum() for z in x])


class _Tile(NamedTuple):
    """A square of all kernels: its first row and column, and its size, which ends at the last row."""

    row: int
    column: int
    size: int


def _tiles(rows: int) -> list[_Tile]:
    """Squares that cover the lower triangle of a kernel of so many rows; those on the diagonal reach above it."""
    starts = range(0, rows, _TILE_ROWS)
    squares = [_Tile(row, column, _TILE_ROWS) for row in starts for column in starts if column <= row]
    return [tile for square in squares for tile in _lower_triangle(square) if tile.row < rows]


def _lower_triangle(tile: _Tile) -> list[_Tile]:
    """Smaller squares that cover the lower triangle of a tile on the diagonal; any other tile as it is."""
    row, column, size = tile
    if row != column or size <= _SMALLEST_TILE_ROWS:
        return [tile]
    size //= 2
    upper, lower = (_lower_triangle(_Tile(start, start, size)) for start in (row, row + size))
    return [*upper, _Tile(row + size, row, size), *lower]


def _products_by_rows(x: Tensor, y: Tensor) -> PairHSIC:
    """Sums over the kernels' elements, tile by tile; by symmetry tiles off the diagonal count twice."""
    sums = map_on_cores(lambda tile: _products_of_tile(x, y, tile), _tiles(x.shape[1]), x.device)
    return PairHSIC(*(torch.stack(of_tiles).sum(0) for of_tiles in zip(*sums, strict=True)))


def _products_of_tile(x: Tensor, y: Tensor, tile: _Tile) -> PairHSIC:
    weight = 1 if tile.row == tile.column else 2
    x_stripes = _kernel_stripes(x, tile)
    y_stripes = x_stripes if y is x else _kernel_stripes(y, tile)
    between = (x_stripes @ y_stripes.mT).double().sum(0)  # (stripes, x_layers, y_layers) → (x_layers, y_layers)
    within_x = _squares(x_stripes)
    within_y = within_x if y is x else _squares(y_stripes)
    return PairHSIC(weight * between, weight * within_x, weight * within_y)


def _squares(stripes: Tensor) -> Tensor:
    """Sum of the squared elements of each layer's tile."""
    return torch.linalg.vector_norm(stripes, dim=2).double().square().sum(0)


def _kernel_stripes(x: Tensor, tile: _Tile) -> Tensor:
    """One tile of every layer's kernel, cut into stripes of a few rows; shape `(stripes, layers, elements)`.

    Elements are summed in float32 within a stripe and in float64 over stripes, which keeps float32 sums short and
    float64 sums few.
    """
    kernel = x[:, tile.row : tile.row + tile.size] @ x[:, tile.column : tile.column + tile.size].mT
    divides = kernel.shape[1] % _STRIPE_ROWS == 0
    stripes = kernel.unflatten(1, (-1, _STRIPE_ROWS)) if divides else kernel[:, None]
    return stripes.flatten(2).transpose(0, 1)  # from (layers, stripes, rows, columns)
