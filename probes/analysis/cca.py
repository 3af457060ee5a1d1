"""Canonical correlations of two layers, averaged: SVCCA and PWCCA, from second moments alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.analysis.invariances import by_layer, invariant_to, require_matched_rows
from probes.analysis.moments import Moments

_RANK_TOLERANCE = 1e-12
"""A side's faintest directions that together hold less than this share of its variance count as empty: a millionth of
its spread, which float32 activations do not resolve."""


@invariant_to("rotation", "scale", "shift")
def svcca(x: Tensor, y: Tensor, *, variance: float = 0.99, ridge: float = 0.0) -> Tensor:
    """Mean canonical correlation of the leading principal components of two layers.

    On each side the fewest components that explain `variance` are kept; the mean runs over the smaller number kept.
    With `variance=1` it is the mean canonical correlation, unchanged by any invertible linear map of either side.
    Symmetric in x and y.

    Biased upwards: for unrelated isotropic Gaussians 50 features wide it is 0.56 at 120 rows, 0.43 at 200, 0.19 at
    1,000 and 0.060 at 10,000; compare with shuffled rows. Outliers and the units of features matter, since they decide
    which components are kept.

    Args:
        x: Activations of one model, shape `(layers, rows, x_features)`.
        y: Activations of another, shape `(layers, rows, y_features)`; layer and row `i` go with those of `x`.
        variance: Share of each side's variance to keep, in (0, 1].
        ridge: Added to each variance kept, as a share of the mean variance over all features of that side; 0 adds
            nothing.

    Returns:
        float64, shape `(layers,)`, in [0, 1]; NaN where a layer is constant.

    Raises:
        ValueError: The layers or rows differ, rows are not finite or fewer than 4; or, without ridge, a layer keeps as
            many components of both sides together as there are rows: some correlations are then 1 whatever the data.

    Source:
        Raghu et al. 2017, arXiv:1706.05806.

    >>> x = torch.randn(1, 200, 8, generator=torch.Generator().manual_seed(0))
    >>> svcca(x, 5 - 2 * x.flip(-1)).round(decimals=6).tolist()
    [1.0]
    """
    truncation = Truncation(variance=variance, ridge=ridge)
    require_matched_rows(x, y)
    return by_layer(lambda one, other: svcca_of_moments(Moments.of(one, other), truncation), x, y)


@invariant_to("scale", "shift")
def pwcca(x: Tensor, y: Tensor, *, variance: float = 1.0, ridge: float = 0.0) -> Tensor:
    """Canonical correlations weighted by how much of x each canonical direction carries.

    The weight of direction h_i of x is Σ_j |⟨h_i, x_j⟩| over the features x_j of x. **Not symmetric**: the first
    argument gives the weights. With `variance=1` any invertible linear map of y changes nothing; a rotation of x moves
    the weights slightly, since they are sums of absolute values over its features. Where canonical correlations are
    tied, the weights of the tied directions are not unique.

    Biased upwards like `svcca`: 0.58 at 120 rows, 0.44 at 200, 0.19 at 1,000 and 0.060 at 10,000 for unrelated
    isotropic Gaussians 50 features wide.

    Args:
        x: Shape `(layers, rows, x_features)`.
        y: Shape `(layers, rows, y_features)`; layer and row `i` go with those of `x`.
        variance: Share of each side's variance to keep, in (0, 1]; default all.
        ridge: As in `svcca`.

    Returns:
        float64, shape `(layers,)`, in [0, 1]; NaN where a layer is constant.

    Raises:
        ValueError: As in `svcca`.

    Source:
        Morcos et al. 2018, arXiv:1806.05759.
    """
    truncation = Truncation(variance=variance, ridge=ridge)
    require_matched_rows(x, y)
    return by_layer(lambda one, other: pwcca_of_moments(Moments.of(one, other), truncation), x, y)


@dataclass(frozen=True)
class Truncation:
    """What is kept of each side before canonical correlations are taken.

    Attributes:
        variance: Share of the variance kept, in (0, 1].
        ridge: Share of the mean variance over features added to each variance kept.
    """

    variance: float
    ridge: float

    def __post_init__(self) -> None:
        if not 0 < self.variance <= 1:
            raise ValueError(f"`variance` wants a share in (0, 1]; got {self.variance}.")
        if not 0 <= self.ridge < float("inf"):
            raise ValueError(f"`ridge` wants a share of the mean variance, 0 or more; got {self.ridge}.")


def svcca_of_moments(moments: Moments, truncation: Truncation) -> Tensor:
    """SVCCA of one layer, float64 scalar; see `svcca`."""
    whitening = _whitenings(moments, truncation)
    if whitening is None:
        return moments.xy.new_tensor(torch.nan)
    x_whitening, y_whitening = whitening
    return torch.linalg.svdvals(x_whitening.mT @ moments.xy @ y_whitening).clamp(max=1).mean()


def pwcca_of_moments(moments: Moments, truncation: Truncation) -> Tensor:
    """PWCCA of one layer, float64 scalar; see `pwcca`."""
    whitening = _whitenings(moments, truncation)
    if whitening is None:
        return moments.xy.new_tensor(torch.nan)
    x_whitening, y_whitening = whitening
    directions, correlations, _ = torch.linalg.svd(x_whitening.mT @ moments.xy @ y_whitening, full_matrices=False)
    weights = (moments.xx @ x_whitening @ directions).abs().sum(dim=0)
    return weights @ correlations.clamp(max=1) / weights.sum()


def _whitenings(moments: Moments, truncation: Truncation) -> tuple[Tensor, Tensor] | None:
    """What makes the kept components of each side orthonormal; `None` where a side does not vary."""
    if not (moments.xx.trace() > 0 and moments.yy.trace() > 0):
        return None
    whitenings = _whitening(moments.xx, truncation), _whitening(moments.yy, truncation)
    kept = [side.shape[1] for side in whitenings]
    if truncation.ridge == 0 and sum(kept) >= moments.rows:
        raise ValueError(
            f"Canonical correlations of {kept[0]} and {kept[1]} components want more than {sum(kept)} rows, or some "
            f"are 1 whatever the data; got {moments.rows}. Keep fewer components with a smaller `variance` "
            f"(now {truncation.variance}), or ask for a `ridge`."
        )
    return whitenings


def _whitening(scatter: Tensor, truncation: Truncation) -> Tensor:
    """Shape `(features, kept)`."""
    values, vectors = torch.linalg.eigh(scatter)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    share = values.cumsum(0) / values.sum()
    kept = int((share < truncation.variance - _RANK_TOLERANCE).sum()) + 1
    return vectors[:, :kept] / (values[:kept] + truncation.ridge * values.mean()).sqrt()
