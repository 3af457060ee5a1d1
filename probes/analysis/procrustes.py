"""How well does a rotation carry one layer onto another?"""

from __future__ import annotations

import torch
from torch import Tensor

from probes.analysis.invariances import by_layer, invariant_to, require_matched_rows


@invariant_to("rotation", "scale", "shift")
def procrustes_similarity(x: Tensor, y: Tensor) -> Tensor:
    """One less half the squared Procrustes distance of matched layers, centred and of Frobenius norm 1.

    That is the nuclear norm ‖xᵀy‖. There is no correction for chance: biased upwards unless rows are many times
    features. For independent Gaussian noise 576 wide it is 0.78 at 500 rows, 0.44 at 2,000 and 0.23 at 8,000. Compare
    only values with the same rows and widths, and show that floor (`y` with its rows permuted) beside them.

    Args:
        x: Shape `(layers, rows, x_features)`.
        y: Shape `(layers, rows, y_features)`; row `i` is the same sample as row `i` of `x`. If the widths differ the
            narrower one is as if padded with zeros.

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
    return by_layer(_similarity, x, y)


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    x, y = _shape_of(x), _shape_of(y)
    return torch.linalg.svdvals(x.T @ y).sum()


def _shape_of(points: Tensor) -> Tensor:
    """Centred, of norm 1, and no wider than there are rows, which a rotation of the features always allows."""
    centred = points - points.mean(dim=0)
    unit = centred / torch.linalg.matrix_norm(centred)
    rows, features = unit.shape
    return unit if features <= rows else torch.linalg.qr(unit.T, mode="r").R.T
