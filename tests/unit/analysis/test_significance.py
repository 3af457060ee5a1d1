from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussian_rows import draw
from scipy import stats

from probes.analysis import cka_leave_one_out, cka_null, holm, interval_of, moment_matched_tail, permutation_p
from probes.analysis.significance import with_p_values
from probes.values import Estimates, LayerProfile


def null_of(x: torch.Tensor, y: torch.Tensor, **options: int) -> torch.Tensor:
    return cka_null(x, y, norm=cka_leave_one_out(x, y).norm, **options)


class TestFamily:
    def test_it_counts_how_often_the_largest_of_all_cells_reaches_each(self):
        rng = np.random.default_rng(0)
        null, observed = rng.normal(size=(99, 3)) * [1, 10, 0.1] + [0, 5, -1], np.array([2.1, 30.0, -1.02])
        draws = [np.append(observed[cell], null[:, cell]) for cell in range(3)]  # the observed value is one of them
        scores = [(draw - draw.mean()) / draw.std() for draw in draws]
        largest = [max(score[1 + i] for score in scores) for i in range(99)]
        expected = [(1 + sum(value >= score[0] for value in largest)) / 100 for score in scores]
        p = permutation_p(observed, null)
        np.testing.assert_allclose(p.family, expected)
        assert expected[1] < expected[0] < expected[2]
        np.testing.assert_allclose(p.cell, (1 + (null >= observed).sum(0)) / 100)
        assert (p.cell <= p.family).all()

    def test_units_of_cells_do_not_matter(self):
        rng = np.random.default_rng(1)
        null, observed = rng.normal(size=(50, 4)), rng.normal(size=4) + 1
        np.testing.assert_array_equal(
            permutation_p(observed * 100 + 3, null * 100 + 3).family, permutation_p(observed, null).family
        )

    def test_it_is_never_below_one_over_permutations_plus_one(self):
        p = permutation_p(np.array([1e6, 0.0]), np.random.default_rng(0).normal(size=(199, 2))).family
        assert p[0] == 1 / 200
        assert p[1] > 0.2

    def test_nan_cells_stay_nan_and_do_not_affect_other_cells(self):
        rng = np.random.default_rng(0)
        null, observed = rng.normal(size=(60, 4)), np.array([1.0, np.nan, 2.0, 0.5])
        null[:, 3] = np.nan
        p = permutation_p(observed, null).family
        assert np.isnan(p).tolist() == [False, True, False, True]
        np.testing.assert_array_equal(p[[0, 2]], permutation_p(observed[[0, 2]], null[:, [0, 2]]).family)
        assert np.isnan(permutation_p(observed[[1]], null[:, [1]]).family).all()

    def test_a_cell_whose_null_does_not_vary_has_no_p(self):
        null = np.random.default_rng(0).normal(size=(60, 2))
        null[:, 0] = 0.25
        assert np.isnan(permutation_p(np.array([0.3, 0.3]), null).family).tolist() == [True, False]

    def test_five_percent_of_unrelated_families_have_a_cell_below_five_percent_and_planted_ones_pass(self):
        families, layers = 400, 3
        x = draw(families, layers, 24, 4) + 0.7 * draw(families, 1, 24, 4, seed=1)  # layers of a family correlate
        labels = (draw(families, 1, 24, 1, seed=2) > 0).double().expand(-1, layers, -1, -1)
        x[:20, 1, :, :1] += 4 * labels[:20, 1]  # planted
        x, labels = x.flatten(0, 1), labels.flatten(0, 1)
        alignment = cka_leave_one_out(x, labels)
        null = cka_null(x, labels, norm=alignment.norm, permutations=99).unflatten(1, (families, layers)).numpy()
        observed = alignment.values.unflatten(0, (families, layers)).numpy()
        p = np.array([permutation_p(observed[f], null[:, f]).family for f in range(families)])
        assert (p[:20, 1] <= 0.05).mean() >= 0.9
        smallest = p[20:].min(1)
        for level in (0.05, 0.2, 0.5):
            assert (smallest <= level).mean() == pytest.approx(level, abs=3 * math.sqrt(level * (1 - level) / 380))

    def test_many_correlated_cells_of_skewed_nulls_keep_the_error_rate_and_a_planted_cell_is_found(self):
        rng = np.random.default_rng(0)
        families, draws, tasks, layers = 400, 60, 10, 20
        level, hits, naive, planted = 0.05, 0, 0, 0
        for _ in range(families):
            common, own = rng.normal(size=(1 + draws, tasks, 1)), rng.normal(size=(1 + draws, tasks, layers))
            cells = np.square(np.sqrt(0.7) * common + np.sqrt(0.3) * own).reshape(1 + draws, -1)
            observed, null = cells[0], cells[1:]
            hits += (permutation_p(observed, null).family < level).any()
            score = (cells - null.mean(0)) / null.std(0)  # the observed value had no part in mean and deviation
            naive += ((score[1:].max(1)[:, None] >= score[0]).sum(0) < level * (1 + draws) - 1).any()
            observed[7] += 40
            planted += permutation_p(observed, null).family[7] < level
        assert hits / families == pytest.approx(level, abs=3.3 * math.sqrt(level * (1 - level) / families))
        assert naive / families > 0.15
        assert planted / families > 0.9

    @pytest.mark.parametrize("tail", ["counted", "moments"])
    @pytest.mark.parametrize(
        ("alternative", "above", "below"), [("greater", True, False), ("less", False, True), ("two-sided", True, True)]
    )
    def test_the_alternative_decides_which_side_counts(self, alternative, above: bool, below: bool, tail):
        null = np.random.default_rng(2).normal(size=(199, 3))
        p = permutation_p(np.array([6.0, -6.0, 0.1]), null, alternative=alternative, tail=tail)
        for found in (p.cell, p.family):
            assert (found[:2] <= 1 / 200).tolist() == [above, below]
            assert found[2] > 0.05


class TestHolm:
    def test_it_is_the_step_down_of_its_definition(self):
        p = np.random.default_rng(0).uniform(size=30) ** 3
        ranks = p.argsort().argsort()
        expected = [max(min(1, (30 - k) * np.sort(p)[k]) for k in range(rank + 1)) for rank in ranks]
        np.testing.assert_allclose(holm(p), expected)


def profile(task: str, estimates: Estimates) -> LayerProfile:
    layers = tuple(range(len(estimates.values)))
    return LayerProfile(quantity="q", unit="", task=task, layers=layers, estimates=estimates)


class TestProfiles:
    def test_a_known_null_is_tested_by_students_t_and_corrected_by_holm(self):
        rng = np.random.default_rng(0)
        errors, values = rng.normal(size=(25, 3)) * 0.1, np.array([1.0, np.nan, 0.3])
        estimates = Estimates(values, 25, errors, np.zeros((1, 3)), "two-sided")
        (found,) = with_p_values([profile("a", estimates)])
        deviation = np.sqrt(np.square(errors).sum(0))
        expected = 2 * stats.t.sf(np.abs(values) / deviation, 24)
        np.testing.assert_allclose(found.estimates.p_cell, expected)
        np.testing.assert_allclose(found.estimates.p, holm(expected))
        (one_sided,) = with_p_values([profile("a", replace(estimates, alternative="greater"))])
        np.testing.assert_allclose(one_sided.estimates.p_cell, expected / 2)

    def test_errors_of_many_draws_have_the_degrees_of_freedom_of_the_rows_that_were_drawn(self):
        errors = np.random.default_rng(0).normal(size=(1000, 2))
        values = np.sqrt(np.square(errors).sum(0)) * [2.0, 2.1]
        estimates = Estimates(values, 40, errors, np.zeros((1, 2)), "two-sided", freedom=((1000, 39),))
        (found,) = with_p_values([profile("a", estimates)])
        np.testing.assert_allclose(found.estimates.p_cell, 2 * stats.t.sf([2.0, 2.1], 39))
        excluded = interval_of(found)[0] > 0
        assert excluded.tolist() == (found.estimates.p_cell < 0.05).tolist() == [False, True]
        (as_draws,) = with_p_values([profile("a", replace(estimates, freedom=()))])
        assert (as_draws.estimates.p_cell < 0.05).all()

    def test_an_exact_value_equals_its_null_or_differs_from_it(self):
        estimates = Estimates(np.array([0.0, 0.5]), 10, np.zeros((10, 2)), np.zeros((1, 2)), "two-sided")
        (found,) = with_p_values([profile("a", estimates)])
        np.testing.assert_array_equal(found.estimates.p_cell, [1, 0])

    def test_a_task_without_null_leaves_the_others_tested(self):
        rng = np.random.default_rng(0)
        with_null = Estimates(rng.normal(size=2), 10, null=rng.normal(size=(50, 2)))
        fewer = Estimates(rng.normal(size=2), 10, null=rng.normal(size=(40, 2)))
        without = Estimates(np.full(2, np.nan), 0, note="too few rows")
        found = with_p_values([profile("a", with_null), profile("b", without), profile("c", fewer)])
        assert found[1].estimates is without
        assert with_null.null is not None
        assert fewer.null is not None
        expected = permutation_p(
            np.concatenate([with_null.values, fewer.values]), np.hstack([with_null.null[:40], fewer.null])
        )
        np.testing.assert_array_equal(found[0].estimates.p, expected.family[:2])
        np.testing.assert_array_equal(found[2].estimates.p_cell, expected.cell[2:])

    def test_without_a_null_nothing_is_tested(self):
        estimates = Estimates(np.ones(2), 10, np.ones((10, 2)))
        assert with_p_values([profile("a", estimates)])[0].estimates is estimates


class TestMomentMatchedTail:
    def test_it_agrees_with_counting_where_counting_works_and_continues_beyond(self):
        truth = stats.gamma(3.0)
        null = truth.rvs(size=(5000, 2), random_state=np.random.default_rng(0)) * [1.0, 0.01] + [0.0, 7.0]
        for tail in (0.3, 0.05, 0.01):
            observed = truth.isf(tail) * np.array([1.0, 0.01]) + [0.0, 7.0]
            counted = (null >= observed).mean(0)
            np.testing.assert_allclose(moment_matched_tail(observed, null), counted, rtol=0.2)
        far = moment_matched_tail(truth.isf(1e-7) * np.array([1.0, 0.01]) + [0.0, 7.0], null)
        assert (far < 1 / 5001).all()
        np.testing.assert_allclose(np.log10(far), -7, atol=0.7)

    def test_it_keeps_falling_with_the_value_where_counts_cannot(self):
        null = null_of(draw(1, 40, 6), draw(1, 40, 2, seed=1), permutations=400).numpy()
        values = null.max() * np.array([[1.5], [3.0], [6.0]])
        tails = np.array([moment_matched_tail(value, null)[0] for value in values])
        assert 1 / 401 > tails[0] > tails[1] > tails[2] > 0
        assert {permutation_p(value, null).family[0] for value in values} == {1 / 401}

    def test_it_refines_p_of_cells_beyond_all_permutations_and_of_no_others(self):
        null = null_of(draw(1, 40, 6), draw(1, 40, 2, seed=1), permutations=400).numpy()
        null = np.concatenate([null, null[::-1] * 2 + 1, np.full((400, 1), np.nan)], axis=1)
        observed = np.array([null[:, 0].max() * 3, 1.0, 0.5])
        counted, matched = permutation_p(observed, null).family, permutation_p(observed, null, tail="moments").family
        assert counted[0] == 1 / 401
        assert matched[0] == pytest.approx(2 * moment_matched_tail(observed[:1], null[:, :1])[0])
        np.testing.assert_array_equal(matched[1:], counted[1:])

    def test_it_never_raises_a_counted_p(self):
        null = np.random.default_rng(0).exponential(size=(99, 50))
        observed = null.max(0) * 1.01
        assert (permutation_p(observed, null, tail="moments").family <= permutation_p(observed, null).family).all()
