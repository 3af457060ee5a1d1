from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from gaussian_rows import draw
from sklearn.cross_decomposition import CCA

from probes.analysis.moments import Moments
from probes.analysis.similarity.cca import (
    Truncation,
    WhitenedComponents,
    mean_correlation,
    pwcca,
    svcca,
    weighted_correlation,
)


def related(rows: int = 150, x_features: int = 8, y_features: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer a side: unequal spreads, off the origin, a few directions in common."""
    x = draw(1, rows, x_features) * torch.logspace(0.5, -0.5, x_features) + 3
    y = x[..., :y_features] @ draw(y_features, y_features, seed=1) + 2 * draw(1, rows, y_features, seed=2)
    return x, y


def centred(layer: torch.Tensor) -> np.ndarray:
    return (layer - layer.mean(0)).numpy()


def principal_scores(layer: torch.Tensor, variance: float) -> np.ndarray:
    """Orthonormal columns from the SVD of the raw rows: the fewest that explain `variance`."""
    left, singular, _ = np.linalg.svd(centred(layer), full_matrices=False)
    share = np.cumsum(singular**2) / np.sum(singular**2)
    return left[:, : int(np.argmax(share >= variance)) + 1]


def invertible(features: int, seed: int) -> torch.Tensor:
    return draw(features, features, seed=seed) * torch.linspace(0.2, 3, features, dtype=torch.float64)


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99])
def test_svcca_is_the_mean_cosine_between_the_spans_of_the_leading_components(variance: float):
    x, y = related()
    angles = scipy.linalg.subspace_angles(principal_scores(x[0], variance), principal_scores(y[0], variance))
    assert svcca(x, y, variance=variance).item() == pytest.approx(np.cos(angles).mean(), abs=1e-10)


def test_svcca_of_all_variance_is_the_mean_canonical_correlation_of_the_rows():
    x, y = related()
    angles = scipy.linalg.subspace_angles(centred(x[0]), centred(y[0]))
    assert svcca(x, y, variance=1).item() == pytest.approx(np.cos(angles).mean(), abs=1e-10)


def test_one_feature_against_many_is_the_first_correlation_scikit_learn_finds():
    x, y = related(y_features=1)
    x_scores, y_scores = CCA(n_components=1, max_iter=5000, tol=1e-14).fit_transform(x[0].numpy(), y[0].numpy())
    expected = np.corrcoef(np.ravel(x_scores), np.ravel(y_scores))[0, 1]
    assert svcca(x, y, variance=1).item() == pytest.approx(expected, abs=1e-8)
    assert pwcca(x, y).item() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("swapped", [False, True])
def test_pwcca_is_the_average_weighted_by_projections_of_the_first_side(swapped: bool):
    x, y = reversed(related()) if swapped else related()
    x_basis, y_basis = np.linalg.qr(centred(x[0]))[0], np.linalg.qr(centred(y[0]))[0]
    left, correlations, _ = np.linalg.svd(x_basis.T @ y_basis, full_matrices=False)
    weights = np.abs((x_basis @ left).T @ centred(x[0])).sum(1)
    assert pwcca(x, y).item() == pytest.approx(np.average(correlations, weights=weights), abs=1e-10)


@pytest.mark.parametrize("widths", [(60, 60), (60, 8), (8, 60)])
def test_fewer_rows_than_features_are_compared_by_the_same_definition(widths: tuple[int, int]):
    x, y = draw(1, 30, widths[0]) + 3, draw(1, 30, widths[1], seed=1)
    y[..., :8] += x[..., :8]
    x_scores, y_scores = principal_scores(x[0], 0.5), principal_scores(y[0], 0.5)
    left, correlations, _ = np.linalg.svd(x_scores.T @ y_scores, full_matrices=False)
    weights = np.abs((x_scores @ left).T @ centred(x[0])).sum(1)
    assert svcca(x, y, variance=0.5).item() == pytest.approx(correlations.mean(), abs=1e-10)
    assert pwcca(x, y, variance=0.5).item() == pytest.approx(np.average(correlations, weights=weights), abs=1e-10)
    moments = WhitenedComponents.of_moments(Moments.of(x[0], y[0]), Truncation(variance=0.5, ridge=0.2))
    assert svcca(x, y, variance=0.5, ridge=0.2).item() == pytest.approx(mean_correlation(moments).item(), abs=1e-10)
    assert pwcca(x, y, variance=0.5, ridge=0.2).item() == pytest.approx(weighted_correlation(moments).item(), abs=1e-10)


def test_pwcca_is_not_symmetric_and_svcca_is():
    x, y = related()
    assert abs(pwcca(x, y) - pwcca(y, x)) > 0.01
    torch.testing.assert_close(svcca(x, y), svcca(y, x), rtol=0, atol=1e-12)


def test_a_planted_shared_subspace_of_3_of_10_directions_gives_3_tenths():
    x, y = draw(1, 20_000, 10), draw(1, 20_000, 10, seed=1)
    y[..., :3] = x[..., 4:7]
    mixed = svcca(x, y @ invertible(10, seed=2), variance=1)
    assert mixed.item() == pytest.approx(0.3 + 0.7 * 0.015, abs=0.01)
    assert svcca(x, draw(1, 20_000, 10, seed=3), variance=1).item() < 0.03


def test_pwcca_weighs_the_shared_directions_by_their_size_in_x():
    x, y = draw(1, 5000, 10), draw(1, 5000, 10, seed=1)
    x[..., :2] *= 20
    y[..., :2] = x[..., :2]
    assert pwcca(x, y) > 0.7
    assert pwcca(y, x) > 0.7
    assert svcca(x, y, variance=1).item() == pytest.approx(0.2, abs=0.05)


def test_mean_canonical_correlation_is_unchanged_by_any_invertible_map_of_either_side():
    x, y = related()
    value = svcca(x, y, variance=1)
    for moved in ((x @ invertible(8, seed=3) + 5, y), (x, y @ invertible(6, seed=4) - 5)):
        torch.testing.assert_close(svcca(*moved, variance=1), value, rtol=0, atol=1e-9)


def test_truncated_svcca_is_unchanged_by_rotation_scale_and_shift_only():
    x, y = related()
    rotation = torch.linalg.qr(draw(8, 8, seed=3))[0]
    value = svcca(x, y, variance=0.8)
    torch.testing.assert_close(svcca(0.03 * x @ rotation + 7, y, variance=0.8), value, rtol=0, atol=1e-10)
    assert abs(svcca(x @ invertible(8, seed=3), y, variance=0.8) - value) > 0.01


def test_pwcca_is_unchanged_by_invertible_maps_of_y_and_not_even_by_rotations_of_x():
    x, y = related()
    value = pwcca(x, y)
    torch.testing.assert_close(pwcca(-2 * x + 9, y @ invertible(6, seed=4) + 1), value, rtol=0, atol=1e-9)
    rotation = torch.linalg.qr(draw(8, 8, seed=3))[0]
    assert abs(pwcca(x @ rotation, y) - value) > 1e-3


def test_a_side_that_holds_the_other_gives_1():
    x, _ = related()
    assert pwcca(x[..., :5], x).item() == pytest.approx(1, abs=1e-10)
    assert svcca(x[..., :5], x, variance=1).item() == pytest.approx(1, abs=1e-10)


def test_repeated_features_change_nothing():
    x, y = related()
    doubled = torch.cat([x, x @ draw(8, 30, seed=5)], dim=-1)
    torch.testing.assert_close(svcca(doubled, y, variance=1), svcca(x, y, variance=1), rtol=0, atol=1e-8)
    torch.testing.assert_close(pwcca(y, doubled), pwcca(y, x), rtol=0, atol=1e-8)
    assert svcca(doubled.float(), y.float()).item() == pytest.approx(svcca(doubled, y).item(), abs=1e-5)


@pytest.mark.parametrize(("rows", "mean"), [(120, 0.56), (200, 0.43), (1000, 0.19)])
def test_unrelated_noise_is_as_far_above_0_as_the_docstring_says(rows: int, mean: float):
    x, y = draw(2, rows, 50), draw(2, rows, 50, seed=1)
    assert svcca(x, y).mean().item() == pytest.approx(mean, abs=0.02)
    assert pwcca(x, y).mean().item() == pytest.approx(mean, abs=0.025)


@pytest.mark.parametrize("measure", [svcca, pwcca])
def test_too_few_rows_for_the_components_are_refused_unless_a_ridge_is_asked_for(measure):
    x, y = draw(2, 16, 8), draw(2, 16, 8, seed=1)
    with pytest.raises(
        ValueError, match=r"8 and 8 components expect more than 16 rows.*got 16.*smaller `variance` .*ridge"
    ):
        measure(x, y, variance=1)
    assert measure(x, y, variance=0.5).isfinite().all()
    assert measure(x, y, variance=1, ridge=0.1).max() < 0.95
    longer = draw(2, 17, 8), draw(2, 17, 8, seed=1)
    assert measure(*longer, variance=1).isfinite().all()


@pytest.mark.parametrize("measure", [svcca, pwcca])
def test_a_ridge_is_a_share_of_the_mean_variance(measure):
    x, y = related()
    x_values, x_vectors = np.linalg.eigh(centred(x[0]).T @ centred(x[0]))
    y_values, y_vectors = np.linalg.eigh(centred(y[0]).T @ centred(y[0]))
    x_basis = centred(x[0]) @ x_vectors / np.sqrt(x_values + 0.3 * x_values.mean())
    y_basis = centred(y[0]) @ y_vectors / np.sqrt(y_values + 0.3 * y_values.mean())
    left, correlations, _ = np.linalg.svd(x_basis.T @ y_basis, full_matrices=False)
    weights = None if measure is svcca else np.abs((x_basis @ left).T @ centred(x[0])).sum(1)
    expected = np.average(correlations, weights=weights)
    assert measure(x, y, variance=1, ridge=0.3).item() == pytest.approx(expected, abs=1e-10)
    torch.testing.assert_close(measure(0.01 * x, y, variance=1, ridge=0.3), measure(x, y, variance=1, ridge=0.3))


@pytest.mark.parametrize("measure", [svcca, pwcca])
def test_a_constant_layer_is_nan_beside_one_that_is_not(measure):
    x, y = draw(2, 50, 4), draw(2, 50, 4, seed=1)
    x[1] = 0.1
    assert measure(x, y).isnan().tolist() == [False, True]
    assert measure(y, x).isnan().tolist() == [False, True]
    assert measure(x, y).dtype == torch.float64


@pytest.mark.parametrize("measure", [svcca, pwcca])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variance": 0.0}, r"`variance` expects a share in \(0, 1\]; got 0.0"),
        ({"variance": 1.1}, r"`variance` expects a share in \(0, 1\]; got 1.1"),
        ({"ridge": -1.0}, "`ridge` expects a share of the mean variance, 0 or more; got -1.0"),
        ({"ridge": float("nan")}, "`ridge` expects .* got nan"),
    ],
)
def test_options_out_of_range_are_refused(measure, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        measure(draw(1, 50, 4), draw(1, 50, 4), **options)


@pytest.mark.parametrize("measure", [svcca, pwcca])
def test_rows_that_do_not_match_or_are_not_finite_are_refused(measure):
    x = draw(2, 50, 4)
    with pytest.raises(ValueError, match="same layers and rows"):
        measure(x, x[:, 1:])
    with pytest.raises(ValueError, match="at least 4 rows; got 3"):
        measure(x[:, :3], x[:, :3])
    with pytest.raises(ValueError, match="1 of the 50 rows of `y` hold NaN"):
        measure(x, x.index_fill(1, torch.tensor([7]), torch.nan))
