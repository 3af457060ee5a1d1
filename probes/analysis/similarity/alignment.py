"""How closely does one layer match another: after the best rotation (Procrustes), or row by row (cosine)?"""

from __future__ import annotations

import torch
from torch import Tensor

from probes.analysis.invariances import by_layer, invariant_to, require_matched_rows
from probes.analysis.similarity.neighbours import unit_rows


@invariant_to("rotation", "scale", "shift")
def procrustes_similarity(x: Tensor, y: Tensor) -> Tensor:
    """One less half the squared Procrustes distance of matched layers, centred and of Frobenius norm 1.

    Over rotations R the distance is min ‖xR − y‖² = 2 − 2 ‖xᵀy‖_*, so the similarity is the nuclear norm ‖xᵀy‖_*.
    It is not corrected for chance, and biased upwards unless there are many times more rows than features: for
    independent Gaussian noise of 576 features it is 0.78 at 500 rows, 0.44 at 2,000 and 0.23 at 8,000. Compare only
    values with equal rows and widths, and show the value for permuted rows of `y` beside them.

    Args:
        x: Shape `(layers, rows, x_features)`.
        y: Shape `(layers, rows, y_features)`; row `i` is the same sample as row `i` of `x`. If the widths differ, the
            narrower layer counts as padded with zeros.

    Returns:
        float64, shape `(layers,)`, in [0, 1]; 1 for layers that are equal up to rotation, scale and shift; NaN where a
        layer is constant.

    Raises:
        ValueError: Fewer than 4 rows, layers or rows that don't match, non-finite rows.

    Source:
        Schönemann 1966, Psychometrika 31; as a similarity of layers: Ding et al. 2021, arXiv:2108.01661.

    >>> x = torch.randn(1, 100, 8, generator=torch.Generator().manual_seed(0))
    >>> round(procrustes_similarity(x, 3 * x.flip(2) + 1).item(), 6)
    1.0
    """
    require_matched_rows(x, y)
    return by_layer(_nuclear_norm, x, y)


@invariant_to("scale")
def matched_cosine(x: Tensor, y: Tensor) -> Tensor:
    """Mean over rows of the cosine between a row of `x` and the same row of `y`.

    Meaningful only where feature `j` is the same in both, as in a model before and after tuning. Nothing is centred: a
    large vector that all rows share, common in language models, brings the value near 1 whatever else differs. The
    mean is unbiased for the mean over samples; for unrelated rows it is the inner product of the two mean unit rows,
    which is 0 where rows have no direction in common.

    Args:
        x: Shape `(layers, rows, features)`.
        y: The same shape; row `i` is the same sample as row `i` of `x`.

    Returns:
        float64, shape `(layers,)`, in [−1, 1], over the rows that are all zeros in neither `x` nor `y`. NaN where no
        such row is left, and where a layer is constant.

    Raises:
        ValueError: Fewer than 4 rows, layers, rows or features that don't match, non-finite rows.

    >>> x = torch.randn(1, 100, 8, generator=torch.Generator().manual_seed(0))
    >>> round(matched_cosine(x, -3 * x).item(), 6)
    -1.0
    """
    require_matched_rows(x, y)
    if x.shape[2] != y.shape[2]:
        raise ValueError(
            f"A cosine expects one feature space; `x` has {x.shape[2]} features and `y` {y.shape[2]}. For layers of "
            "different models use `linear_cka`."
        )
    return by_layer(_mean_cosine, x, y)


def _nuclear_norm(x: Tensor, y: Tensor) -> Tensor:
    x, y = _normalised_shape(x), _normalised_shape(y)
    return torch.linalg.svdvals(x.T @ y).sum()


def _normalised_shape(points: Tensor) -> Tensor:
    """Points `(rows, features)` centred and of norm 1, with no more columns than rows: a rotation removes the rest."""
    centred = points - points.mean(dim=0)
    unit = centred / torch.linalg.matrix_norm(centred)
    rows, features = unit.shape
    # unitᵀ = QR, so unit = RᵀQᵀ, and the rotation Q leaves Rᵀ, (rows, rows)
    return unit if features <= rows else torch.linalg.qr(unit.T, mode="r").R.T


def _mean_cosine(x: Tensor, y: Tensor) -> Tensor:
    """Rows of zeros have no direction; their cosines are NaN and are left out."""
    return (unit_rows(x) * unit_rows(y)).sum(dim=1).nanmean()
