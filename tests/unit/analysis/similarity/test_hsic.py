from __future__ import annotations

import itertools

import pytest
import torch
from gaussian_rows import draw, draw_float32

from probes.analysis import hsic_pairs
from probes.analysis.similarity import hsic as module
from probes.analysis.similarity.hsic import PairHSIC, cka_norm, is_constant, kernel_hsic


def linear_kernels(x_features: int = 3, y_features: int = 2, rows: int = 6) -> tuple[torch.Tensor, ...]:
    x, y = draw(1, rows, x_features) + 5, draw(1, rows, y_features, seed=1) - 2
    return x, y, x[0] @ x[0].T, y[0] @ y[0].T


def test_unbiased_hsic_equals_the_average_over_all_quadruples_of_rows():
    x, y, kernel, other = linear_kernels()
    terms = [
        kernel[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q])
        for i, j, q, r in itertools.permutations(range(6), 4)
    ]
    average = torch.stack(terms).mean()
    torch.testing.assert_close(hsic_pairs(x, y)[0, 0], average, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(kernel_hsic(kernel, other), average, rtol=1e-9, atol=1e-10)


def test_biased_hsic_is_the_trace_of_the_centred_kernels():
    x, y, kernel, other = linear_kernels(3, 5, rows=20)
    centre = torch.eye(20, dtype=torch.float64) - 1 / 20
    expected = torch.trace(kernel @ centre @ other @ centre) / 19**2
    torch.testing.assert_close(hsic_pairs(x, y, debiased=False)[0, 0], expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(kernel_hsic(kernel, other, debiased=False), expected, rtol=1e-10, atol=1e-10)


def test_unbiased_hsic_of_a_kernel_with_itself_is_its_u_centred_squared_norm():
    _, _, kernel, _ = linear_kernels(rows=7)
    hollow = kernel.clone().fill_diagonal_(0)
    sums = hollow.sum(0)
    u_centred = (hollow - sums[:, None] / 5 - sums / 5 + sums.sum() / (6 * 5)).fill_diagonal_(0)
    torch.testing.assert_close(kernel_hsic(kernel, kernel), u_centred.square().sum() / (7 * 4), rtol=1e-10, atol=0)


@pytest.mark.parametrize("debiased", [True, False])
def test_hsic_leaves_the_kernels_it_is_given_as_they_were(debiased: bool):
    _, _, kernel, _ = linear_kernels()
    before = kernel.clone()
    kernel_hsic(kernel, kernel, debiased=debiased)
    assert torch.equal(kernel, before)


@pytest.mark.parametrize("rows", [10, 513, 1100])
def test_both_forms_give_the_same_sums(rows: int):
    x, y = (module.centre_rows(draw_float32(3, rows, width, seed=width)) for width in (7, 12))
    by_rows = module._products_by_rows(x, y)
    torch.testing.assert_close(by_rows.between, module._products_by_features(x, y), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_rows.within_x, module._self_products(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_rows.within_y, module._self_products(y), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [5, 128, 129, 512, 600, 1337])
def test_tiles_cover_the_lower_triangle_once(rows: int):
    cover = torch.zeros(rows, rows)
    for row, column, size in module._tiles(rows):
        cover[row : row + size, column : column + size] += 1 if row == column else 2
    assert torch.equal(cover.tril(-1) + cover.triu(1).T, torch.full((rows, rows), 2.0).tril(-1))
    assert (cover.diagonal() == 1).all()


def test_a_norm_without_spread_is_nan_even_where_rounding_left_some_covariance():
    hsic = PairHSIC(torch.full((2, 2), 1e-20), torch.tensor([0.0, 4.0]), torch.tensor([0.0, 1.0]))
    assert hsic.cka().isnan().tolist() == [[True, True], [True, False]]
    assert cka_norm(torch.tensor([-1.0, 4.0]), torch.tensor([-1.0, 9.0])).isnan().tolist() == [True, False]


def test_one_row_that_differs_makes_a_layer_vary():
    x = torch.full((2, 5, 3), 0.1)
    assert is_constant(x).tolist() == [True, True]
    x[1, 4, 2] += 1e-7
    assert is_constant(x).tolist() == [True, False]


def test_kernels_that_do_not_match_or_are_too_small_are_refused():
    with pytest.raises(ValueError, match=r"two kernels \(rows, rows\); got \(9, 9\), \(9, 3\)"):
        kernel_hsic(torch.eye(9), draw(9, 3))
    with pytest.raises(ValueError, match="at least 4 rows; got 3"):
        kernel_hsic(torch.eye(3), torch.eye(3))
    with pytest.raises(ValueError, match=r"equal rows; got \(1, 9, 3\), \(1, 8, 3\)"):
        hsic_pairs(draw(1, 9, 3), draw(1, 8, 3))
    with pytest.raises(ValueError, match="at least 4 rows; got 3"):
        hsic_pairs(draw(1, 3, 3), draw(1, 3, 3))
