"""Linear CKA from minibatches: the ratio of summed HSICs, never the mean of ratios."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from probes.analysis.hsic import MIN_ROWS, hsic_with_norms, is_constant


class HsicSums(NamedTuple):
    """Unbiased HSICs summed over minibatches, float64.

    Attributes:
        between: Of every layer of x with every layer of y, shape `(x_layers, y_layers)`.
        within_x: Of every layer of x with itself, shape `(x_layers,)`.
        within_y: Of every layer of y with itself, shape `(y_layers,)`.
    """

    between: Tensor
    within_x: Tensor
    within_y: Tensor


def minibatch_cka(batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Debiased linear CKA between all pairs of layers from minibatches, with memory for one batch.

    Each minibatch's unbiased HSIC estimates the same quantity without bias, so their sums do, whatever the batch size;
    CKA is the ratio of the sums. The mean of the batches' own CKAs is another number, biased where batches are small.
    `streaming.LinearCKA` gives the full-sample value, which scatters less, for states of features × features.

    Args:
        batches: Pairs `(x_layers, rows, x_features)`, `(y_layers, rows, y_features)`; row `i` of both is the same
            sample. Batches of equal size weigh all rows alike; shuffle rows beforehand, as batches of one class
            each see no differences between classes.

    Returns:
        float64, shape `(x_layers, y_layers)`; NaN where a layer is constant within every batch, or where a self-HSIC
        summed is not positive.

    Raises:
        ValueError: There is no batch, one has fewer than 4 rows or NaN, or its two sides differ in rows.

    Source:
        Nguyen, Raghu and Kornblith 2021, arXiv:2010.15327, equation 3.

    >>> x = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0))
    >>> minibatch_cka((rows, 3 - rows) for rows in x.split(16, dim=1)).diagonal().round(decimals=6).tolist()
    [1.0, 1.0]
    """
    total: HsicSums | None = None
    for x, y in batches:
        sums = hsic_sums(x, y)
        total = sums if total is None else HsicSums(*(old + new for old, new in zip(total, sums, strict=True)))
    if total is None:
        raise ValueError("Minibatch CKA wants at least one batch (x, y); got none.")
    return cka_of_sums(total)


def hsic_sums(x: Tensor, y: Tensor) -> HsicSums:
    """The unbiased HSICs of one minibatch; exactly 0 where a layer is constant in it.

    Args:
        x: Shape `(x_layers, rows, x_features)`.
        y: Shape `(y_layers, rows, y_features)`.

    Raises:
        ValueError: There are fewer than 4 rows, rows differ or are not finite.
    """
    if x.ndim == y.ndim == 3 and x.shape[1] == y.shape[1] < MIN_ROWS:
        raise ValueError(
            f"Every minibatch wants at least {MIN_ROWS} rows; got one of {x.shape[1]}. Leave out a last batch that is "
            "shorter than the others (`drop_last=True`)."
        )
    sums = hsic_with_norms(x, y)
    if not sums.between.isfinite().all():
        raise ValueError("A minibatch holds NaN or infinity. Drop such rows by row id, on both sides alike.")
    x_varies, y_varies = ~is_constant(x), ~is_constant(y)
    between = sums.between * x_varies[:, None] * y_varies
    return HsicSums(between, sums.within_x * x_varies, sums.within_y * y_varies)


def cka_of_sums(sums: HsicSums) -> Tensor:
    """CKA from summed HSICs, shape `(x_layers, y_layers)`; NaN unless both self-HSICs are positive."""
    defined = (sums.within_x > 0)[:, None] & (sums.within_y > 0)
    scale = sums.within_x.sqrt()[:, None] * sums.within_y.sqrt()
    return torch.where(defined, sums.between / scale, torch.nan)
