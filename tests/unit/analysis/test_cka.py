import itertools

import pytest
import torch

from probes.analysis import cka_pairs, hsic_pairs, label_cka, linear_cka
from probes.analysis import hsic as hsic_module


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_unbiased_hsic_equals_the_average_over_all_quadruples():
    x, y = draw(1, 6, 3).double(), draw(1, 6, 2, seed=1).double()
    kernel, other = x[0] @ x[0].T, y[0] @ y[0].T
    terms = [
        kernel[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q])
        for i, j, q, r in itertools.permutations(range(6), 4)
    ]
    torch.testing.assert_close(hsic_pairs(x, y)[0, 0], torch.stack(terms).mean(), rtol=1e-10, atol=1e-12)


def test_biased_hsic_is_the_trace_of_thecentred_kernels():
    x, y = draw(1, 20, 3).double(), draw(1, 20, 5, seed=1).double()
    centre = torch.eye(20, dtype=torch.float64) - 1 / 20
    expected = torch.trace(x[0] @ x[0].T @ centre @ y[0] @ y[0].T @ centre) / 19**2
    torch.testing.assert_close(hsic_pairs(x, y, debiased=False)[0, 0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rows", [10, 513, 1100])
def test_both_forms_give_the_same_sums(rows: int):
    x, y = (hsic_module.centred(draw(3, rows, width, seed=width)) for width in (7, 12))
    by_rows = hsic_module._products_by_rows(x, y)
    torch.testing.assert_close(by_rows.between, hsic_module._products_by_features(x, y), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_rows.within_x, hsic_module._own_products(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_rows.within_y, hsic_module._own_products(y), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [5, 128, 129, 512, 600, 1337])
def test_tiles_cover_the_lower_triangle_once(rows: int):
    cover = torch.zeros(rows, rows)
    for row, column, size in hsic_module.tiles(rows):
        cover[row : row + size, column : column + size] += 1 if row == column else 2
    assert torch.equal(cover.tril(-1) + cover.triu(1).T, torch.full((rows, rows), 2.0).tril(-1))
    assert (cover.diagonal() == 1).all()


@pytest.mark.parametrize("offset", [0.0, 3e3])
def test_a_mean_far_from_zero_costs_no_accuracy(offset: float):
    x = draw(2, 700, 20)
    x[1] += x[0]
    moved = (x + offset * draw(20, seed=1)).double()
    similarity = cka_pairs(moved.float(), moved.float())
    torch.testing.assert_close(similarity, cka_pairs(moved.float().double(), moved.float().double()), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rows", "width"), [(300, 400), (300, 5)])  # by rows, by features
def test_a_model_against_itself_is_the_same_object_or_a_copy(rows: int, width: int):
    x = draw(4, rows, width)
    torch.testing.assert_close(cka_pairs(x, x), cka_pairs(x, x.clone()), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(cka_pairs(x, x).diagonal(), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-6)


def test_float32_input_is_within_1e_5_of_float64():
    x, y = draw(3, 800, 40) + 50, draw(2, 800, 30, seed=1)
    y[0] += x[0, :, :30]
    torch.testing.assert_close(cka_pairs(x, y), cka_pairs(x.double(), y.double()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [64, 256, 2048])
def test_debiased_cka_of_independent_noise_averages_zero_and_biased_does_not(rows: int):
    x, y = draw(6, rows, 768, seed=rows), draw(6, rows, 768, seed=rows + 1)
    assert cka_pairs(x, y).mean().abs() < 0.02
    floor = {64: 0.92, 256: 0.75, 2048: 0.27}[rows]
    assert cka_pairs(x, y, debiased=False).mean() == pytest.approx(floor, abs=0.02)


def test_a_shared_part_is_seen_at_its_layer():
    x, y = draw(4, 300, 32), draw(4, 300, 32, seed=9)
    y[2] += x[1]
    similarity = cka_pairs(x, y)
    assert similarity.argmax() == 1 * 4 + 2
    assert similarity[1, 2] > 0.3
    assert similarity.flatten().sort().values[-2] < 0.05


@pytest.mark.parametrize("debiased", [True, False])
def test_rotation_shift_and_scale_change_nothing_and_an_invertible_map_does(debiased: bool):
    x, y = draw(200, 10), draw(200, 10, seed=1)
    y = y + x @ draw(10, 10, seed=2)
    rotation = torch.linalg.qr(draw(10, 10, seed=3))[0]
    value = linear_cka(x, y, debiased=debiased)
    for same in (x @ rotation, x + 100 * draw(10, seed=4), 0.03 * x, -x):
        torch.testing.assert_close(linear_cka(same, y, debiased=debiased), value, rtol=1e-4, atol=1e-4)
    stretched = x @ torch.diag(torch.arange(1.0, 11.0) ** 2)
    assert abs(linear_cka(stretched, y, debiased=debiased) - value) > 0.05


def test_debiased_cka_is_not_clamped():
    values = cka_pairs(draw(20, 50, 20), draw(20, 50, 20, seed=1))
    assert values.min() < 0 < values.max()


def test_label_cka_finds_the_layer_with_the_labels_and_is_zero_elsewhere():
    labels = torch.arange(300) % 3
    x = draw(3, 300, 16)
    x[1, :, :3] += 3 * torch.nn.functional.one_hot(labels, 3)
    alignment = label_cka(x, labels)
    assert alignment[1] > 0.3
    assert alignment[[0, 2]].abs().max() < 0.05
    real = x[1, :, 0] + 0.1 * draw(300, seed=5)
    assert label_cka(x, real)[1] > label_cka(x, real)[[0, 2]].max() + 0.1


def test_a_constant_layer_and_a_single_class_are_nan():
    x = draw(2, 50, 4)
    x[0] = 3.7
    assert linear_cka(x[0], x[1]).isnan()
    assert cka_pairs(x, x).isnan().tolist() == [[True, True], [True, False]]
    assert label_cka(x, torch.zeros(50, dtype=torch.long), num_classes=2).isnan().all()


def test_mismatched_or_too_few_rows_are_refused():
    with pytest.raises(ValueError, match=r"equal rows; got \(1, 9, 3\), \(1, 8, 3\)"):
        linear_cka(draw(9, 3), draw(8, 3))
    with pytest.raises(ValueError, match="at least 4 rows; got 3"):
        linear_cka(draw(3, 3), draw(3, 3))
