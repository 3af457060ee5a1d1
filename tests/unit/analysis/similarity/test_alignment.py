from __future__ import annotations

import numpy as np
import pytest
import torch
from gaussian_rows import draw, draw_float32
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import procrustes
from scipy.spatial.distance import cosine

from probes.analysis.similarity.alignment import matched_cosine, procrustes_similarity

SHAPES = [(40, 5), (20, 30), (20, 20), (21, 20)]


@pytest.mark.parametrize(("rows", "features"), SHAPES)
def test_one_less_its_square_is_the_disparity_after_the_best_scale(rows: int, features: int):
    x, y = draw(rows, features) + 3, draw(rows, features, seed=1)
    y = y + x
    disparity = procrustes(x.numpy(), y.numpy())[2]
    assert 1 - procrustes_similarity(x[None], y[None]).item() ** 2 == pytest.approx(disparity, abs=1e-12)


@pytest.mark.parametrize(("rows", "features"), SHAPES)
def test_it_is_one_less_half_the_squared_distance_after_the_best_rotation(rows: int, features: int):
    x, y = draw(rows, features).numpy(), draw(rows, features, seed=1).numpy() - 4
    x, y = x - x.mean(0), y - y.mean(0)
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    rotation, _ = orthogonal_procrustes(x, y)
    expected = 1 - np.square(x @ rotation - y).sum() / 2
    assert procrustes_similarity(torch.tensor(x)[None], torch.tensor(y)[None]).item() == pytest.approx(expected)


@pytest.mark.parametrize(("x_features", "y_features"), [(3, 8), (8, 3), (8, 40), (40, 8), (30, 50)])
def test_a_narrower_layer_is_as_if_padded_with_zeros(x_features: int, y_features: int):
    x, y = draw(1, 20, x_features), draw(1, 20, y_features, seed=1)
    width = max(x_features, y_features)
    padded_x, padded_y = (torch.nn.functional.pad(z, (0, width - z.shape[2])) for z in (x, y))
    expected = 1 - procrustes(padded_x[0].numpy(), padded_y[0].numpy())[2]
    assert procrustes_similarity(x, y).item() ** 2 == pytest.approx(expected, abs=1e-12)


def test_layers_equal_up_to_rotation_scale_and_shift_are_at_1_and_others_below():
    x = draw(2, 50, 6)
    y = draw(2, 50, 6, seed=1)
    y[1] = 0.03 * x[1] @ torch.linalg.qr(draw(6, 6, seed=2)).Q + 7
    values = procrustes_similarity(x.float(), y.float())
    assert values.dtype == torch.float64
    assert values[1] == pytest.approx(1, abs=1e-6)
    assert values[0] < 0.4


@pytest.mark.parametrize(("rows", "floor"), [(500, 0.78), (2000, 0.44)])
def test_unrelated_noise_is_far_from_0_as_documented(rows: int, floor: float):
    value = procrustes_similarity(draw(1, rows, 576), draw(1, rows, 576, seed=1))
    assert value.item() == pytest.approx(floor, abs=0.01)


def test_a_constant_layer_is_nan_and_broken_input_refused():
    x = draw(2, 9, 3)
    x[0] = 0.1
    assert procrustes_similarity(x, draw(2, 9, 3, seed=1)).isnan().tolist() == [True, False]
    assert procrustes_similarity(draw(2, 9, 3, seed=1), x).isnan().tolist() == [True, False]
    with pytest.raises(ValueError, match=r"same layers and rows; got \(2, 9, 3\) and \(2, 8, 3\)"):
        procrustes_similarity(x, x[:, 1:])
    with pytest.raises(ValueError, match="`x` expects at least 4 rows; got 3"):
        procrustes_similarity(x[:, :3], x[:, :3])


def test_it_is_the_mean_over_rows_of_scipys_cosine():
    x, y = draw_float32(3, 20, 6), draw_float32(3, 20, 6, seed=1)
    expected = [
        sum(1 - cosine(a, b) for a, b in zip(one, other, strict=True)) / 20
        for one, other in zip(x.double().numpy(), y.double().numpy(), strict=True)
    ]
    values = matched_cosine(x, y)
    assert values.dtype == torch.float64
    assert values.tolist() == pytest.approx(expected, abs=1e-12)


def test_every_row_weighs_the_same_whatever_its_length():
    x = torch.tensor([[[1.0, 0], [0, 1], [1, 0], [0, 1]]])
    y = torch.tensor([[[100.0, 0], [0, 1], [0, 1], [-1, 0]]])
    assert matched_cosine(x, y).tolist() == [0.5]


def test_unrelated_rows_average_zero_and_a_shared_vector_hides_everything_else():
    x, y = draw_float32(10, 200, 16), draw_float32(10, 200, 16, seed=1)
    assert matched_cosine(x, y).mean().abs() < 0.01
    assert matched_cosine(x + 30, y + 30).min() > 0.99


def test_rows_of_zeros_are_left_out_on_either_side():
    x, y = draw_float32(1, 10, 4), draw_float32(1, 10, 4, seed=1)
    x[0, 3] = 0
    y[0, 5] = 0
    kept = [row for row in range(10) if row not in {3, 5}]
    torch.testing.assert_close(matched_cosine(x, y), matched_cosine(x[:, kept], y[:, kept]))


def test_it_is_nan_where_no_row_is_left_and_where_a_layer_is_constant():
    x, y = draw_float32(3, 10, 4), draw_float32(3, 10, 4, seed=1)
    x[0, ::2] = 0
    y[0, 1::2] = 0
    x[1] = 3.7
    assert matched_cosine(x, y).isnan().tolist() == [True, True, False]


def test_two_feature_spaces_and_mismatched_rows_are_refused():
    x = draw_float32(2, 9, 3)
    with pytest.raises(
        ValueError, match=r"one feature space; `x` has 3 features and `y` 2\. For layers of.*linear_cka"
    ):
        matched_cosine(x, x[:, :, :2])
    with pytest.raises(ValueError, match=r"same layers and rows; got \(2, 9, 3\) and \(2, 8, 3\)"):
        matched_cosine(x, x[:, 1:])
