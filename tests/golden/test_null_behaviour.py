"""Where nothing is related, how often and how far do the numbers say that something is?"""

import math
from functools import cache

import numpy as np
import pytest
import torch

from probes.analysis import (
    biased_cka_floor,
    cka_leave_one_out,
    cka_null,
    cka_pairs,
    confidence_interval,
    jackknife_errors,
    permutation_p,
)

FLOOR = {64: 0.92, 256: 0.75, 1024: 0.43, 2048: 0.27}
"""Biased CKA of independent isotropic rows, 768 wide, by number of rows: 768 / (768 + rows), as a covariance of
m = rows − 1 degrees of freedom has E tr(S)² ≈ (768 m)² and E tr(S²) ≈ 768 m (m + 768 + 1)."""


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@cache
def independent(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    layers = 4 if rows < 1000 else 2
    return draw(layers, rows, 768, seed=rows), draw(layers, rows, 768, seed=rows + 1)


@pytest.mark.parametrize("rows", FLOOR)
def test_debiased_cka_of_independent_rows_is_zero_and_biased_cka_is_its_floor(rows: int):
    x, y = independent(rows)
    assert abs(cka_pairs(x, y).mean()) < 0.02
    biased, floor = cka_pairs(x, y, debiased=False).mean().item(), biased_cka_floor(x, y).mean().item()
    assert floor == pytest.approx(biased, abs=0.01)
    assert floor == pytest.approx(768 / (768 + rows), abs=0.005)
    assert floor == pytest.approx(FLOOR[rows], abs=0.01)


@pytest.mark.parametrize("rows", [64, 256])
def test_the_interval_of_debiased_cka_of_independent_rows_holds_zero(rows: int):
    x, y = independent(rows)
    alignment = cka_leave_one_out(x, y)
    low, high = confidence_interval(alignment.values.numpy(), jackknife_errors(alignment))
    assert ((low < 0) & (high > 0)).sum() >= 3
    shared = y + 0.7 * x  # positive control
    alignment = cka_leave_one_out(x, shared)
    assert (confidence_interval(alignment.values.numpy(), jackknife_errors(alignment))[0] > 0.05).all()


@pytest.mark.parametrize("y_features", [1, 24], ids=["labels", "another model"])
def test_about_five_percent_of_unrelated_cells_pass_at_five_percent_and_planted_ones_do(y_features: int):
    cells, planted, permutations = 500, 25, 199
    x, y = draw(cells, 32, 12), draw(cells, 32, y_features, seed=1)
    y[:planted, :, 0] += 3 * x[:planted, :, 0]
    alignment = cka_leave_one_out(x, y)
    null = cka_null(x, y, norm=alignment.norm, permutations=permutations).numpy()
    values = alignment.values.numpy()
    single = (1 + (null >= values).sum(0)) / (1 + permutations)
    unrelated = single[planted:]
    for level in (0.01, 0.05, 0.25):
        spread = math.sqrt(level * (1 - level) / len(unrelated))
        assert (unrelated <= level).mean() == pytest.approx(level, abs=3.5 * spread)
    assert (single[:planted] <= 0.05).mean() >= 0.9
    # with few cells at a time the corrected p finds the planted one and no other
    family = np.r_[0, planted : planted + 5]
    corrected = permutation_p(values[family], null[:, family]).family
    assert corrected[0] <= 0.05 < corrected[1:].min()


def test_a_planted_layer_is_found_among_many_and_its_neighbours_are_not():
    x, labels = draw(12, 400, 64), (torch.arange(400) % 2).float()[None, :, None]
    x[7, :, 0] += 2 * (labels[0, :, 0] - 0.5)
    alignment = cka_leave_one_out(x, labels)
    null = cka_null(x, labels, norm=alignment.norm, permutations=199).numpy()
    p = permutation_p(alignment.values.numpy(), null).family
    assert (p <= 0.05).nonzero()[0].tolist() == [7]
