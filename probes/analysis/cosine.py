"""How far has each sample turned, in one feature space?"""

from __future__ import annotations

from torch import Tensor

from probes.analysis.invariances import by_layer, invariant_to, require_matched_rows
from probes.analysis.neighbours import directions


@invariant_to("scale")
def matched_cosine(x: Tensor, y: Tensor) -> Tensor:
    """Mean over rows of the cosine between a row of `x` and the same row of `y`.

    Meaningful only where feature `j` is the same in both, as in a model before and after tuning. Nothing is centred: a
    large vector that all rows share, common in language models, brings it near 1 whatever else differs. The mean
    is unbiased for the mean over samples; by chance it is the cosine of the two mean rows, or 0 without those.

    Args:
        x: Shape `(layers, rows, features)`.
        y: The same shape; row `i` is the same sample as row `i` of `x`.

    Returns:
        float64, shape `(layers,)`, in [−1, 1], over the rows that are all zeros in neither `x` nor `y`. NaN where no
        such row is left, and where a layer is constant.

    Raises:
        ValueError: Fewer than 4 rows, layers, rows or features that don't match, non-finite rows.

    >>> import torch
    >>> x = torch.randn(1, 100, 8, generator=torch.Generator().manual_seed(0))
    >>> round(matched_cosine(x, -3 * x).item(), 6)
    -1.0
    """
    require_matched_rows(x, y)
    if x.shape[2] != y.shape[2]:
        raise ValueError(
            f"A cosine wants one feature space; `x` has {x.shape[2]} features and `y` {y.shape[2]}. For layers of "
            "different models use `linear_cka`."
        )
    return by_layer(_mean_cosine, x, y)


def _mean_cosine(x: Tensor, y: Tensor) -> Tensor:
    """Rows without a direction are NaN, and left out."""
    return (directions(x) * directions(y)).sum(dim=1).nanmean()
