import itertools

import pytest
import torch

from probes.analysis import biased_cka_floor, linear_cka


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("y_features", [2, 40])
def test_it_is_the_average_over_all_orders_of_five_rows(y_features: int):
    x, y = 3 + draw(2, 5, 3), draw(2, 5, y_features, seed=1)
    orders = list(itertools.permutations(range(5)))
    for floor, a, b in zip(biased_cka_floor(x, y), x, y, strict=True):
        average = torch.stack([linear_cka(a, b[[*order]], debiased=False) for order in orders]).mean()
        torch.testing.assert_close(floor, average, rtol=1e-10, atol=0)


def test_it_is_the_average_over_random_orders_even_where_rows_are_related():
    x = draw(1, 60, 20)
    y = x @ draw(1, 20, 30, seed=1)
    generator = torch.Generator().manual_seed(2)
    shuffled = torch.stack(
        [linear_cka(x[0], y[0][torch.randperm(60, generator=generator)], debiased=False) for _ in range(150)]
    )
    assert biased_cka_floor(x, y).item() == pytest.approx(shuffled.mean().item(), abs=0.004)
    assert linear_cka(x[0], y[0], debiased=False) > shuffled.max() + 0.1


def test_one_layer_of_labels_serves_all_layers_in_float32_too():
    x, y = draw(3, 20, 4), draw(1, 20, 2, seed=1)
    floor = biased_cka_floor(x, y)
    torch.testing.assert_close(floor, biased_cka_floor(x, y.expand(3, -1, -1)))
    torch.testing.assert_close(floor, biased_cka_floor(x.float(), y.float()), rtol=0, atol=1e-6)


def test_rotation_shift_and_scale_change_nothing():
    x, y = draw(1, 20, 4), draw(1, 20, 3, seed=1)
    rotation = torch.linalg.qr(draw(4, 4, seed=2))[0]
    torch.testing.assert_close(biased_cka_floor(0.03 * x @ rotation + 100, y), biased_cka_floor(x, y))


def test_it_falls_with_rows_and_rises_with_directions():
    by_rows = [biased_cka_floor(draw(1, n, 50), draw(1, n, 50, seed=1)).item() for n in (20, 60, 500)]
    by_width = [biased_cka_floor(draw(1, 60, d), draw(1, 60, d, seed=1)).item() for d in (2, 20, 200)]
    assert by_rows == sorted(by_rows, reverse=True)
    assert by_width == sorted(by_width)


def test_a_constant_layer_is_nan():
    x, y = draw(2, 12, 4), draw(2, 12, 3, seed=1)
    y[0] = -2.0
    assert biased_cka_floor(x, y).isnan().tolist() == [True, False]
