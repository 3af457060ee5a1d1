"""Averaged canonical correlations of two layers: SVCCA and PWCCA, from second moments or products of rows.

Each side is reduced to its leading principal components and whitened. With X and Y centred, XᵀX = V Λ Vᵀ and
YᵀY = W M Wᵀ, the columns kept of P = X V Λ^(−1/2) and of Q = Y W M^(−1/2) are orthonormal, and the canonical
correlations are the singular values of PᵀQ = Λ^(−1/2) Vᵀ (XᵀY) W M^(−1/2). Where there are fewer rows than features,
XXᵀ = U Λ Uᵀ is smaller, and P = U.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.analysis.invariances import by_layer, invariant_to, require_matched_rows
from probes.analysis.moments import Moments, exact_mean

_RANK_TOLERANCE = 1e-12
"""The directions of least variance that together hold less than this share of it count as empty: a millionth of the
standard deviation, which float32 activations do not resolve."""


@invariant_to("rotation", "scale", "shift")
def svcca(x: Tensor, y: Tensor, *, variance: float = 0.99, ridge: float = 0.0) -> Tensor:
    """Mean canonical correlation of the leading principal components of two layers.

    On each side the fewest components that explain `variance` are kept; the mean runs over the smaller number kept.
    With `variance=1` it is the mean canonical correlation, unchanged by any invertible linear map of either side.
    Symmetric in x and y.

    Biased upwards: for unrelated isotropic Gaussians of 50 features it is 0.56 at 120 rows, 0.43 at 200, 0.19 at 1,000
    and 0.060 at 10,000; compare with shuffled rows. Outliers and the units of features matter, since they determine
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
    return by_layer(lambda a, b: mean_correlation(WhitenedComponents.of_rows(a, b, truncation)), x, y)


@invariant_to("scale", "shift")
def pwcca(x: Tensor, y: Tensor, *, variance: float = 1.0, ridge: float = 0.0) -> Tensor:
    """Mean canonical correlation, weighted by how much of x each canonical direction accounts for.

    The weight of direction hᵢ of x is Σⱼ |⟨hᵢ, xⱼ⟩| over the features xⱼ of x. **Not symmetric**: the first argument
    gives the weights. With `variance=1` an invertible linear map of y changes nothing; a rotation of x changes the
    weights slightly, since they are sums of absolute values over its features. Where canonical correlations are tied,
    the weights of the tied directions are not unique.

    Biased upwards like `svcca`: 0.58 at 120 rows, 0.44 at 200, 0.19 at 1,000 and 0.060 at 10,000 for unrelated
    isotropic Gaussians of 50 features.

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
    return by_layer(lambda a, b: weighted_correlation(WhitenedComponents.of_rows(a, b, truncation)), x, y)


@dataclass(frozen=True)
class Truncation:
    """Which principal components of each side are kept before canonical correlations are taken.

    Attributes:
        variance: Share of the variance kept, in (0, 1].
        ridge: Share of the mean variance over features that is added to each variance kept.

    Raises:
        ValueError: `variance` or `ridge` is out of range.
    """

    variance: float
    ridge: float

    def __post_init__(self) -> None:
        if not 0 < self.variance <= 1:
            raise ValueError(f"`variance` expects a share in (0, 1]; got {self.variance}.")
        if not 0 <= self.ridge < float("inf"):
            raise ValueError(f"`ridge` expects a share of the mean variance, 0 or more; got {self.ridge}.")


@dataclass(frozen=True)
class WhitenedComponents:
    """Products of the leading principal components P of x and Q of y in one layer, each of norm 1 (less with a ridge).

    Attributes:
        products: PᵀQ, float64, shape `(x_kept, y_kept)`.
        loadings: XᵀP, float64, shape `(x_features, x_kept)`.
    """

    products: Tensor
    loadings: Tensor

    @classmethod
    def of_moments(cls, moments: Moments, truncation: Truncation) -> WhitenedComponents | None:
        """Components from XᵀX, YᵀY and XᵀY; `None` where a side does not vary.

        Raises:
            ValueError: Too few rows for what is kept, and no ridge.
        """
        whitenings = []
        for scatter in (moments.xx, moments.yy):
            values, vectors = torch.linalg.eigh(scatter)
            scale = _inverse_spread(values, len(scatter), truncation)
            if scale is None:
                return None
            whitenings.append(vectors.flip(1)[:, : len(scale)] * scale)  # V Λ^(−1/2), (features, kept)
        x_whitening, y_whitening = whitenings
        _require_more_rows(moments.rows, x_whitening, y_whitening, truncation)
        return cls(x_whitening.mT @ moments.xy @ y_whitening, moments.xx @ x_whitening)

    @classmethod
    def of_rows(cls, x: Tensor, y: Tensor, truncation: Truncation) -> WhitenedComponents | None:
        """As `of_moments`, but from XXᵀ and YYᵀ where there are fewer rows than features.

        Args:
            x: Shape `(rows, x_features)`.
            y: Shape `(rows, y_features)`.
            truncation: What is kept.
        """
        if len(x) >= max(x.shape[1], y.shape[1]):
            return cls.of_moments(Moments.of(x, y), truncation)
        centred = [side - exact_mean(side) for side in (x.double(), y.double())]
        components = []
        for side in centred:
            values, vectors = torch.linalg.eigh(side @ side.mT)
            scale = _inverse_spread(values, side.shape[1], truncation)
            if scale is None:
                return None
            spread = values.flip(0)[: len(scale)].sqrt()
            components.append(vectors.flip(1)[:, : len(scale)] * (spread * scale))  # U, or less with a ridge
        x_components, y_components = components
        _require_more_rows(len(x), x_components, y_components, truncation)
        return cls(x_components.mT @ y_components, centred[0].mT @ x_components)


def mean_correlation(components: WhitenedComponents | None) -> Tensor:
    """SVCCA of one layer, float64 scalar; NaN without components."""
    if components is None:
        return torch.tensor(torch.nan, dtype=torch.float64)
    return torch.linalg.svdvals(components.products).clamp(max=1).mean()


def weighted_correlation(components: WhitenedComponents | None) -> Tensor:
    """PWCCA of one layer, float64 scalar; NaN without components."""
    if components is None:
        return torch.tensor(torch.nan, dtype=torch.float64)
    directions, correlations, _ = torch.linalg.svd(components.products, full_matrices=False)
    weights = (components.loadings @ directions).abs().sum(dim=0)  # ⟨hᵢ, xⱼ⟩ is (features, directions)
    return weights @ correlations.clamp(max=1) / weights.sum()


def _inverse_spread(ascending: Tensor, features: int, truncation: Truncation) -> Tensor | None:
    """λ^(−1/2) of the components kept, the largest λ first, with the ridge added to λ; `None` where nothing varies.

    Args:
        ascending: Eigenvalues as `eigh` gives them.
        features: Features over which the mean variance is taken.
        truncation: What is kept.
    """
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
            f"(now {truncation.variance}), or set a `ridge`."
        )
