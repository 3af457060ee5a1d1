from __future__ import annotations

import numpy as np
from profile_samples import normal

from probes.analysis.bands import null_models


def test_the_restricted_likelihood_is_the_density_of_contrasts_orthogonal_to_the_design():
    """The reference evaluates the Gaussian density of the contrasts at the scale that maximises it."""
    layers, columns = 9, 2
    design = null_models.linear_trend(layers)
    contrasts = np.linalg.svd(design)[0][:, columns:]
    profile = normal(layers, seed=17)

    def density(covariance: np.ndarray) -> float:
        of_contrasts = contrasts.T @ covariance @ contrasts
        z, free = contrasts.T @ profile, layers - columns
        scale = z @ np.linalg.solve(of_contrasts, z) / free
        determinant = np.linalg.slogdet(scale * of_contrasts)[1]
        return -0.5 * (determinant + free + free * np.log(2 * np.pi))

    expected = np.array([density(covariance) for covariance in null_models.null_covariances(layers)])
    ours = null_models.null_log_likelihoods(profile[None], design)[:, 0]
    np.testing.assert_allclose(ours - ours[0], expected - expected[0], atol=1e-8)
    assert np.ptp(expected) > 0.5


def test_simulated_profiles_have_the_covariances_of_the_grid():
    draws = null_models.null_draws(8, 20_000)
    for profiles, covariance in zip(draws, null_models.null_covariances(8), strict=True):
        error = np.cov(profiles.T) - covariance
        assert np.abs(error).max() < 0.05 * covariance.max()
    assert np.abs(draws[0] - draws[1]).max() > 1
    np.testing.assert_allclose(null_models.null_covariances(8)[6, 0, :3], [1, 0.9, 0.81])


def test_drifts_have_their_variance_ratio_and_curves_are_smoother_than_walks():
    layers = 20
    covariances = null_models.null_covariances(layers)[len(null_models.AR_COEFFICIENTS) :] - np.eye(layers)
    line = np.column_stack([np.ones(layers), np.arange(layers)])
    about_line = np.eye(layers) - line @ np.linalg.pinv(line)
    ratios = np.trace(about_line @ covariances @ about_line, axis1=1, axis2=2) / layers
    np.testing.assert_allclose(ratios, null_models.WALK_VARIANCE_RATIOS + null_models.CURVE_VARIANCE_RATIOS)
    bend = np.diff(np.eye(layers), n=2, axis=0)
    roughness = np.trace(bend @ covariances @ bend.T, axis1=1, axis2=2) / ratios
    walks = len(null_models.WALK_VARIANCE_RATIOS)
    assert roughness[walks:].max() < 0.1 * roughness[:walks].min()
