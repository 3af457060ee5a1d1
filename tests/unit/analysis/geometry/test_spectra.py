from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tensor_samples import draw_double as draw

from probes.analysis.geometry import spectra
from probes.analysis.geometry.point_cloud import anisotropy
from probes.analysis.geometry.spectra import (
    effective_rank,
    effective_rank_of_shares,
    eigenvalue_shares,
    matrix_entropy,
    participation_ratio,
    spectral_jackknife,
)

MEASURES = [effective_rank, matrix_entropy, participation_ratio, anisotropy]


def uneven(layers: int, rows: int, features: int) -> torch.Tensor:
    """Rows of unequal variance along their features and a mean that is not 0."""
    return draw(layers, rows, features) * torch.logspace(0, -2, features) + draw(features, seed=1)


def with_spectrum(variances: list[float], rows: int, features: int) -> torch.Tensor:
    """One layer whose covariance has these non-zero eigenvalues, and no others."""
    scores = draw(rows, len(variances))
    orthonormal = torch.linalg.qr(scores - scores.mean(0))[0]
    directions = torch.linalg.qr(draw(features, len(variances), seed=1))[0]
    return (orthonormal * torch.tensor(variances, dtype=torch.float64).sqrt() @ directions.T + 5)[None]


def shares_by_numpy(layer: torch.Tensor) -> np.ndarray:
    values = np.linalg.eigvalsh(np.cov(layer.numpy().T)).clip(0)
    return values / values.sum()


@pytest.mark.parametrize(("rows", "features"), [(40, 9), (20, 60)])
def test_every_function_of_the_spectrum_equals_its_definition(rows: int, features: int):
    x = uneven(3, rows, features)
    assert eigenvalue_shares(x).shape == (3, min(rows, features))
    shares = [shares_by_numpy(layer) for layer in x]
    shannon = np.array([-sum(p * np.log(p) for p in layer if p > 1e-13) for layer in shares])
    cubic = np.array([np.log2((layer**3).sum()) / (1 - 3) for layer in shares])
    np.testing.assert_allclose(effective_rank(x), np.exp(shannon), rtol=1e-9)
    np.testing.assert_allclose(matrix_entropy(x, normalise=False), shannon / np.log(2), rtol=1e-9)
    np.testing.assert_allclose(matrix_entropy(x), shannon / np.log(min(rows, features)), rtol=1e-9)
    np.testing.assert_allclose(matrix_entropy(x, alpha=3, normalise=False), cubic, rtol=1e-9)
    largest = np.array([-np.log2(layer.max()) for layer in shares])
    np.testing.assert_allclose(matrix_entropy(x, alpha=math.inf, normalise=False), largest, rtol=1e-9)
    np.testing.assert_allclose(participation_ratio(x), [1 / (layer**2).sum() for layer in shares], rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_matrix_entropy_is_the_entropy_of_the_trace_normalised_gram_matrix(alpha: float):
    x = uneven(1, 30, 8)
    rows = x[0].numpy()
    for centred in (True, False):
        about = rows - rows.mean(0) if centred else rows
        gram = about @ about.T
        shares = np.linalg.eigvalsh(gram / np.trace(gram))
        shares = shares[shares > 1e-13]
        bits = -(shares * np.log2(shares)).sum() if alpha == 1 else np.log2((shares**alpha).sum()) / (1 - alpha)
        value = matrix_entropy(x, alpha=alpha, normalise=False, centred=centred)
        assert value.item() == pytest.approx(bits, rel=1e-9)


@pytest.mark.parametrize(("rows", "features"), [(200, 50), (40, 300)])
@pytest.mark.parametrize("dimensions", [1, 4, 17])
def test_k_equal_directions_count_as_k(dimensions: int, rows: int, features: int):
    x = with_spectrum([2.0] * dimensions, rows, features)
    assert effective_rank(x).item() == pytest.approx(dimensions, rel=1e-6)
    assert participation_ratio(x).item() == pytest.approx(dimensions, rel=1e-6)
    assert matrix_entropy(x, normalise=False).item() == pytest.approx(math.log2(dimensions), abs=1e-6)
    assert matrix_entropy(x, alpha=0.5, normalise=False).item() == pytest.approx(math.log2(dimensions), abs=1e-6)
    assert int((eigenvalue_shares(x) > 0).sum()) == dimensions


def test_unequal_directions_count_for_less_and_least_in_the_participation_ratio():
    x = with_spectrum([8.0, 4.0, 2.0, 2.0], 100, 20)
    assert matrix_entropy(x, normalise=False).item() == pytest.approx(1.75, rel=1e-9)
    assert effective_rank(x).item() == pytest.approx(2**1.75, rel=1e-9)
    assert participation_ratio(x).item() == pytest.approx(256 / 88, rel=1e-9)
    assert matrix_entropy(x, alpha=2, normalise=False).item() == pytest.approx(math.log2(256 / 88), rel=1e-9)
    assert matrix_entropy(x).item() == pytest.approx(1.75 / math.log2(20), rel=1e-9)


def test_without_centring_the_mean_direction_counts():
    x = draw(1, 400, 30) + 100
    assert matrix_entropy(x, centred=False) < 0.1
    assert matrix_entropy(x, centred=True) > 0.95


@pytest.mark.parametrize(("rows", "rank", "bits", "share", "ratio"), [(100, 90.8, 6.50, 0.979, 84.3)])
def test_the_bias_with_few_rows_is_what_the_docstrings_say(
    rows: int, rank: float, bits: float, share: float, ratio: float
):
    x = draw(2, rows, 576)
    assert effective_rank(x).mean().item() == pytest.approx(rank, rel=0.01)
    assert matrix_entropy(x, normalise=False).mean().item() == pytest.approx(bits, abs=0.01)
    assert matrix_entropy(x).mean().item() == pytest.approx(share, abs=0.002)
    assert participation_ratio(x).mean().item() == pytest.approx(ratio, rel=0.01)
    assert ratio == pytest.approx(1 / (1 / 576 + 1 / rows), rel=0.02)
    assert anisotropy(x).abs().max() < 0.002


@pytest.mark.parametrize("measure", MEASURES)
def test_values_are_invariant_to_rotation_and_scale_but_not_to_stretching_features_unequally(measure):
    x = uneven(2, 100, 10)
    rotation = torch.linalg.qr(draw(10, 10, seed=2))[0]
    torch.testing.assert_close(measure(1e-3 * x @ rotation), measure(x), rtol=1e-9, atol=1e-9)
    assert (measure(x * torch.logspace(2, 0, 10)) - measure(x)).abs().min() > 0.01


def test_a_shift_changes_only_anisotropy():
    x = uneven(2, 100, 10)
    for measure in (effective_rank, matrix_entropy, participation_ratio):
        torch.testing.assert_close(measure(x + 1000), measure(x), rtol=1e-6, atol=0)
    assert (anisotropy(x + 1000) - anisotropy(x)).min() > 0.1


@pytest.mark.parametrize("measure", MEASURES)
def test_layers_in_chunks_and_in_float32_give_the_same_values(measure, monkeypatch: pytest.MonkeyPatch):
    x = uneven(5, 30, 12).float()
    together = measure(x)
    monkeypatch.setattr(spectra, "_ELEMENTS_PER_CHUNK", 1)
    torch.testing.assert_close(measure(x), together, rtol=1e-12, atol=0)
    torch.testing.assert_close(measure(x.double()), together, rtol=1e-12, atol=0)
    assert together.dtype == torch.float64
    assert together.shape == (5,)


@pytest.mark.parametrize("measure", [*MEASURES, lambda x: matrix_entropy(x, centred=False)])
def test_only_a_constant_layer_is_nan(measure):
    x = uneven(3, 50, 4)
    x[1] = 0.1
    assert measure(x).isnan().tolist() == [False, True, False]


def test_the_normalised_entropy_of_one_feature_is_nan():
    x = draw(1, 50, 1)
    assert matrix_entropy(x, normalise=False).item() == 0
    assert matrix_entropy(x).isnan().all()


@pytest.mark.parametrize("alpha", [0, -1.0, math.nan])
def test_an_order_that_is_not_positive_is_refused(alpha: float):
    with pytest.raises(ValueError, match="`alpha`, the order of the Rényi entropy, must be above 0; got"):
        matrix_entropy(draw(1, 50, 4), alpha=alpha)


@pytest.mark.parametrize("measure", MEASURES)
def test_too_few_rows_and_rows_that_are_not_finite_are_refused(measure):
    with pytest.raises(ValueError, match="at least 4 rows; got 3"):
        measure(draw(1, 3, 4))
    with pytest.raises(ValueError, match="1 of the 9 rows of `x` hold NaN"):
        measure(draw(1, 9, 4).index_fill(1, torch.tensor([7]), torch.nan))
    with pytest.raises(ValueError, match=r"shape \(layers, rows, features\); got \(9, 4\)"):
        measure(draw(9, 4))


def participation_of_shares(shares: torch.Tensor) -> torch.Tensor:
    return 1 / shares.square().sum(-1)


def weighted_effective_rank(rows: np.ndarray, weights: np.ndarray) -> float:
    """Effective rank of the covariance of weighted rows, by NumPy."""
    values = np.linalg.eigvalsh(np.cov(rows.T, aweights=weights, ddof=0))
    shares = values[values > 1e-12 * values[-1]] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


SHAPES = pytest.mark.parametrize(("rows", "features"), [(40, 6), (10, 25)], ids=["tall", "wide"])


@SHAPES
def test_jackknife_values_equal_the_plain_functions(rows: int, features: int):
    x = uneven(3, rows, features)
    torch.testing.assert_close(spectral_jackknife(x, effective_rank_of_shares)[0], effective_rank(x))
    torch.testing.assert_close(spectral_jackknife(x, participation_of_shares)[0], participation_ratio(x))
    torch.testing.assert_close(
        spectral_jackknife(x.float(), effective_rank_of_shares)[0], effective_rank(x), rtol=1e-5, atol=0
    )


@SHAPES
def test_jackknife_errors_are_derivatives_with_respect_to_row_weights(rows: int, features: int):
    x = uneven(2, rows, features)
    _, errors = spectral_jackknife(x, effective_rank_of_shares)
    assert errors.shape == (rows, 2)
    step, even = 1e-5, np.full(rows, 1 / rows)
    for layer in range(2):
        for i in (0, rows // 2, rows - 1):
            more, less = ((1 - e) * even + e * np.eye(rows)[i] for e in (step, -step))
            up, down = (weighted_effective_rank(x[layer].numpy(), weights) for weights in (more, less))
            assert errors[i, layer].item() == pytest.approx((up - down) / (2 * step) / rows, rel=1e-4, abs=1e-7)


def test_the_jackknife_standard_error_matches_the_standard_deviation_over_samples():
    x = uneven(300, 300, 6)  # 300 independent samples, stacked as if they were layers
    values, errors = spectral_jackknife(x, effective_rank_of_shares)
    assert errors.square().sum(0).sqrt().mean().item() == pytest.approx(values.std().item(), rel=0.15)
    assert errors.sum(0).abs().max() < 1e-10


@SHAPES
def test_the_jackknife_of_a_constant_layer_is_nan(rows: int, features: int):
    x = uneven(2, rows, features).float()
    x[0] = 3.7
    values, errors = spectral_jackknife(x, effective_rank_of_shares)
    assert values.isnan().tolist() == [True, False]
    assert errors.isnan().all(0).tolist() == [True, False]
