"""Canonical correlations of two layers, averaged: SVCCA and PWCCA, from second moments or products of rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.analysis.invariances import by_layer, invariant_to, require_matched_rows
from probes.analysis.moments import Moments, exact_mean

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
    return by_layer(lambda one, other: mean_correlation(Components.of_rows(one, other, truncation)), x, y)


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
    return by_layer(lambda one, other: weighted_correlation(Components.of_rows(one, other, truncation)), x, y)


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
            raise ValueError(f"`variance` expects a share in (0, 1]; got {self.variance}.")
        if not 0 <= self.ridge < float("inf"):
            raise ValueError(f"`ridge` expects a share of the mean variance, 0 or more; got {self.ridge}.")


@dataclass(frozen=True)
class Components:
    """Leading principal components of two sides of one layer, each scaled to unit norm (less with a ridge).

    Attributes:
        products: Of each component of x with each of y, float64, shape `(x_kept, y_kept)`.
        loadings: Of each feature of x with each component of x, float64, shape `(x_features, x_kept)`.
    """

    products: Tensor
    loadings: Tensor

    @classmethod
    def of_moments(cls, moments: Moments, truncation: Truncation) -> Components | None:
        """Components from second moments; `None` where a side does not vary.

        Raises:
            ValueError: Too few rows for what is kept, and no ridge.
        """
        whitenings = []
        for scatter in (moments.xx, moments.yy):
            values, vectors = torch.linalg.eigh(scatter)
            scale = _scale(values, len(scatter), truncation)
            if scale is None:
                return None
            whitenings.append(vectors.flip(1)[:, : len(scale)] * scale)
        x_whitening, y_whitening = whitenings
        _require_more_rows(moments.rows, x_whitening, y_whitening, truncation)
        return cls(x_whitening.mT @ moments.xy @ y_whitening, moments.xx @ x_whitening)

    @classmethod
    def of_rows(cls, x: Tensor, y: Tensor, truncation: Truncation) -> Components | None:
        """As `of_moments`, from the products of rows where these are fewer than the features."""
        if len(x) >= max(x.shape[1], y.shape[1]):
            return cls.of_moments(Moments.of(x, y), truncation)
        centred = [side - exact_mean(side) for side in (x.double(), y.double())]
        components = []
        for side in centred:
            values, vectors = torch.linalg.eigh(side @ side.mT)
            scale = _scale(values, side.shape[1], truncation)
            if scale is None:
                return None
            spread = values.flip(0)[: len(scale)].sqrt()
            components.append(vectors.flip(1)[:, : len(scale)] * (spread * scale))
        x_components, y_components = components
        _require_more_rows(len(x), x_components, y_components, truncation)
        return cls(x_components.mT @ y_components, centred[0].mT @ x_components)


def mean_correlation(components: Components | None) -> Tensor:
    """SVCCA of one layer, float64 scalar; NaN without components."""
    if components is None:
        return torch.tensor(torch.nan, dtype=torch.float64)
    return torch.linalg.svdvals(components.products).clamp(max=1).mean()


def weighted_correlation(components: Components | None) -> Tensor:
    """PWCCA of one layer, float64 scalar; NaN without components."""
    if components is None:
        return torch.tensor(torch.nan, dtype=torch.float64)
    directions, correlations, _ = torch.linalg.svd(components.products, full_matrices=False)
    weights = (components.loadings @ directions).abs().sum(dim=0)
    return weights @ correlations.clamp(max=1) / weights.sum()


def _scale(ascending: Tensor, features: int, truncation: Truncation) -> Tensor | None:
    """1 / spread of the components kept, the largest first; `None` where nothing varies."""
    values = ascending.flip(0).clamp(min=0)
    if not values.sum() > 0:
        return None
    share = values.cumsum(0) / values.sum()
    kept = int((share < truncation.variance - _RANK_TOLERANCE).sum()) + 1
    return (values[:kept] + truncation.ridge * values.sum() / features).rsqrt()


def _require_more_rows(rows: int, x: Tensor, y: Tensor, truncation: Truncation) -> None:
    x_kept, y_kept = x.shape[1], y.shape[1]
    if truncation.ridge == 0 and x_kept + y_kept >= rows:
        raise ValueError(
            f"Canonical correlations of {x_kept} and {y_kept} components expect more than {x_kept + y_kept} rows, or "
            f"some are 1 whatever the data; got {rows}. Keep fewer components with a smaller `variance` "
            f"(now {truncation.variance}), or ask for a `ridge`."
        )
