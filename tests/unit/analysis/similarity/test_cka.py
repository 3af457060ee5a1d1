from __future__ import annotations

import itertools

import pytest
import torch
from gaussian_rows import draw, draw_float32

from probes.analysis import biased_cka_floor, cka_pairs, hsic_pairs, label_cka, linear_cka
from probes.analysis.similarity.cka import minibatch_cka


@pytest.mark.parametrize("offset", [0.0, 3e3])
def test_a_mean_far_from_zero_costs_no_accuracy(offset: float):
    x = draw_float32(2, 700, 20)
    x[1] += x[0]
    moved = (x + offset * draw_float32(20, seed=1)).double()
    similarity = cka_pairs(moved.float(), moved.float())
    torch.testing.assert_close(similarity, cka_pairs(moved.float().double(), moved.float().double()), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rows", "width"), [(300, 400), (300, 5)])  # by rows, by features
def test_a_model_against_itself_is_the_same_object_or_a_copy(rows: int, width: int):
    x = draw_float32(4, rows, width)
    torch.testing.assert_close(cka_pairs(x, x), cka_pairs(x, x.clone()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize(("rows", "width"), [(16, 32), (200, 576), (300, 5)])
def test_equal_layers_have_a_cka_of_exactly_1(rows: int, width: int, debiased: bool):
    x = draw(3, rows, width).float()
    assert (linear_cka(x, x.clone(), debiased=debiased) == 1).all()
    assert (cka_pairs(x, x, debiased=debiased).diagonal() == 1).all()


def test_float32_input_is_within_1e_5_of_float64():
    x, y = draw_float32(3, 800, 40) + 50, draw_float32(2, 800, 30, seed=1)
    y[0] += x[0, :, :30]
    torch.testing.assert_close(cka_pairs(x, y), cka_pairs(x.double(), y.double()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [64, 256, 2048])
def test_debiased_cka_of_independent_noise_averages_zero_and_biased_does_not(rows: int):
    x, y = draw_float32(6, rows, 768, seed=rows), draw_float32(6, rows, 768, seed=rows + 1)
    assert cka_pairs(x, y).mean().abs() < 0.02
    floor = {64: 0.92, 256: 0.75, 2048: 0.27}[rows]
    assert cka_pairs(x, y, debiased=False).mean() == pytest.approx(floor, abs=0.02)


def test_shared_structure_is_found_at_its_layers():
    x, y = draw_float32(4, 300, 32), draw_float32(4, 300, 32, seed=9)
    y[2] += x[1]
    similarity = cka_pairs(x, y)
    assert similarity.argmax() == 1 * 4 + 2
    assert similarity[1, 2] > 0.3
    assert similarity.flatten().sort().values[-2] < 0.05


@pytest.mark.parametrize("debiased", [True, False])
def test_rotation_shift_and_scale_change_nothing_and_an_invertible_map_does(debiased: bool):
    x, y = draw_float32(1, 200, 10), draw_float32(1, 200, 10, seed=1)
    y = y + x @ draw_float32(10, 10, seed=2)
    rotation = torch.linalg.qr(draw_float32(10, 10, seed=3))[0]
    value = linear_cka(x, y, debiased=debiased)
    for same in (x @ rotation, x + 100 * draw_float32(10, seed=4), 0.03 * x, -x):
        torch.testing.assert_close(linear_cka(same, y, debiased=debiased), value, rtol=1e-4, atol=1e-4)
    stretched = x @ torch.diag(torch.arange(1.0, 11.0) ** 2)
    assert abs(linear_cka(stretched, y, debiased=debiased) - value) > 0.05


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_of_matched_layers_is_the_diagonal_of_all_pairs(debiased: bool):
    x, y = draw_float32(3, 60, 12), draw_float32(3, 60, 7, seed=1)
    y[1] += x[1, :, :7]
    values = linear_cka(x, y, debiased=debiased)
    assert values.dtype == torch.float64
    expected = cka_pairs(x, y, debiased=debiased).diagonal()
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-6)
    assert values.argmax() == 1


def test_debiased_cka_is_not_clamped():
    values = cka_pairs(draw_float32(20, 50, 20), draw_float32(20, 50, 20, seed=1))
    assert values.min() < 0 < values.max()


def test_label_cka_finds_the_layer_with_the_labels_and_is_zero_elsewhere():
    labels = torch.arange(300) % 3
    x = draw_float32(3, 300, 16)
    x[1, :, :3] += 3 * torch.nn.functional.one_hot(labels, 3)
    alignment = label_cka(x, labels)
    assert alignment[1] > 0.3
    assert alignment[[0, 2]].abs().max() < 0.05
    real = x[1, :, 0] + 0.1 * draw_float32(300, seed=5)
    assert label_cka(x, real)[1] > label_cka(x, real)[[0, 2]].max() + 0.1


def test_a_constant_layer_and_a_single_class_are_nan():
    x = draw_float32(2, 50, 4)
    x[0] = 3.7
    assert linear_cka(x, draw_float32(2, 50, 4, seed=1)).isnan().tolist() == [True, False]
    assert linear_cka(draw_float32(2, 50, 4, seed=1), x).isnan().tolist() == [True, False]
    assert cka_pairs(x, x).isnan().tolist() == [[True, True], [True, False]]
    assert label_cka(x, torch.zeros(50, dtype=torch.long), num_classes=2).isnan().all()


def test_layers_and_rows_that_do_not_match_and_rows_that_cannot_be_used_are_refused():
    x = draw_float32(2, 9, 3)
    with pytest.raises(ValueError, match=r"same layers and rows; got \(2, 9, 3\) and \(2, 8, 3\)"):
        linear_cka(x, x[:, 1:])
    with pytest.raises(ValueError, match=r"same layers and rows; got \(2, 9, 3\) and \(1, 9, 3\)"):
        linear_cka(x, x[:1])
    with pytest.raises(ValueError, match=r"`x` expects the shape \(layers, rows, features\); got \(9, 3\)"):
        linear_cka(x[0], x[0])
    with pytest.raises(ValueError, match="at least 4 rows; got 3"):
        linear_cka(x[:, :3], x[:, :3])
    with pytest.raises(ValueError, match="1 of the 9 rows of `y` hold NaN"):
        linear_cka(x, x.index_fill(1, torch.tensor([7]), torch.nan))
    with pytest.raises(ValueError, match=r"equal rows; got \(2, 9, 3\), \(2, 8, 3\)"):
        cka_pairs(x, x[:, 1:])


@pytest.mark.parametrize("y_features", [2, 40])
def test_the_biased_floor_is_the_average_over_all_orders_of_five_rows(y_features: int):
    x, y = 3 + draw(2, 5, 3), draw(2, 5, y_features, seed=1)
    orders = itertools.permutations(range(5))
    average = torch.stack([linear_cka(x, y[:, [*order]], debiased=False) for order in orders]).mean(0)
    torch.testing.assert_close(biased_cka_floor(x, y), average, rtol=1e-10, atol=0)


def test_the_biased_floor_is_the_average_over_random_orders_even_where_rows_are_related():
    x = draw(1, 60, 20)
    y = x @ draw(1, 20, 30, seed=1)
    generator = torch.Generator().manual_seed(2)
    shuffled = torch.stack(
        [linear_cka(x, y[:, torch.randperm(60, generator=generator)], debiased=False) for _ in range(150)]
    )
    assert biased_cka_floor(x, y).item() == pytest.approx(shuffled.mean().item(), abs=0.004)
    assert linear_cka(x, y, debiased=False) > shuffled.max() + 0.1


def test_the_biased_floor_takes_one_layer_of_labels_for_all_layers_in_float32_too():
    x, y = draw(3, 20, 4), draw(1, 20, 2, seed=1)
    floor = biased_cka_floor(x, y)
    torch.testing.assert_close(floor, biased_cka_floor(x, y.expand(3, -1, -1)))
    torch.testing.assert_close(floor, biased_cka_floor(x.float(), y.float()), rtol=0, atol=1e-6)


def test_rotation_shift_and_scale_do_not_change_the_biased_floor():
    x, y = draw(1, 20, 4), draw(1, 20, 3, seed=1)
    rotation = torch.linalg.qr(draw(4, 4, seed=2))[0]
    torch.testing.assert_close(biased_cka_floor(0.03 * x @ rotation + 100, y), biased_cka_floor(x, y))


def test_the_biased_floor_falls_with_rows_and_rises_with_directions():
    by_rows = [biased_cka_floor(draw(1, n, 50), draw(1, n, 50, seed=1)).item() for n in (20, 60, 500)]
    by_width = [biased_cka_floor(draw(1, 60, d), draw(1, 60, d, seed=1)).item() for d in (2, 20, 200)]
    assert by_rows == sorted(by_rows, reverse=True)
    assert by_width == sorted(by_width)


def test_the_biased_floor_of_a_constant_layer_is_nan():
    x, y = draw(2, 12, 4), draw(2, 12, 3, seed=1)
    y[0] = -2.0
    assert biased_cka_floor(x, y).isnan().tolist() == [True, False]


def related(rows: int, layers: int = 1, features: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    x = draw(layers, rows, features) * torch.logspace(0.5, -0.5, features)
    return x, 0.5 * x.flip(0) + draw(layers, rows, features, seed=1)


def batches(x: torch.Tensor, y: torch.Tensor, rows: int):
    return zip(x.split(rows, dim=1), y.split(rows, dim=1), strict=True)


def test_minibatch_cka_is_the_ratio_of_hsics_summed_over_batches():
    x, y = related(60, layers=2)
    sums = {
        name: sum(hsic_pairs(a, b)[i, j] for a, b in batches(*sides, 12))
        for name, sides, (i, j) in (("xy", (x, y), (0, 1)), ("xx", (x, x), (0, 0)), ("yy", (y, y), (1, 1)))
    }
    expected = sums["xy"] / (sums["xx"] * sums["yy"]).sqrt()
    torch.testing.assert_close(minibatch_cka(batches(x, y, 12))[0, 1], expected, rtol=1e-12, atol=0)


def test_minibatch_cka_of_one_batch_of_all_rows_is_debiased_cka():
    x, y = related(60, layers=3)
    torch.testing.assert_close(minibatch_cka([(x, y)]), cka_pairs(x, y), rtol=1e-12, atol=1e-12)


def test_the_ratio_of_sums_finds_the_true_value_where_the_mean_of_ratios_does_not():
    x, y = related(8_000)
    truth = cka_pairs(x, y).item()
    each = torch.stack([cka_pairs(a, b)[0, 0] for a, b in batches(x, y, 5)])
    assert minibatch_cka(batches(x, y, 5)).item() == pytest.approx(truth, abs=0.01)
    assert abs(each.nanmean().item() - truth) > 0.05


def test_unrelated_layers_are_near_0_however_small_the_batches():
    x, y = draw(2, 6000, 20), draw(2, 6000, 20, seed=1)
    assert minibatch_cka(batches(x, y, 8)).abs().max() < 0.02


def test_a_layer_constant_in_every_batch_is_nan_and_one_constant_in_some_is_not():
    x, y = related(40, layers=2)
    x[0] = 0.1
    assert minibatch_cka(batches(x.float(), y.float(), 10)).isnan().tolist() == [[True, True], [False, False]]
    x[0, 20:] = 0.7
    assert minibatch_cka(batches(x.float(), y.float(), 10))[0].isnan().all()
    x[0, 5:15] = draw(10, 10, seed=3)
    assert minibatch_cka(batches(x.float(), y.float(), 10)).isfinite().all()


def test_batches_that_cannot_be_used_are_refused():
    x, y = related(42)
    with pytest.raises(ValueError, match=r"Every minibatch expects at least 4 rows; got one of 2.*`drop_last=True`"):
        minibatch_cka(batches(x, y, 10))
    with pytest.raises(ValueError, match="at least one batch"):
        minibatch_cka([])
    with pytest.raises(ValueError, match=r"equal rows; got \(1, 42, 10\), \(1, 41, 10\)"):
        minibatch_cka([(x, y[:, 1:])])
    x[0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        minibatch_cka([(x, y)])
