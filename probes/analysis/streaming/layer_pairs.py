"""Linear CKA of every layer with every layer, over rows that are read block by block as often as memory requires."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from probes.analysis.similarity.hsic import MIN_ROWS, cka_norm, linear_unbiased_hsic

Blocks = Callable[[], Iterable[tuple[Tensor, ...]]]
"""Reads all rows anew whenever it is called: the same rows of one model, or of two, `(layers, rows, features)` each."""


def streamed_cka_pairs(blocks: Blocks, *, max_bytes: int = 2**31, debiased: bool = True) -> Tensor:
    """`cka_pairs` of rows that are never held together: the estimate of all rows, not a mean over blocks.

    The first pass finds the means. The others sum, for centred rows u and v of layers i and j, the products Σ u vᵀ in
    float64, of as many pairs of layers as `max_bytes` holds. With linear kernels K and L, ‖Σ u vᵀ‖² is Σ K∘L, and
    |u|² and |v|² are their diagonals, from which Song's unbiased HSIC follows. How rows are divided into blocks changes
    the result by rounding alone.

    Args:
        blocks: Reads the rows: of one model, whose layers are compared with each other, or of two, matched row by row.
        max_bytes: Memory for products, 8 · x_features · y_features bytes a pair; at least one pair is held. What a
            block takes comes on top.
        debiased: As in `linear_cka`.

    Returns:
        float64, shape `(x_layers, y_layers)`; NaN where a layer is constant.

    Raises:
        ValueError: Fewer than 4 rows, rows that don't match or are not finite.

    >>> x = torch.randn(3, 60, 5, generator=torch.Generator().manual_seed(0))
    >>> streamed_cka_pairs(lambda: ((rows,) for rows in x.split(7, dim=1))).diagonal().round(decimals=6).tolist()
    [1.0, 1.0, 1.0]
    """
    rows, means, varies = _means(blocks)
    sizes = [len(side) for side in means]
    flat = [(side, layer) for side, layers in enumerate(sizes) for layer in range(layers)]
    x, y = range(sizes[0]), range(sizes[0] if len(sizes) > 1 else 0, len(flat))
    if len(sizes) == 1:
        pairs = [(i, j) for i in x for j in y if i <= j]
    else:
        pairs = [*((i, i) for i in range(len(flat))), *((i, j) for i in x for j in y)]
    widths = [means[side].shape[1] for side, _ in flat]
    hsic = torch.zeros(len(flat), len(flat), dtype=torch.float64)
    for group in _groups(pairs, widths, max_bytes):
        for (i, j), value in _hsic_of(blocks, flat, group, means, rows=rows, debiased=debiased):
            hsic[i, j] = hsic[j, i] = value
    within = hsic.diagonal()
    values = hsic[x][:, list(y)] / cka_norm(within[list(x), None], within[list(y)])
    known = torch.cat(varies)
    return values.masked_fill(~(known[list(x), None] & known[list(y)]), torch.nan)


def _means(blocks: Blocks) -> tuple[int, list[Tensor], list[Tensor]]:
    """Rows; and, of each model, the means `(layers, features)`, float64, and whether each layer varies."""
    rows, sums, firsts, varies = 0, [], [], []
    for sides in blocks():
        if len({side.shape[1] for side in sides}) != 1:
            shapes = ", ".join(str(tuple(side.shape)) for side in sides)
            raise ValueError(f"Both sides of a block expect the same rows (axis 1); got the shapes {shapes}.")
        if not sums:
            sums = [torch.zeros(side.shape[0], side.shape[2], dtype=torch.float64) for side in sides]
            firsts = [side[:, :1].clone() for side in sides]
            varies = [torch.zeros(len(side), dtype=torch.bool) for side in sides]
        for side, total, first, varied in zip(sides, sums, firsts, varies, strict=True):
            of_block = side.sum(1, dtype=torch.float64)
            if not of_block.isfinite().all():
                raise ValueError(f"A block of rows after row {rows} holds NaN or infinity. Drop such rows by row id.")
            total += of_block
            varied |= (side != first).flatten(1).any(1)
        rows += sides[0].shape[1]
    if rows < MIN_ROWS:
        raise ValueError(f"CKA expects at least {MIN_ROWS} rows; got {rows}.")
    return rows, [total / rows for total in sums], varies


def _groups(pairs: Sequence[tuple[int, int]], widths: Sequence[int], max_bytes: int) -> Iterator[list[tuple[int, int]]]:
    """Neighbouring pairs whose products fit into memory together."""
    group, taken = [], 0
    for i, j in pairs:
        needed = 8 * widths[i] * widths[j]
        if group and taken + needed > max_bytes:
            yield group
            group, taken = [], 0
        group.append((i, j))
        taken += needed
    yield group


def _hsic_of(
    blocks: Blocks,
    flat: Sequence[tuple[int, int]],
    pairs: Sequence[tuple[int, int]],
    means: Sequence[Tensor],
    *,
    rows: int,
    debiased: bool,
) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """HSIC of some pairs of layers, by one pass over all rows."""
    needed = _layers_of(pairs)
    place = {layer: position for position, layer in enumerate(needed)}
    of_layer = {layer: means[flat[layer][0]][flat[layer][1]] for layer in needed}
    products = {(i, j): torch.zeros(len(of_layer[i]), len(of_layer[j]), dtype=torch.float64) for i, j in pairs}
    traces = torch.zeros(len(needed), dtype=torch.float64)
    diagonals = torch.zeros(len(needed), len(needed), dtype=torch.float64)  # Σ |u|² |v|²
    for sides in blocks():
        centred = {}
        for layer in needed:
            side, index = flat[layer]
            centred[layer] = (sides[side][index] - of_layer[layer]).to(sides[side].dtype)  # (rows, features)
        for (i, j), total in products.items():
            total += centred[i].T @ centred[j]
        norms = torch.stack([one.double().square().sum(1) for one in centred.values()])  # (layers, rows)
        traces += norms.sum(1)
        diagonals += norms @ norms.T
    for (i, j), total in products.items():
        sums, p, q = total.square().sum(), place[i], place[j]
        if debiased:
            yield (i, j), linear_unbiased_hsic(sums, diagonals[p, q], traces[p] * traces[q], rows=rows)
        else:
            yield (i, j), sums / (rows - 1) ** 2


def _layers_of(pairs: Iterable[tuple[int, int]]) -> list[int]:
    return sorted({layer for pair in pairs for layer in pair})
