"""The shape of a layer's cloud of rows: its intrinsic dimension, and whether all rows point one way."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from probes.analysis.invariances import by_layer, invariant_to, require_rows
from probes.analysis.similarity.hsic import MIN_ROWS
from probes.analysis.similarity.neighbours import distance_matrix


@invariant_to("rotation", "scale", "shift")
def two_nn(x: Tensor, *, discard_share: float = 0.1) -> Tensor:
    """Intrinsic dimension of every layer from the ratio μ of second to first neighbour distance.

    Where density is even over those two neighbours, F(μ) = 1 − μ⁻ᵈ; d is the slope, through the origin, of
    −log(1 − F) on log μ. Rows that are exact duplicates are counted once, as their ratio is undefined: see how many are
    left with `distinct_rows`. High dimensions are underestimated, as no sample fills them: at 2,000 rows a uniform cube
    of 10 dimensions gives 8.5, a Gaussian of 20 gives 17, either of 50 about 32. Noise of low variance counts in full
    if neighbours are closer than it is wide. Do not bootstrap: use subsamples.

    Args:
        x: Shape `(layers, rows, features)`.
        discard_share: Share of the largest ratios left out of the fit, in [0, 1); the very largest always is.

    Returns:
        float64, shape `(layers,)`, positive, in dimensions; NaN with fewer than 4 distinct rows, or where the two
        nearest are equally far for every row that is fitted, as on a lattice.

    Raises:
        ValueError: Fewer than 4 rows, non-finite rows, `discard_share` out of its range.

    Source:
        Facco et al. 2017, Scientific Reports 7:12140.
    """
    if not 0 <= discard_share < 1:
        raise ValueError(f"`discard_share` expects a share from 0 up to, not including, 1; got {discard_share}.")
    require_rows(x)
    return by_layer(partial(_dimension, discard_share=discard_share), x)


def distinct_rows(x: Tensor) -> Tensor:
    """How many different rows every layer has; `two_nn` uses these.

    Args:
        x: Shape `(layers, rows, features)`.

    Returns:
        int64, shape `(layers,)`.

    Raises:
        ValueError: Fewer than 4 rows, non-finite rows.

    >>> distinct_rows(torch.tensor([[[1.0], [2.0], [1.0], [1.0]]])).tolist()
    [2]
    """
    require_rows(x)
    return torch.tensor([len(layer.unique(dim=0)) for layer in x], device=x.device)


def _dimension(points: Tensor, *, discard_share: float) -> Tensor:
    points = points.unique(dim=0)
    if len(points) < MIN_ROWS:
        return points.new_tensor(torch.nan)
    first, second = distance_matrix(points).fill_diagonal_(torch.inf).topk(2, dim=1, largest=False).values.T
    log_ratio = (second / first).log().sort().values
    rows = len(points)
    kept = max(1, min(rows - 1, round(rows * (1 - discard_share))))
    below = torch.arange(1, kept + 1, dtype=torch.float64, device=points.device) / rows
    x, y = log_ratio[:kept], -torch.log1p(-below)
    return (x @ y) / (x @ x)


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
