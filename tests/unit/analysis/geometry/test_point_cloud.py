from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tensor_samples import draw, draw_double

from probes.analysis.geometry.point_cloud import anisotropy, distinct_rows, two_nn


def embedded(points: torch.Tensor, width: int) -> torch.Tensor:
    """The same points in a random subspace of a wider space."""
    return points @ torch.linalg.qr(draw(width, points.shape[1], seed=99)).Q.T


def dimension_by_loop(points: np.ndarray, discard_share: float) -> float:
    """Facco's estimate row by row; the slope by least squares without intercept."""
    points = np.unique(points, axis=0)
    ratios = []
    for i in range(len(points)):
        distances = sorted(math.dist(points[i], points[j]) for j in range(len(points)) if j != i)
        ratios.append(distances[1] / distances[0])
    kept = round(len(ratios) * (1 - discard_share))
    log_ratios = np.log(sorted(ratios)[:kept])
    below = np.arange(1, kept + 1) / len(ratios)
    return np.linalg.lstsq(log_ratios[:, None], -np.log(1 - below), rcond=None)[0][0]


@pytest.mark.parametrize("discard_share", [0.1, 0.25])
def test_two_nn_equals_a_direct_loop(discard_share: float):
    x = draw(2, 60, 5).double()
    x[1, 40:] = x[1, :20]
    expected = [dimension_by_loop(layer.numpy(), discard_share) for layer in x]
    assert two_nn(x, discard_share=discard_share).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dimension", [2, 5, 10])
def test_a_gaussian_embedded_in_a_wider_space_keeps_its_dimension(dimension: int):
    ball = embedded(draw(2000, dimension, seed=dimension), 64)
    assert two_nn(ball[None]).item() == pytest.approx(dimension, rel=0.1)


@pytest.mark.parametrize("dimension", [2, 5, 10])
def test_a_sphere_has_one_dimension_less_than_the_space_around_it(dimension: int):
    points = draw(2000, dimension + 1, seed=dimension)
    sphere = embedded(points / points.norm(dim=1, keepdim=True), 64)
    assert two_nn(sphere[None]).item() == pytest.approx(dimension, rel=0.15)


@pytest.mark.parametrize(("dimension", "found"), [(20, 17), (50, 32)])
def test_high_dimensions_are_underestimated_as_documented(dimension: int, found: int):
    assert two_nn(draw(3, 2000, dimension)).mean().item() == pytest.approx(found, rel=0.05)


def test_exact_duplicates_count_once():
    x = draw(1, 200, 4)
    repeated = torch.cat([x, x[:, :80], x[:, :10]], dim=1)
    torch.testing.assert_close(two_nn(repeated), two_nn(x))
    assert distinct_rows(repeated).tolist() == [200]
    assert distinct_rows(x).tolist() == [200]


def test_distances_between_close_neighbours_lose_no_precision():
    centres = draw(1, 100, 20, seed=1).double().repeat_interleave(3, dim=1) * 1e4
    near = torch.tensor([[0.0], [1e-3], [2.5e-3]], dtype=torch.float64).repeat(100, 1)
    x = centres + near * torch.eye(20, dtype=torch.float64)[0]
    assert two_nn(x).item() == pytest.approx(dimension_by_loop(x[0].numpy(), 0.1), rel=1e-6)


def test_the_largest_ratio_is_left_out_even_if_none_is_to_be_discarded():
    x = draw(1, 50, 3)
    assert two_nn(x, discard_share=0.0).isfinite().all()
    torch.testing.assert_close(two_nn(x, discard_share=0.0), two_nn(x, discard_share=0.02))


def test_two_nn_is_nan_for_a_constant_layer_for_3_distinct_rows_and_for_a_lattice():
    x = draw(4, 8, 2)
    x[0] = 3.7
    x[1] = x[1, :3][torch.arange(8) % 3]
    x[2] = torch.cartesian_prod(torch.arange(2.0), torch.arange(4.0))
    assert distinct_rows(x).tolist() == [1, 3, 8, 8]
    assert two_nn(x).isnan().tolist() == [True, True, True, False]


def test_too_few_rows_and_shares_out_of_range_are_refused_by_two_nn():
    with pytest.raises(ValueError, match="`x` expects at least 4 rows; got 3"):
        two_nn(draw(1, 3, 2))
    with pytest.raises(ValueError, match="`x` expects at least 4 rows; got 3"):
        distinct_rows(draw(1, 3, 2))
    for share in (1.0, -0.1):
        with pytest.raises(ValueError, match=f"`discard_share` must be at least 0 and less than 1; got {share}"):
            two_nn(draw(1, 9, 2), discard_share=share)


def test_anisotropy_is_the_mean_cosine_over_pairs_of_distinct_rows():
    x = draw_double(2, 12, 5) + 1
    for value, layer in zip(anisotropy(x), x, strict=True):
        pairs = [torch.cosine_similarity(layer[i], layer[j], dim=0) for i in range(12) for j in range(12) if i != j]
        assert value.item() == pytest.approx(torch.stack(pairs).mean().item(), rel=1e-10)


def test_a_cone_is_anisotropic_and_a_ball_is_not():
    ball = draw_double(3, 500, 64)
    assert anisotropy(ball).abs().max() < 0.002
    assert anisotropy(ball + 3).min() > 0.85
    assert anisotropy(torch.cat([ball, -ball], dim=1)).max() < 0


def test_rows_of_zeros_have_no_direction_and_are_left_out():
    x = draw_double(2, 50, 4)
    with_zeros = torch.cat([x, torch.zeros(2, 3, 4)], dim=1)
    torch.testing.assert_close(anisotropy(with_zeros), anisotropy(x), rtol=1e-12, atol=0)
    one_row = torch.zeros(1, 5, 4)
    one_row[0, 2] = 1
    assert anisotropy(one_row).isnan().all()
