"""Do all rows of a layer point one way? The mean cosine of distinct rows."""

from __future__ import annotations

import torch
from torch import Tensor

from probes.analysis.invariances import by_layer, invariant_to, require_rows


@invariant_to("rotation", "scale")
def anisotropy(x: Tensor) -> Tensor:
    """Mean cosine of two distinct rows of a layer: 0 where directions are spread evenly, near 1 in a narrow cone.

    Not centred: a shared mean is what it measures. Unbiased: over u the rows at unit length it is
    (‖Σu‖² − n) / (n (n − 1)), the mean over pairs of distinct rows, so rows at random average 0 whatever n (eight
    isotropic Gaussians 576 wide: within ±0.001 at 100 rows, ±0.0002 at 1,000).

    Args:
        x: Shape `(layers, rows, features)`.

    Returns:
        float64, shape `(layers,)`, from −1/(n − 1) to 1, over the n rows that are not all zeros; NaN where fewer than 2
        such rows are left, and where a layer is constant.

    Raises:
        ValueError: Fewer than 4 rows, or rows that are not finite.

    Source:
        Ethayarajh 2019, arXiv:1909.00512.
    """
    require_rows(x)
    return by_layer(lambda layer: mean_cosine_of_sums(*sum_of_directions(layer)), x)


def sum_of_directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows at unit length, summed, and how many rows have a direction, that is are not all zeros.

    Args:
        x: Shape `(…, rows, features)`.

    Returns:
        float64, shapes `(…, features)` and `(…)`.
    """
    wide = x.double()
    lengths = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    has_direction = lengths > 0
    return torch.where(has_direction, wide / lengths, 0).sum(-2), has_direction.double().sum((-1, -2))


def mean_cosine_of_sums(total: Tensor, rows: Tensor) -> Tensor:
    """Mean cosine of distinct rows from `sum_of_directions`; NaN for fewer than 2 rows."""
    return (total.square().sum(-1) - rows) / (rows * (rows - 1))
