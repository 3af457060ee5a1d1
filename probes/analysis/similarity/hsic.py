"""Dependence of two linear kernels over the same rows: biased and unbiased HSIC of all pairs of layers at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from probes.analysis.large_pages import empty
from probes.threads import map_on_cores

MIN_ROWS = 4
TILE_ROWS = 512
"""Rows and columns of the part of all layers' kernels that a core holds at once."""
SMALLEST_TILE_ROWS = 128
"""Rows of the tiles on the diagonal, half of which is computed for nothing."""
STRIPE_ROWS = 8
"""Rows of a tile whose elements are summed in float32."""
PART_ROWS = 64
"""Rows of a layer that are summed in float32 at once."""
PART_FEATURES = 128
"""Features of a row whose squares are summed in float32."""


def hsic_pairs(x: Tensor, y: Tensor, *, debiased: bool = True) -> Tensor:
    """HSIC between every layer of one stack of activations and every layer of another.

    Kernels are linear. Products are float32 (float64 for float64 input), sums float64, in whichever form takes fewer
    multiplications: rows × rows in blocks, or features × features.

    Args:
        x: Shape `(x_layers, rows, x_features)`.
        y: Shape `(y_layers, rows, y_features)`; row `i` is the same sample as row `i` of `x`.
        debiased: The unbiased U-statistic, which is 0 on average for independent rows and may be negative; else the
            biased tr(KHLH)/(rows − 1)².

    Returns:
        float64, shape `(x_layers, y_layers)`, in units of squared activation of x times that of y.

    Raises:
        ValueError: The row counts differ, or there are fewer than 4 rows.

    Source:
        Gretton et al. 2005; unbiased: Song et al. 2012, JMLR 13, equation 5.
    """
    return hsic_with_norms(x, y, debiased=debiased).between


class PairHSIC(NamedTuple):
    """HSIC between all layers of two stacks, `(x_layers, y_layers)`, and of each layer with itself."""

    between: Tensor
    within_x: Tensor
    within_y: Tensor


def hsic_with_norms(x: Tensor, y: Tensor, *, debiased: bool = True) -> PairHSIC:
    """`hsic_pairs`, and in the same pass over the kernels what CKA divides by.

    Args:
        x: As in `hsic_pairs`.
        y: As in `hsic_pairs`; the same object as `x` costs half.
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
    x = centred(x)
    y = x if same else centred(y)
    products = _pair_products(x, y)
    if not debiased:
        return PairHSIC(*(sums / (rows - 1) ** 2 for sums in products))
    k = diagonal(x)
    other = k if same else diagonal(y)
    return PairHSIC(
        _unbiased(products.between, k @ other.T, k.sum(1)[:, None] * other.sum(1)[None], rows),
        _unbiased(products.within_x, k.square().sum(1), k.sum(1).square(), rows),
        _unbiased(products.within_y, other.square().sum(1), other.sum(1).square(), rows),
    )


def centred(x: Tensor) -> Tensor:
    """Rows about their mean, which no HSIC of linear kernels changes by; about the mean, rounding is smallest."""
    result = empty(x.shape, torch.float64 if x.dtype == torch.float64 else torch.float32, x.device)
    for layer, centred_layer in zip(x, result, strict=True):
        sums = torch.stack([part.sum(0, dtype=result.dtype) for part in layer.split(PART_ROWS)])
        mean = sums.sum(0, dtype=torch.float64) / len(layer)
        torch.sub(layer, mean.to(result), out=centred_layer)
    return result


def _pair_products(x: Tensor, y: Tensor) -> PairHSIC:
    """Sums over all elements of K ∘ L, K ∘ K and L ∘ L, in whichever form takes fewer multiplications."""
    rows = x.shape[1]
    by_rows = rows * (len(x) * x.shape[2] + len(y) * y.shape[2] + len(x) * len(y))
    by_features = len(x) * len(y) * x.shape[2] * y.shape[2]
    if by_rows < by_features:
        return _products_by_rows(x, y)
    return PairHSIC(_products_by_features(x, y), _own_products(x), _own_products(y))


def _products_by_features(x: Tensor, y: Tensor) -> Tensor:
    """‖xᵀy‖², one row of layer pairs after another."""
    return torch.stack([(layer.T @ y).double().square().sum((-1, -2)) for layer in x])


def _own_products(x: Tensor) -> Tensor:
    """‖xᵀx‖² = ‖xxᵀ‖², the smaller of the two."""
    wide = x.shape[1] < x.shape[2]
    return torch.stack([((z @ z.T) if wide else (z.T @ z)).double().square().sum() for z in x])


class Tile(NamedTuple):
    """A square of all kernels: its first row and column, and its size, cut at the last row."""

    row: int
    column: int
    size: int


def tiles(rows: int) -> list[Tile]:
    """Squares that cover the lower triangle of a kernel of so many rows; those on the diagonal reach above it."""
    starts = range(0, rows, TILE_ROWS)
    squares = [Tile(row, column, TILE_ROWS) for row in starts for column in starts if column <= row]
    return [tile for square in squares for tile in _halved_on_diagonal(square) if tile.row < rows]


def _halved_on_diagonal(tile: Tile) -> list[Tile]:
    """The parts of a tile in the lower triangle, squares again."""
    row, column, size = tile
    if row != column or size <= SMALLEST_TILE_ROWS:
        return [tile]
    size //= 2
    upper, lower = (_halved_on_diagonal(Tile(start, start, size)) for start in (row, row + size))
    return [*upper, Tile(row + size, row, size), *lower]


def _products_by_rows(x: Tensor, y: Tensor) -> PairHSIC:
    """Sums over tiles of the kernels' lower triangles, those off the diagonal twice."""
    sums = map_on_cores(lambda tile: _products_of_tile(x, y, tile), tiles(x.shape[1]), x.device)
    return PairHSIC(*(torch.stack(of_tiles).sum(0) for of_tiles in zip(*sums, strict=True)))


def _products_of_tile(x: Tensor, y: Tensor, tile: Tile) -> PairHSIC:
    twice = 1 if tile.row == tile.column else 2
    kernel = _stripes(x, tile)
    other = kernel if y is x else _stripes(y, tile)
    within = _squares(kernel)
    within_other = within if y is x else _squares(other)
    return PairHSIC(*(twice * sums for sums in ((kernel @ other.mT).double().sum(0), within, within_other)))


def _squares(kernel: Tensor) -> Tensor:
    """Sum of squared elements of each layer's tile."""
    return torch.linalg.vector_norm(kernel, dim=2).double().square().sum(0)


def _stripes(x: Tensor, tile: Tile) -> Tensor:
    """One tile of every layer's kernel, `(stripes, layers, elements)`: float32 sums stay short, float64 ones few."""
    kernel = x[:, tile.row : tile.row + tile.size] @ x[:, tile.column : tile.column + tile.size].mT
    whole = kernel.shape[1] % STRIPE_ROWS == 0
    stripes = kernel.unflatten(1, (-1, STRIPE_ROWS)) if whole else kernel[:, None]
    return stripes.flatten(2).transpose(0, 1)


def _unbiased(products: Tensor, on_diagonal: Tensor, totals: Tensor, rows: int) -> Tensor:
    """With centred rows K 1 = 0, so every sum over the hollow kernel is one over its diagonal."""
    return song_sum(products - on_diagonal, on_diagonal, totals, rows=rows)


def song_sum(trace: Tensor, row_sums: Tensor, totals: Tensor, *, rows: int) -> Tensor:
    """Unbiased HSIC from sums over two hollow kernels (Song et al. 2012, equation 5).

    Args:
        trace: Sum over all elements of their elementwise product.
        row_sums: Inner product of their row sums.
        totals: Product of their sums over all elements.
        rows: Rows of the kernels.
    """
    return (trace + totals / ((rows - 1) * (rows - 2)) - 2 / (rows - 2) * row_sums) / (rows * (rows - 3))


def diagonal(x: Tensor) -> Tensor:
    """Diagonals of linear kernels: squared norms of rows; float64, shape `(layers, rows)`."""
    norms = [torch.linalg.vector_norm(part, dim=2) for part in x.split(PART_FEATURES, dim=2)]
    return torch.stack(norms).double().square().sum(0)


def is_constant(x: Tensor) -> Tensor:
    """Whether all rows of a layer are equal; bool, shape `(layers,)`."""
    constant = (x[:, 0] == x[:, -1]).all(dim=1)  # two rows tell nearly always
    if constant.any():
        constant[constant.clone()] = (x[constant] == x[constant][:, :1]).all(dim=2).all(dim=1)
    return constant
