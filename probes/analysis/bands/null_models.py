"""Profiles over layers without level shifts: a linear trend plus Gaussian noise that may be autocorrelated.

Neighbouring layers have similar values, so a test that assumes independent noise finds a change point in every slow
drift. The null model is y = Xβ + ε with X an intercept and a linear trend and ε ~ N(0, τ²V), where V is any of a grid
of covariances over the layers:

    AR(1)                     Vᵢⱼ = φ^|i−j|      φ from 0 (white noise) to 0.95
    random walk + noise       V = I + r·C        C the covariance of a random walk, scaled: a rough drift
    smooth curve + noise      V = I + r·C        C that of an integrated random walk, scaled: the prior of a cubic
                                                 smoothing spline (Wahba 1978)

Models are compared by their restricted likelihood (REML; Patterson and Thompson 1971), the likelihood of the n − p
contrasts of the profile that are orthogonal to the design X of p columns. It does not depend on β. With the scale
τ² = RSS / (n − p) that maximises it, and RSS the generalised least squares (GLS) residual sum of squares,

    logL(V) = −½ log|V| − ½ log|XᵀV⁻¹X| − (n − p)/2 · log RSS + constant                                          (1)

The constant is the same for all V.
"""

from __future__ import annotations

from functools import cache

import numpy as np

AR_COEFFICIENTS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 0.95)
"""φ: correlation of neighbouring layers."""
WALK_VARIANCE_RATIOS = (0.3, 1.0, 3.0, 10.0)
CURVE_VARIANCE_RATIOS = (0.3, 3.0, 30.0)
"""r: mean variance of the drift about its linear trend over the variance of the white noise."""


@cache
def null_covariances(layers: int) -> np.ndarray:
    """The grid of noise covariances over layers.

    Args:
        layers: Length of the profile, n.

    Returns:
        float64, shape `(covariances, layers, layers)`; the first is white noise. Their scales are arbitrary.
    """
    order = np.arange(layers)
    cumulative_sum = np.tril(np.ones((layers, layers)))
    walk = cumulative_sum @ cumulative_sum.T
    curve = cumulative_sum @ cumulative_sum @ cumulative_sum.T @ cumulative_sum.T
    covariances = [coefficient ** np.abs(np.subtract.outer(order, order)) for coefficient in AR_COEFFICIENTS]
    for covariance, ratios in ((walk, WALK_VARIANCE_RATIOS), (curve, CURVE_VARIANCE_RATIOS)):
        scaled = covariance / _variance_about_trend(covariance)
        covariances += [np.eye(layers) + ratio * scaled for ratio in ratios]
    return np.stack(covariances)


def null_log_likelihoods(profiles: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Restricted log-likelihood of profiles under every noise covariance, equation (1).

    Adding any combination of the design's columns to a profile does not change it.

    Args:
        profiles: float64, shape `(profiles, layers)`.
        design: Regressors X, shape `(layers, columns)`, of full column rank.

    Returns:
        float64, shape `(covariances, profiles)`, in nats, without the constant.
    """
    residual_makers, log_determinants = gls_residual_makers(null_covariances(len(design)), design)
    squares = np.square(profiles @ residual_makers.mT).sum(-1)  # (covariances, profiles)
    return restricted_log_likelihood(squares, log_determinants[:, None], design)


def gls_residual_makers(covariances: np.ndarray, design: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matrices that take a profile to its whitened GLS residual, and the determinant terms of equation (1).

    Args:
        covariances: V, shape `(..., layers, layers)`.
        design: X, shape `(layers, columns)`.

    Returns:
        M of shape `(..., layers, layers)`, with RSS = ‖M y‖², and −½ log|V| − ½ log|XᵀV⁻¹X| of shape `(...)`.
    """
    factors = np.linalg.cholesky(covariances)  # V = LLᵀ
    whiteners = np.linalg.inv(factors)
    bases, triangles = np.linalg.qr(whiteners @ design)  # L⁻¹X = QR, so XᵀV⁻¹X = RᵀR
    log_determinants = -_log_diagonal(factors) - _log_diagonal(triangles)
    return whiteners - bases @ (bases.mT @ whiteners), log_determinants  # M = (I − QQᵀ) L⁻¹


def restricted_log_likelihood(squares: np.ndarray, log_determinants: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Equation (1) from residual sums of squares and determinant terms; `inf` where the residual is 0."""
    layers, columns = design.shape
    with np.errstate(divide="ignore"):
        return log_determinants - (layers - columns) / 2 * np.log(squares)


@cache
def null_draws(layers: int, draws: int) -> np.ndarray:
    """Gaussian profiles with every noise covariance and mean 0, shape `(covariances, draws, layers)`.

    They are the same on every call. A trend and a scale need not be simulated, because no statistic of this package
    depends on them.
    """
    factors = np.linalg.cholesky(null_covariances(layers))
    white = np.random.default_rng(0).standard_normal((len(factors), draws, layers))
    return white @ factors.swapaxes(1, 2)


def linear_trend(layers: int) -> np.ndarray:
    """Intercept and slope, shape `(layers, 2)`; the slope's column has mean 0."""
    order = np.arange(layers, dtype=np.float64)
    return np.stack([np.ones(layers), order - order.mean()], axis=1)


def _log_diagonal(matrices: np.ndarray) -> np.ndarray:
    """Sum of the logarithms of the absolute diagonal: ½ log|AAᵀ| of a triangular A; shape `(...)`."""
    return np.log(np.abs(np.diagonal(matrices, axis1=-2, axis2=-1))).sum(-1)


def _variance_about_trend(covariance: np.ndarray) -> float:
    """Mean variance over layers after a linear trend is removed by least squares: tr((I − QQᵀ) C) / n."""
    layers = len(covariance)
    basis = np.linalg.qr(linear_trend(layers))[0]
    return float((np.trace(covariance) - np.trace(basis.T @ covariance @ basis)) / layers)
