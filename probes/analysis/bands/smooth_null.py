"""What a profile over layers looks like without bands: a straight line plus scatter that may drift along the layers.

Neighbouring layers resemble each other, so a detector that assumes independent layers sees a boundary in every drift.
The drifts considered here: AR(1) with coefficients from 0 (white) to 0.95, and white scatter on top of a random walk
(rough drift) or of an integrated random walk (smooth curve, the prior of a cubic smoothing spline), in several shares.
"""

from __future__ import annotations

from functools import cache

import numpy as np

AR_COEFFICIENTS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 0.95)
WALK_SHARES = (0.3, 1.0, 3.0, 10.0)
CURVE_SHARES = (0.3, 3.0, 30.0)
"""Mean variance of a drift about its straight line, over that of the white scatter added to it."""


@cache
def smooth_covariances(layers: int) -> np.ndarray:
    """Covariances over layers of every drift considered.

    Args:
        layers: Length of the profile.

    Returns:
        float64, shape `(drifts, layers, layers)`; the first is white. Scales are arbitrary.
    """
    order = np.arange(layers)
    steps = np.tril(np.ones((layers, layers)))
    walk, curve = steps @ steps.T, steps @ steps @ steps.T @ steps.T
    drifts = [coefficient ** np.abs(np.subtract.outer(order, order)) for coefficient in AR_COEFFICIENTS]
    for covariance, shares in ((walk, WALK_SHARES), (curve, CURVE_SHARES)):
        about_line = covariance / _variance_about_line(covariance)
        drifts += [np.eye(layers) + share * about_line for share in shares]
    return np.stack(drifts)


def smooth_log_likelihoods(profiles: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Restricted log-likelihood of profiles under every drift.

    Unchanged by adding to a profile any combination of the design's columns.

    Args:
        profiles: float64, shape `(profiles, layers)`.
        design: What is known beside the drift, shape `(layers, columns)`, of full column rank.

    Returns:
        float64, shape `(drifts, profiles)`, in nats, up to a constant that depends on the two shapes alone.
    """
    residual_makers, offsets = whitening(smooth_covariances(len(design)), design)
    squares = np.square(profiles @ residual_makers.mT).sum(-1)
    return log_likelihood(squares, offsets[:, None], design)


def whitening(covariances: np.ndarray, design: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Generalised least squares for given covariances.

    Args:
        covariances: Shape `(..., layers, layers)`.
        design: Shape `(layers, columns)`.

    Returns:
        Matrices of shape `(..., layers, layers)` that take a profile to its whitened residual, and the determinant
        terms of the restricted log-likelihood, shape `(...)`.
    """
    factors = np.linalg.cholesky(covariances)
    whiteners = np.linalg.inv(factors)
    bases, triangles = np.linalg.qr(whiteners @ design)
    offsets = -_log_diagonal(factors) - _log_diagonal(triangles)
    return whiteners - bases @ (bases.mT @ whiteners), offsets


def log_likelihood(squares: np.ndarray, offset: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Restricted log-likelihood at the best scale, given whitened residual sums of squares; `inf` where they are 0."""
    layers, columns = design.shape
    with np.errstate(divide="ignore"):
        return offset - (layers - columns) / 2 * np.log(squares)


@cache
def smooth_draws(layers: int, draws: int) -> np.ndarray:
    """Gaussian profiles of every drift about the line 0, the same on every call, shape `(drifts, draws, layers)`."""
    factors = np.linalg.cholesky(smooth_covariances(layers))
    white = np.random.default_rng(0).standard_normal((len(factors), draws, layers))
    return white @ factors.swapaxes(1, 2)


def straight_line(layers: int) -> np.ndarray:
    """Intercept and slope, shape `(layers, 2)`; the slope's column has mean 0."""
    order = np.arange(layers, dtype=np.float64)
    return np.stack([np.ones(layers), order - order.mean()], axis=1)


def _log_diagonal(matrices: np.ndarray) -> np.ndarray:
    return np.log(np.abs(np.diagonal(matrices, axis1=-2, axis2=-1))).sum(-1)


def _variance_about_line(covariance: np.ndarray) -> float:
    layers = len(covariance)
    basis = np.linalg.qr(straight_line(layers))[0]
    return float((np.trace(covariance) - np.trace(basis.T @ covariance @ basis)) / layers)
