import numpy as np
import pytest
from scipy.stats import norm, spearmanr

from probes.analysis import rank_agreement


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_agreement_is_spearmans_correlation_over_the_cells_both_have():
    x = draw(6, 8)
    y = x + draw(6, 8, seed=1)
    x[0, 3], y[2, 5], y[4, 4] = np.nan, np.nan, np.inf
    x[3], y[:, 1] = x[3].round(), y[:, 1].round()  # ties
    known = np.isfinite(x) & np.isfinite(y)
    found = rank_agreement(x, y)
    assert found.value == pytest.approx(spearmanr(x[known], y[known])[0], rel=1e-12)
    assert found.n == 45
    assert found.ci_low < found.value < found.ci_high


def test_any_rising_map_agrees_wholly_and_a_falling_one_not_at_all():
    x = draw(5, 6)
    assert rank_agreement(x, np.exp(3 * x)) == pytest.approx((1, 1, 1, 30))
    assert rank_agreement(x, -(x**3)) == pytest.approx((-1, -1, -1, 30))


def test_unrelated_matrices_have_an_interval_about_zero_and_related_ones_have_not():
    x, y = draw(40, 4, 12), draw(40, 4, 12, seed=1)
    found = [rank_agreement(*sides, resamples=200) for sides in zip(x, y, strict=True)]
    assert np.mean([own.ci_low < 0 < own.ci_high for own in found]) > 0.8
    assert rank_agreement(x[0], x[0] + 0.5 * y[0]).ci_low > 0.5


def test_tasks_are_what_varies_so_that_more_layers_of_few_tasks_make_no_one_surer():
    of_task = np.repeat(draw(2, 1, 6), 100, axis=1)
    x, y = of_task + 0.01 * draw(2, 100, 6, seed=1)
    found = rank_agreement(x, y)
    as_if_independent = 2 * norm.ppf(0.975) / np.sqrt(found.n - 3)
    assert found.ci_high - found.ci_low > 4 * as_if_independent


def test_the_interval_is_decided_by_the_seed():
    x, y = draw(4, 7), draw(4, 7, seed=1)
    assert rank_agreement(x, y, seed=3) == rank_agreement(x, y, seed=3)
    assert rank_agreement(x, y, seed=3)[1:3] != rank_agreement(x, y, seed=0)[1:3]


def test_with_two_tasks_there_is_no_interval():
    found = rank_agreement(draw(9, 2), draw(9, 2, seed=1))
    assert np.isfinite(found.value)
    assert np.isnan(found[1:3]).all()


@pytest.mark.parametrize("side", [0, 1])
def test_a_constant_or_unknown_side_agrees_with_nothing(side: int):
    sides = [draw(4, 5), draw(4, 5, seed=1)]
    sides[side] = np.full((4, 5), 2.0)
    assert np.isnan(rank_agreement(*sides)[:3]).all()
    sides[side] = np.full((4, 5), np.nan)
    assert np.isnan(rank_agreement(*sides)[:3]).all()
    assert rank_agreement(*sides).n == 0
