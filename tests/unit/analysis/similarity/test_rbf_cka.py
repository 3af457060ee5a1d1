from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from gaussian_rows import draw_float32

from probes.analysis import linear_cka, rbf_cka


def gaussian_kernel(points: torch.Tensor, bandwidth: float) -> torch.Tensor:
    """From the definition, with numpy's median."""
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
    x, y = draw_float32(1, rows, 3).double(), draw_float32(1, rows, 2, seed=1).double()
    y[0, :, 0] += x[0, :, 0]
    kernel, other = gaussian_kernel(x[0], bandwidth), gaussian_kernel(y[0], bandwidth)
    expected = hsic(kernel, other) / (hsic(kernel, kernel) * hsic(other, other)).sqrt()
    value = rbf_cka(x, y, debiased=debiased, bandwidth=bandwidth)[0]
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("debiased", [True, False])
def test_a_wide_kernel_gives_linear_cka(debiased: bool):
    x, y = draw_float32(1, 100, 5).double(), draw_float32(1, 100, 4, seed=1).double()
    y[0] += x[0, :, :4]
    expected = linear_cka(x, y, debiased=debiased)
    assert rbf_cka(x, y, debiased=debiased, bandwidth=1e4)[0] == pytest.approx(expected.item(), abs=1e-6)
    assert rbf_cka(x, y, debiased=debiased)[0] != pytest.approx(expected.item(), abs=1e-3)


def test_structure_without_correlation_is_seen_where_linear_cka_sees_none():
    angle = 2 * torch.pi * torch.rand(400, generator=torch.Generator().manual_seed(0))
    x, y = torch.stack([angle.cos(), angle.sin()], 1), torch.stack([(2 * angle).cos(), (2 * angle).sin()], 1)
    assert linear_cka(x[None], y[None]).abs() < 0.02
    assert rbf_cka(x[None], y[None]) > 0.1


def test_debiased_value_of_independent_noise_averages_zero_unclamped_and_biased_does_not():
    x, y = draw_float32(8, 64, 768), draw_float32(8, 64, 768, seed=1)
    values = rbf_cka(x, y)
    assert values.mean().abs() < 0.02
    assert values.min() < 0 < values.max()
    assert rbf_cka(x, y, debiased=False).mean() == pytest.approx(0.95, abs=0.01)


def test_a_layer_is_compared_with_its_match_only_and_equals_itself():
    x = draw_float32(3, 60, 5)
    y = draw_float32(3, 60, 7, seed=1)
    y[1, :, :5] = 4 * x[1] + 1
    y[1, :, 5:] = 0
    values = rbf_cka(x, y)
    assert values[1] == pytest.approx(1.0, abs=1e-6)
    assert values[[0, 2]].abs().max() < 0.2


def test_float32_input_is_summed_in_float64():
    x, y = draw_float32(2, 200, 16) + 50, draw_float32(2, 200, 12, seed=1)
    torch.testing.assert_close(rbf_cka(x, y), rbf_cka(x.double(), y.double()), rtol=0, atol=0)


def test_a_constant_layer_and_one_of_mostly_duplicates_are_nan():
    x = draw_float32(3, 30, 4)
    x[0] = 3.7
    x[2, 5:] = x[2, 5]
    assert rbf_cka(x, draw_float32(3, 30, 4, seed=1)).isnan().tolist() == [True, False, True]
    assert rbf_cka(draw_float32(3, 30, 4, seed=1), x, debiased=False).isnan().tolist() == [True, False, True]


def test_what_cannot_be_measured_is_refused():
    x = draw_float32(2, 9, 3)
    with pytest.raises(ValueError, match=r"same layers and rows; got \(2, 9, 3\) and \(2, 8, 3\)"):
        rbf_cka(x, x[:, 1:])
    with pytest.raises(ValueError, match=r"`bandwidth` expects a positive number of median distances; got 0"):
        rbf_cka(x, x, bandwidth=0)
