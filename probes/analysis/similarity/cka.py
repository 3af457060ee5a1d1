"""Linear centred kernel alignment (CKA): of matched layers, of all pairs of layers, with labels, and from minibatches.

    CKA(K, L) = HSIC(K, L) / √(HSIC(K, K) HSIC(L, L))

The interval of a CKA is not computed here: `leave_one_out.py` gives CKA without each row, and
`probes.analysis.intervals` turns those values into errors and an interval. `permutation_null.py` gives the values that
CKA takes where rows are not matched.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from probes.analysis.invariances import invariant_to, require_matched_rows
from probes.analysis.similarity.hsic import (
    MIN_ROWS,
    PairHSIC,
    centre_rows,
    hsic_with_norms,
    is_constant,
    kernel_diagonal,
)
from probes.analysis.similarity.leave_one_out import row_products


@invariant_to("rotation", "scale", "shift")
def linear_cka(x: Tensor, y: Tensor, *, debiased: bool = True) -> Tensor:
    """Linear CKA of matched layers: how similar are their activations on the same samples?

    Unchanged by rotation, reflection, shift or uniform scaling of either input. For every layer with every layer use
    `cka_pairs`; for intervals `cka_leave_one_out`.

    Args:
        x: Activations of one model, shape `(layers, rows, x_features)`.
        y: Activations of another, shape `(layers, rows, y_features)`; layer and row `i` go with those of `x`.
        debiased: Use the unbiased HSIC estimate in all three places. With `False`, unrelated layers look similar: on
            Gaussian noise 768 wide the mean is 0.92 at 64 rows and still 0.27 at 2,048.

    Returns:
        float64, shape `(layers,)`, dimensionless. In [0, 1] if biased; if debiased at most 1 and scattered around 0,
        negatives included, for unrelated layers. Exactly 1 where both sides are equal to the last bit. NaN where a
        layer is constant.

    Raises:
        ValueError: Fewer than 4 rows, layers or rows that don't match, non-finite rows.

    Source:
        Kornblith et al. 2019, arXiv:1905.00414. Unbiased HSIC: Song et al. 2012.

    >>> x = torch.randn(2, 100, 8, generator=torch.Generator().manual_seed(0))
    >>> linear_cka(x, 3 * x.flip(2) + 1).round(decimals=6).tolist()
    [1.0, 1.0]
    """
    require_matched_rows(x, y)
    values = []
    for x_layer, y_layer in zip(x.split(1), y.split(1), strict=True):
        other = x_layer if torch.equal(x_layer, y_layer) else y_layer
        values.append(cka_pairs(x_layer, other, debiased=debiased)[0])
    return torch.cat(values)


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
    x_constant = is_constant(x)
    y_constant = x_constant if y is x else is_constant(y)
    return hsic.cka().masked_fill(x_constant[:, None] | y_constant, torch.nan)


@invariant_to("rotation", "scale", "shift")
def label_cka(x: Tensor, labels: Tensor, *, num_classes: int | None = None, debiased: bool = True) -> Tensor:
    """How far the geometry of every layer follows the labels: kernel–target alignment, without training a probe.

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

    Returns:
        Shape `(rows, classes)`, `(rows, 1)` or `(rows, labels)`; int64 for classes, else as `labels`.
    """
    if labels.ndim == 2:
        return labels
    if labels.is_floating_point():
        return labels[:, None]
    return functional.one_hot(labels, -1 if num_classes is None else num_classes)


def biased_cka_floor(x: Tensor, y: Tensor) -> Tensor:
    """Mean of the biased linear CKA over all ways to match the rows of matched layers: its value by chance.

    Over all permutations of the rows of one centred kernel, Σᵢⱼ Kᵢⱼ Lᵢⱼ is tr K tr L / (rows − 1) on average, exactly.
    Divided by the norms ‖K‖ ‖L‖ this is √(rank K · rank L) / (rows − 1), with participation ratios as ranks: high for
    many features of equal variance and few rows.

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
    x, y = centre_rows(x), centre_rows(y)
    sums = row_products(x, y)
    by_chance = kernel_diagonal(x).sum(1) * kernel_diagonal(y).sum(1) / (x.shape[1] - 1)
    return torch.where(constant, torch.nan, by_chance / (sums.xx.sum(1) * sums.yy.sum(1)).sqrt())


def minibatch_cka(batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Debiased linear CKA between all pairs of layers from minibatches, with memory for one batch.

    Each minibatch's unbiased HSIC estimates the same quantity without bias, so their sums do, whatever the batch size;
    CKA is the ratio of the sums. The mean of the batches' own CKAs is another number, biased where batches are small.
    `streaming.LinearCKA` gives the value of all rows together, which scatters less, from states of
    features × features.

    Args:
        batches: Pairs `(x_layers, rows, x_features)`, `(y_layers, rows, y_features)`; row `i` of both is the same
            sample. Batches of equal size weigh all rows equally; shuffle rows beforehand, as a batch of a single class
            shows no differences between classes.

    Returns:
        float64, shape `(x_layers, y_layers)`; NaN where a layer is constant within every batch, or where a summed
        self-HSIC is not positive.

    Raises:
        ValueError: There is no batch, one has fewer than 4 rows or NaN, or its two sides differ in rows.

    Source:
        Nguyen, Raghu and Kornblith 2021, arXiv:2010.15327, equation 3.

    >>> x = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0))
    >>> minibatch_cka((rows, 3 - rows) for rows in x.split(16, dim=1)).diagonal().round(decimals=6).tolist()
    [1.0, 1.0]
    """
    total: PairHSIC | None = None
    for x, y in batches:
        hsic = minibatch_hsic(x, y)
        total = hsic if total is None else PairHSIC(*(old + new for old, new in zip(total, hsic, strict=True)))
    if total is None:
        raise ValueError("Minibatch CKA expects at least one batch (x, y); got none.")
    return total.cka()


def minibatch_hsic(x: Tensor, y: Tensor) -> PairHSIC:
    """The unbiased HSICs of one minibatch; exactly 0 where a layer is constant in it.

    Args:
        x: Shape `(x_layers, rows, x_features)`.
        y: Shape `(y_layers, rows, y_features)`.

    Raises:
        ValueError: There are fewer than 4 rows, rows differ or are not finite.
    """
    if x.ndim == y.ndim == 3 and x.shape[1] == y.shape[1] < MIN_ROWS:
        raise ValueError(
            f"Every minibatch expects at least {MIN_ROWS} rows; got one of {x.shape[1]}. Drop a last batch that is "
            "shorter than the others (`drop_last=True`)."
        )
    hsic = hsic_with_norms(x, y)
    if not hsic.between.isfinite().all():
        raise ValueError("A minibatch holds NaN or infinity. Drop such rows by row id, on both sides.")
    x_varies, y_varies = ~is_constant(x), ~is_constant(y)
    between = hsic.between * x_varies[:, None] * y_varies
    return PairHSIC(between, hsic.within_x * x_varies, hsic.within_y * y_varies)
