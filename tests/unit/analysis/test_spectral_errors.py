import numpy as np
import pytest
import torch

from probes.analysis import effective_rank, participation_ratio
from probes.analysis.spectra import effective_rank_of_shares
from probes.analysis.spectral_errors import spectral_jackknife


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uneven(layers: int, rows: int, features: int) -> torch.Tensor:
    return draw(layers, rows, features) * torch.logspace(0, -1, features, dtype=torch.float64) + 5


def participation_of_shares(shares: torch.Tensor) -> torch.Tensor:
    return 1 / shares.square().sum(-1)


def weighted_effective_rank(rows: np.ndarray, weights: np.ndarray) -> float:
    """Effective rank of the covariance of weighted rows, by NumPy."""
    values = np.linalg.eigvalsh(np.cov(rows.T, aweights=weights, ddof=0))
    shares = values[values > 1e-12 * values[-1]] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


SHAPES = pytest.mark.parametrize(("rows", "features"), [(40, 6), (10, 25)], ids=["tall", "wide"])


@SHAPES
def test_values_are_those_of_the_plain_functions(rows: int, features: int):
    x = uneven(3, rows, features)
    torch.testing.assert_close(spectral_jackknife(x, effective_rank_of_shares)[0], effective_rank(x))
    torch.testing.assert_close(spectral_jackknife(x, participation_of_shares)[0], participation_ratio(x))
    torch.testing.assert_close(
        spectral_jackknife(x.float(), effective_rank_of_shares)[0], effective_rank(x), rtol=1e-5, atol=0
    )


@SHAPES
def test_errors_are_derivatives_by_the_weight_of_each_row(rows: int, features: int):
    x = uneven(2, rows, features)
    _, errors = spectral_jackknife(x, effective_rank_of_shares)
    assert errors.shape == (rows, 2)
    step, even = 1e-5, np.full(rows, 1 / rows)
    for layer in range(2):
        for i in (0, rows // 2, rows - 1):
            more, less = ((1 - e) * even + e * np.eye(rows)[i] for e in (step, -step))
            up, down = (weighted_effective_rank(x[layer].numpy(), weights) for weights in (more, less))
            assert errors[i, layer].item() == pytest.approx((up - down) / (2 * step) / rows, rel=1e-4, abs=1e-7)


def test_the_standard_error_is_near_the_spread_over_draws():
    x = uneven(300, 300, 6)  # 300 independent draws, as if they were layers
    values, errors = spectral_jackknife(x, effective_rank_of_shares)
    assert errors.square().sum(0).sqrt().mean().item() == pytest.approx(values.std().item(), rel=0.15)
    assert errors.sum(0).abs().max() < 1e-10


@SHAPES
def test_a_constant_layer_is_nan(rows: int, features: int):
    x = uneven(2, rows, features).float()
    x[0] = 3.7
    values, errors = spectral_jackknife(x, effective_rank_of_shares)
    assert values.isnan().tolist() == [True, False]
    assert errors.isnan().all(0).tolist() == [True, False]
