"""Effects of interventions: class-balanced means, their intervals, and what random interventions do anyway."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from probes.analysis.effects import class_balanced_mean, effect_estimates, log_odds_of_right


def test_log_odds_compare_the_right_answer_with_the_mean_of_the_others():
    log_probs = np.array([[[-1.0, -2.0, -4.0], [-3.0, -1.0, -1.0]]])
    np.testing.assert_allclose(log_odds_of_right(log_probs, np.array([0, 2])), [[2.0, 1.0]])


def test_a_preference_for_one_answer_does_not_change_the_balanced_mean():
    random = np.random.default_rng(0)
    labels, log_probs = random.integers(3, size=50), random.normal(size=(50, 3))
    biased = log_probs + np.array([5.0, 0.0, -2.0])
    means = [class_balanced_mean(log_odds_of_right(x, labels), labels) for x in (log_probs, biased)]
    assert means[0] == pytest.approx(means[1])
    assert log_odds_of_right(biased, labels).mean() != pytest.approx(log_odds_of_right(log_probs, labels).mean())


def test_with_one_class_the_interval_is_that_of_a_plain_mean():
    rows = np.random.default_rng(1).normal(size=(3, 20))
    found = effect_estimates(rows, np.zeros(20, dtype=int))
    for layer in range(3):
        test = stats.ttest_1samp(rows[layer], 0)
        np.testing.assert_allclose(found.interval[:, layer], test.confidence_interval())
        assert found.p_cell[layer] == pytest.approx(test.pvalue)


def test_random_interventions_are_subtracted_and_their_spread_widens_the_interval():
    random = np.random.default_rng(2)
    labels, rows = np.arange(40) % 2, 1.0 + random.normal(size=(1, 40))
    alike = np.repeat(random.normal(size=(1, 1, 40)), 3, axis=0)
    spread = alike + np.array([-1.0, 0.0, 1.0])[:, None, None]
    narrow, wide = (effect_estimates(rows, labels, draws) for draws in (alike, spread))
    assert narrow.values == pytest.approx(class_balanced_mean(rows - alike[0], labels))
    assert wide.values == pytest.approx(narrow.values)
    assert np.ptp(wide.interval) > 3 * np.ptp(narrow.interval)
    assert narrow.interval_over == "rows and random subspaces"


@pytest.mark.parametrize(("alternative", "sign"), [("greater", 1), ("less", -1)])
def test_one_sided_tests_look_in_their_direction(alternative, sign: int):
    rows = sign * (1 + np.random.default_rng(3).normal(size=(1, 30)))
    labels = np.zeros(30, dtype=int)
    assert effect_estimates(rows, labels, alternative=alternative).p_cell < 1e-3
    assert effect_estimates(-rows, labels, alternative=alternative).p_cell > 0.999


def test_without_a_second_row_of_a_class_there_is_a_mean_and_no_interval():
    effects = np.array([[1.0, 2.0, 6.0]])
    alone, pairs = (effect_estimates(effects, np.array(labels)) for labels in ([0, 0, 1], [0, 0, 0]))
    assert alone.values.tolist() == [3.75]
    assert np.isnan(alone.interval).all()
    assert np.isnan(alone.p_cell).all()
    assert np.isfinite(pairs.interval).all()
    assert np.isnan(effect_estimates(effects, np.arange(3)).interval).all()


def test_an_effect_of_exactly_nothing_is_not_significant_and_a_missing_layer_is_nan():
    found = effect_estimates(np.stack([np.zeros(8), np.full(8, np.nan)]), np.arange(8) % 2)
    assert found.values[0] == 0
    assert found.p_cell[0] == 1
    assert np.isnan(found.values[1])
    assert np.isnan(found.p_cell[1])
