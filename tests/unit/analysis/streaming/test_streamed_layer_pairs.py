from __future__ import annotations

import pytest
import torch
from torch import Tensor

from probes.analysis import cka_pairs
from probes.analysis.streaming import layer_pairs, streamed_cka_pairs


def rows(layers: int, features: int, *, seed: int) -> Tensor:
    """Related layers of few directions, with a constant layer, and a feature that is far off zero."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(200, 6, generator=generator)
    mixing = torch.randn(layers, 6, features, generator=generator)
    values = shared @ mixing + torch.randn(layers, 200, features, generator=generator)
    values[:, :, 0] += 300
    values[1] = 2.5
    return values


def streamed(*sides: Tensor, size: int, **options) -> Tensor:
    return streamed_cka_pairs(lambda: zip(*(side.split(size, dim=1) for side in sides), strict=True), **options)


X, Y = rows(5, 12, seed=0), rows(4, 9, seed=0)


@pytest.mark.parametrize("size", [200, 64, 7, 1])
@pytest.mark.parametrize("debiased", [True, False])
def test_pairs_of_one_model_are_those_in_memory_whatever_the_blocks(size: int, debiased: bool):
    expected = cka_pairs(X, X, debiased=debiased)
    torch.testing.assert_close(streamed(X, size=size, debiased=debiased), expected, atol=1e-6, rtol=0, equal_nan=True)
    assert expected[0, 2] > 0.2  # the control: there is something to find
    assert expected[:, 1].isnan().all()


@pytest.mark.parametrize("max_bytes", [1, 2000, 2**31])
@pytest.mark.parametrize("debiased", [True, False])
def test_pairs_of_two_models_are_those_in_memory_whatever_the_memory(max_bytes: int, debiased: bool):
    expected = cka_pairs(X, Y, debiased=debiased)
    found = streamed(X, Y, size=50, max_bytes=max_bytes, debiased=debiased)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0, equal_nan=True)
    assert expected.shape == (5, 4)


def test_unrelated_rows_have_a_debiased_cka_around_zero():
    noise = torch.randn(2, 400, 300, generator=torch.Generator().manual_seed(1))
    assert abs(streamed(noise[:1], noise[1:], size=90).item()) < 0.02
    assert streamed(noise[:1], noise[1:], size=90, debiased=False).item() > 0.3  # the control


def test_the_products_in_memory_stay_below_the_limit():
    held: list[int] = []
    for group in layer_pairs._groups([(i, j) for i in range(6) for j in range(6)], [10] * 6, 2500):
        held.append(800 * len(group))
    assert max(held) == 2400
    assert sum(held) == 800 * 36


def test_a_pass_over_the_rows_is_made_for_each_group_and_one_for_the_means():
    passes = []

    def blocks():
        passes.append(1)
        return ((part,) for part in X.split(50, dim=1))

    streamed_cka_pairs(blocks, max_bytes=5 * 8 * 12 * 12)
    assert len(passes) == 1 + 3  # 15 pairs, 5 at a time


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ((X[:, :3],), "at least 4 rows; got 3"),
        ((X[:, :40].log(),), "holds NaN or infinity"),
    ],
)
def test_rows_that_cannot_be_compared_are_named(sides, message: str):
    with pytest.raises(ValueError, match=message):
        streamed(*sides, size=40)


def test_sides_of_different_rows_are_named():
    with pytest.raises(ValueError, match=r"same rows \(axis 1\); got the shapes \(5, 200, 12\), \(4, 199, 9\)"):
        streamed_cka_pairs(lambda: [(X, Y[:, 1:])])
