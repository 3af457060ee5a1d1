"""The rows of a layer as a cloud of points: its intrinsic dimension, and how narrow a cone of directions it fills."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from probes.analysis.invariances import by_layer, invariant_to, require_rows
from probes.analysis.similarity.hsic import MIN_ROWS
from probes.analysis.similarity.neighbours import distance_matrix


@invariant_to("rotation", "scale", "shift")
def two_nn(x: Tensor, *, discard_share: float = 0.1) -> Tensor:
    """Intrinsic dimension of every layer, estimated from each row's two nearest neighbours (TwoNN).

    Let μ = r₂ / r₁ be the ratio of a row's distances to its second and its first neighbour. Where the density is
    constant over the range of both, μ is Pareto distributed with the dimension d as its exponent, F(μ) = 1 − μ⁻ᵈ, so d
    is the slope through the origin of −log(1 − F) on log μ, with F the empirical distribution.

    Biased downwards in high dimensions, which no realistic sample fills: with 2,000 rows the estimate is 8.5 for a
    uniform cube of 10 dimensions, 17 for a Gaussian of 20, and about 32 for either of 50. Noise counts as a full
    dimension where it is wider than the distance between neighbours, however small its variance. Rows drawn with
    replacement would be each other's neighbours, so intervals must come from subsamples.

    Args:
        x: Shape `(layers, rows, features)`. Exact duplicates are counted once, as μ is undefined for them;
            `distinct_rows` tells how many rows are left.
        discard_share: Share of rows with the largest ratios that are left out of the fit, in [0, 1). The largest ratio
            is always left out, as F = 1 there.

    Returns:
        float64, shape `(layers,)`, positive, in dimensions; NaN with fewer than 4 distinct rows, and where all fitted
        rows have two neighbours at the same distance, as on a lattice.

    Raises:
        ValueError: Fewer than 4 rows, rows that are not finite, or `discard_share` out of its range.

    Source:
        Facco et al. 2017, Scientific Reports 7:12140.
    """
    if not 0 <= discard_share < 1:
        raise ValueError(f"`discard_share` must be at least 0 and less than 1; got {discard_share}.")
    require_rows(x)
    return by_layer(partial(_dimension, discard_share=discard_share), x)


def distinct_rows(x: Tensor) -> Tensor:
    """Number of distinct rows of every layer, which is the number that `two_nn` uses.

    Args:
        x: Shape `(layers, rows, features)`.

    Returns:
        int64, shape `(layers,)`.

    Raises:
        ValueError: Fewer than 4 rows, or rows that are not finite.

    >>> distinct_rows(torch.tensor([[[1.0], [2.0], [1.0], [1.0]]])).tolist()
    [2]
    """
    require_rows(x)
    return torch.tensor([len(layer.unique(dim=0)) for layer in x], device=x.device)


def _dimension(points: Tensor, *, discard_share: float) -> Tensor:
    """TwoNN estimate of one layer, float64 `(rows, features)` → scalar."""
    points = points.unique(dim=0)
    if len(points) < MIN_ROWS:
        return points.new_tensor(torch.nan)
    # distances to the first and second neighbour, (rows,) each; infinity keeps a row from being its own neighbour
    first, second = distance_matrix(points).fill_diagonal_(torch.inf).topk(2, dim=1, largest=False).values.T
    log_ratio = (second / first).log().sort().values
    rows = len(points)
    kept = max(1, min(rows - 1, round(rows * (1 - discard_share))))
    empirical = torch.arange(1, kept + 1, dtype=torch.float64, device=points.device) / rows  # F of the i-th ratio: i/n
    x, y = log_ratio[:kept], -torch.log1p(-empirical)
    return (x @ y) / (x @ x)  # least squares without intercept


@invariant_to("rotation", "scale")
def anisotropy(x: Tensor) -> Tensor:
    """Mean cosine between distinct rows of a layer: 0 if directions are spread evenly, near 1 in a narrow cone.

    Rows are not centred, because a shared mean direction is what the quantity measures. Unbiased: with the n rows at
    unit length u₁ … uₙ it is

        Σ_{i≠j} uᵢ·uⱼ / (n (n − 1)) = (‖Σᵢ uᵢ‖² − n) / (n (n − 1))

    so isotropic rows average 0 at any n (eight isotropic Gaussians of 576 features: within ±0.001 with 100 rows and
    ±0.0002 with 1,000).

    Args:
        x: Shape `(layers, rows, features)`. Rows of zeros have no direction and are left out.

    Returns:
        float64, shape `(layers,)`, from −1/(n − 1) to 1; NaN with fewer than 2 non-zero rows, and where a layer is
        constant.

    Raises:
        ValueError: Fewer than 4 rows, or rows that are not finite.

    Source:
        Ethayarajh 2019, arXiv:1909.00512.
    """
    require_rows(x)
    return by_layer(lambda layer: mean_cosine_of_sums(*sum_of_directions(layer)), x)


def sum_of_directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the rows at unit length, and the number of rows that are not all zeros and so have a direction.

    Both are sums over rows, so those of batches add up to those of all rows.

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
    """Mean cosine between distinct rows from the two results of `sum_of_directions`; NaN with fewer than 2 rows."""
    return (total.square().sum(-1) - rows) / (rows * (rows - 1))
