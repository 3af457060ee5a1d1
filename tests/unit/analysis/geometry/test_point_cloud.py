from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from probes.analysis.geometry.point_cloud import distinct_rows, two_nn


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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
def test_it_equals_a_direct_loop(discard_share: float):
    x = draw(2, 60, 5).double()
    x[1, 40:] = x[1, :20]
    expected = [dimension_by_loop(layer.numpy(), discard_share) for layer in x]
    assert two_nn(x, discard_share=discard_share).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dimension", [2, 5, 10])
def test_gaussian_balls_in_a_wider_space_have_their_own_dimension(dimension: int):
    ball = embedded(draw(2000, dimension, seed=dimension), 64)
    assert two_nn(ball[None]).item() == pytest.approx(dimension, rel=0.1)


@pytest.mark.parametrize("dimension", [2, 5, 10])
def test_a_sphere_has_one_dimension_less_than_the_space_it_curves_in(dimension: int):
    points = draw(2000, dimension + 1, seed=dimension)
    sphere = embedded(points / points.norm(dim=1, keepdim=True), 64)
    assert two_nn(sphere[None]).item() == pytest.approx(dimension, rel=0.15)


@pytest.mark.parametrize(("dimension", "found"), [(20, 17), (50, 32)])
def test_high_dimensions_are_underestimated_as_documented(dimension: int, found: int):
    assert two_nn(draw(3, 2000, dimension)).mean().item() == pytest.approx(found, rel=0.05)


def test_exact_duplicates_change_nothing_and_are_counted():
    x = draw(1, 200, 4)
    repeated = torch.cat([x, x[:, :80], x[:, :10]], dim=1)
    torch.testing.assert_close(two_nn(repeated), two_nn(x))
    assert distinct_rows(repeated).tolist() == [200]
    assert distinct_rows(x).tolist() == [200]


def test_neighbours_much_closer_than_the_rest_keep_their_digits():
    centres = draw(1, 100, 20, seed=1).double().repeat_interleave(3, dim=1) * 1e4
    near = torch.tensor([[0.0], [1e-3], [2.5e-3]], dtype=torch.float64).repeat(100, 1)
    x = centres + near * torch.eye(20, dtype=torch.float64)[0]
    assert two_nn(x).item() == pytest.approx(dimension_by_loop(x[0].numpy(), 0.1), rel=1e-6)


def test_discarding_nothing_still_leaves_out_the_largest_ratio():
    x = draw(1, 50, 3)
    assert two_nn(x, discard_share=0.0).isfinite().all()
    torch.testing.assert_close(two_nn(x, discard_share=0.0), two_nn(x, discard_share=0.02))


def test_it_is_nan_for_a_constant_layer_fewer_than_4_distinct_rows_and_a_lattice():
    x = draw(4, 8, 2)
    x[0] = 3.7
    x[1] = x[1, :3][torch.arange(8) % 3]
    x[2] = torch.cartesian_prod(torch.arange(2.0), torch.arange(4.0))
    assert distinct_rows(x).tolist() == [1, 3, 8, 8]
    assert two_nn(x).isnan().tolist() == [True, True, True, False]


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="`x` expects at least 4 rows; got 3"):
        two_nn(draw(1, 3, 2))
    with pytest.raises(ValueError, match="`x` expects at least 4 rows; got 3"):
        distinct_rows(draw(1, 3, 2))
    for share in (1.0, -0.1):
        with pytest.raises(ValueError, match=f"`discard_share` expects a share from 0 up to.*1; got {share}"):
            two_nn(draw(1, 9, 2), discard_share=share)
