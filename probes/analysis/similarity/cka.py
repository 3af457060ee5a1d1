"""Linear CKA from minibatches: the ratio of summed HSICs, never the mean of ratios."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from probes.analysis.invariances import invariant_to
from probes.analysis.similarity.hsic import MIN_ROWS, centred, diagonal, hsic_with_norms, is_constant
from probes.analysis.similarity.leave_one_out import row_products


@invariant_to("rotation", "scale", "shift")
def linear_cka(x: Tensor, y: Tensor, *, debiased: bool = True) -> Tensor:
    """Similarity of two layers' activations on the same samples.

    Unchanged by rotation, reflection, shift or uniform scaling of either input.

    Args:
        x: Activations of one layer, shape `(samples, x_features)`.
        y: Activations of another, shape `(samples, y_features)`; row `i` is the same sample as row `i` of `x`.
        debiased: Use the unbiased HSIC estimate in all three places. With `False`, unrelated layers look alike: on
            Gaussian noise 768 wide the mean is 0.92 at 64 samples and still 0.27 at 2,048.

    Returns:
        float64 scalar, dimensionless. In [0, 1] if biased; if debiased at most 1 and scattered around 0, negatives
        included, for unrelated layers. NaN if an input is constant.

    Raises:
        ValueError: The row counts differ, or there are fewer than 4 rows.

    Source:
        Kornblith et al. 2019, arXiv:1905.00414. Unbiased HSIC: Song et al. 2012.

    >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    >>> round(linear_cka(x, 3 * x.flip(1) + 1).item(), 6)
    1.0
    """
    return cka_pairs(x[None], y[None], debiased=debiased)[0, 0]


def cka_pairs(x: Tensor, y: Tensor, *, debiased: bool = True) -> Tensor:
    """Linear CKA between every layer of one model and every layer of another.

    Args:
        x: Shape `(x_layers, rows, x_features)`.
        y: Shape `(y_layers, rows, y_features)`, rows as in `x`.
        debiased: As in `linear_cka`.

    Returns:
        float64, shape `(x_layers, y_layers)`; NaN where a layer is constant.

    Raises:
        ValueError: The row counts differ, or there are fewer than 4 rows.
    """
    hsic = hsic_with_norms(x, y, debiased=debiased)
    scale = (hsic.within_x[:, None] * hsic.within_y[None]).sqrt()
    constant = is_constant(x)
    undefined = constant[:, None] | (constant if y is x else is_constant(y))[None] | ~(scale > 0)
    return torch.where(undefined, torch.nan, hsic.between / scale)


@invariant_to("rotation", "scale", "shift")
def label_cka(x: Tensor, labels: Tensor, *, num_classes: int | None = None, debiased: bool = True) -> Tensor:
    """How far the geometry of every layer follows the labels: kernel–target alignment, no probe needed.

    Args:
        x: Shape `(layers, rows, features)`.
        labels: Class indices, int64 of shape `(rows,)`, compared as one-hot rows; real values, float of shape
            `(rows,)`; or 0/1 entries of several labels, float of shape `(rows, labels)`.
        num_classes: Number of classes; default one more than the largest label.
        debiased: As in `linear_cka`.

    Returns:
        float64, shape `(layers,)`; NaN for a constant layer and where there is one class only.

    Raises:
        ValueError: The row counts differ, or there are fewer than 4 rows.

    Source:
        Cortes et al. 2012, JMLR 13, "Algorithms for learning kernels based on centered alignment".
    """
    return cka_pairs(x, label_features(labels, num_classes).to(x.dtype)[None], debiased=debiased)[:, 0]


def label_features(labels: Tensor, num_classes: int | None = None) -> Tensor:
    """Labels as rows of features: one-hot, one real value, or the 0/1 entries of several labels.

    Args:
        labels: int64 `(rows,)` for classes, float `(rows,)` for real values or `(rows, labels)` for 0/1 entries.
        num_classes: Number of classes; default one more than the largest label.
    """
    if labels.ndim == 2:
        return labels
    if labels.is_floating_point():
        return labels[:, None]
    return functional.one_hot(labels, -1 if num_classes is None else num_classes)


def biased_cka_floor(x: Tensor, y: Tensor) -> Tensor:
    """Mean of the biased linear CKA over all ways to match the rows of matched layers.

    Centred kernels permuted against each other have tr(K) tr(L) / (rows − 1) in common on average, exactly. Divided by
    their norms this is √(rank of K · rank of L) / (rows − 1), with the ranks as participation ratios: high for wide,
    round data and few rows.

    Args:
        x: Shape `(layers, rows, x_features)`.
        y: Shape `(layers, rows, y_features)`, or one layer for all.

    Returns:
        float64, shape `(layers,)`; NaN for a constant layer.

    >>> x, y = torch.randn(2, 1, 64, 768, generator=torch.Generator().manual_seed(0))
    >>> round(biased_cka_floor(x, y).item(), 2)
    0.92
    """
    constant = is_constant(x) | is_constant(y)
    x, y = centred(x), centred(y)
    sums = row_products(x, y)
    shared = diagonal(x).sum(1) * diagonal(y).sum(1) / (x.shape[1] - 1)
    return torch.where(constant, torch.nan, shared / (sums.xx.sum(1) * sums.yy.sum(1)).sqrt())


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
        raise ValueError("Minibatch CKA expects at least one batch (x, y); got none.")
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
            f"Every minibatch expects at least {MIN_ROWS} rows; got one of {x.shape[1]}. Leave out a last batch that "
            "is shorter than the others (`drop_last=True`)."
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
