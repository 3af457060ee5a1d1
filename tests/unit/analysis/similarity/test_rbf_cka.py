from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from probes.analysis import hsic_pairs, linear_cka
from probes.analysis.similarity.rbf_cka import _median, kernel_hsic, rbf_cka


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gaussian_kernel(points: torch.Tensor, bandwidth: float) -> torch.Tensor:
    """From the definition, with the median numpy takes."""
    distances = (points[:, None] - points[None]).square().sum(2).sqrt()
    sigma = bandwidth * np.median(distances[np.triu_indices(len(points), 1)])
    return torch.exp(-(distances**2) / (2 * sigma**2))


def unbiased_over_quadruples(kernel: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    terms = [
        kernel[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q])
        for i, j, q, r in itertools.permutations(range(len(kernel)), 4)
    ]
    return torch.stack(terms).mean()


def biased_by_traces(kernel: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    centre = torch.eye(len(kernel), dtype=torch.float64) - 1 / len(kernel)
    return torch.trace(kernel @ centre @ other @ centre) / (len(kernel) - 1) ** 2


@pytest.mark.parametrize(("debiased", "hsic"), [(True, unbiased_over_quadruples), (False, biased_by_traces)])
@pytest.mark.parametrize("bandwidth", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("rows", [6, 7, 8])  # 15, 21 and 28 pairs: a middle one, and a middle two
def test_value_follows_from_gaussian_kernels_and_the_definition_of_hsic(debiased, hsic, bandwidth, rows):
    x, y = draw(1, rows, 3).double(), draw(1, rows, 2, seed=1).double()
    y[0, :, 0] += x[0, :, 0]
    kernel, other = gaussian_kernel(x[0], bandwidth), gaussian_kernel(y[0], bandwidth)
    expected = hsic(kernel, other) / (hsic(kernel, kernel) * hsic(other, other)).sqrt()
    value = rbf_cka(x, y, debiased=debiased, bandwidth=bandwidth)[0]
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("debiased", [True, False])
def test_hsic_of_kernels_that_are_not_centred_equals_that_of_linear_kernels(debiased: bool):
    x, y = draw(1, 30, 3).double() + 5, draw(1, 30, 4, seed=1).double() - 2
    value = kernel_hsic(x[0] @ x[0].T, y[0] @ y[0].T, debiased=debiased)
    torch.testing.assert_close(value, hsic_pairs(x, y, debiased=debiased)[0, 0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("debiased", [True, False])
def test_hsic_leaves_the_kernels_it_is_given_as_they_were(debiased: bool):
    kernel = draw(6, 6).double()
    kernel = kernel @ kernel.T
    before = kernel.clone()
    kernel_hsic(kernel, kernel, debiased=debiased)
    assert torch.equal(kernel, before)


@pytest.mark.parametrize("debiased", [True, False])
def test_a_wide_kernel_gives_linear_cka(debiased: bool):
    x, y = draw(1, 100, 5).double(), draw(1, 100, 4, seed=1).double()
    y[0] += x[0, :, :4]
    expected = linear_cka(x[0], y[0], debiased=debiased)
    assert rbf_cka(x, y, debiased=debiased, bandwidth=1e4)[0] == pytest.approx(expected.item(), abs=1e-6)
    assert rbf_cka(x, y, debiased=debiased)[0] != pytest.approx(expected.item(), abs=1e-3)


def test_structure_without_correlation_is_seen_where_linear_cka_sees_none():
    angle = 2 * torch.pi * torch.rand(400, generator=torch.Generator().manual_seed(0))
    x, y = torch.stack([angle.cos(), angle.sin()], 1), torch.stack([(2 * angle).cos(), (2 * angle).sin()], 1)
    assert linear_cka(x, y).abs() < 0.02
    assert rbf_cka(x[None], y[None])[0] > 0.1


def test_debiased_value_of_independent_noise_averages_zero_unclamped_and_biased_does_not():
    x, y = draw(8, 64, 768), draw(8, 64, 768, seed=1)
    values = rbf_cka(x, y)
    assert values.mean().abs() < 0.02
    assert values.min() < 0 < values.max()
    assert rbf_cka(x, y, debiased=False).mean() == pytest.approx(0.95, abs=0.01)


def test_a_layer_is_compared_with_its_match_only_and_equals_itself():
    x = draw(3, 60, 5)
    y = draw(3, 60, 7, seed=1)
    y[1, :, :5] = 4 * x[1] + 1
    y[1, :, 5:] = 0
    values = rbf_cka(x, y)
    assert values[1] == pytest.approx(1.0, abs=1e-6)
    assert values[[0, 2]].abs().max() < 0.2


def test_float32_input_is_summed_in_float64():
    x, y = draw(2, 200, 16) + 50, draw(2, 200, 12, seed=1)
    torch.testing.assert_close(rbf_cka(x, y), rbf_cka(x.double(), y.double()), rtol=0, atol=0)


def test_a_constant_layer_and_one_of_mostly_duplicates_are_nan():
    x = draw(3, 30, 4)
    x[0] = 3.7
    x[2, 5:] = x[2, 5]
    assert rbf_cka(x, draw(3, 30, 4, seed=1)).isnan().tolist() == [True, False, True]
    assert rbf_cka(draw(3, 30, 4, seed=1), x, debiased=False).isnan().tolist() == [True, False, True]


def test_what_cannot_be_measured_is_refused():
    x = draw(2, 9, 3)
    with pytest.raises(ValueError, match=r"same layers and rows; got \(2, 9, 3\) and \(2, 8, 3\)"):
        rbf_cka(x, x[:, 1:])
    with pytest.raises(ValueError, match=r"`bandwidth` expects a positive number of median distances; got 0"):
        rbf_cka(x, x, bandwidth=0)
    with pytest.raises(ValueError, match=r"two kernels \(rows, rows\); got \(9, 9\), \(9, 3\)"):
        kernel_hsic(torch.eye(9), x[0])
    with pytest.raises(ValueError, match="at least 4 rows; got 3"):
        kernel_hsic(torch.eye(3), torch.eye(3))


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0], [4.0, 1.0, 2.0, 9.0], [5.0]])
def test_the_median_is_numpys(values: list[float]):
    assert _median(torch.tensor(values)).item() == np.median(values)
