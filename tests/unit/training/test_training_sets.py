"""Intervals over training sets: errors with a planted answer, refits against scikit-learn, coverage by simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_tasks import EXACT, fit, planted_task
from scipy.stats import binom
from scipy.stats import t as student_t
from sklearn.linear_model import LogisticRegression

from probes.analysis.between_tasks.tuning_gain import paired_difference
from probes.metrics import widened
from probes.seeds import derive_seed
from probes.training import default_trainer, fit_probes
from probes.training.data_module import Rows
from probes.training.selection import select
from probes.training.train_bank import BankSpec
from probes.training.training_sets import half_weights, refitted_logits, training_set_errors
from probes.values import Estimates

WIDE = replace(EXACT, training_sets=8)
OVER_BOTH = "rows and training sets"


def scores_of_sets(b: float, c: float, *, sets: int = 40, rows: int = 200, layers: int = 300) -> torch.Tensor:
    """Mean scores of sets on rows, and on 100 resamples of these, with standard deviations b of sets and c of cells."""
    generator = torch.Generator().manual_seed(0)
    by_row = c * rows**0.5 * torch.randn(sets, layers, rows, generator=generator, dtype=torch.float64)
    by_row += b * torch.randn(sets, layers, 1, generator=generator, dtype=torch.float64)
    by_row += torch.randn(rows, generator=generator, dtype=torch.float64)  # a, the same for all sets
    drawn = torch.randint(rows, (100, rows), generator=generator)
    counts = torch.ones(101, rows, dtype=torch.float64)
    counts[1:] = torch.zeros(100, rows, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(100, rows).double())
    return torch.einsum("slr,kr->ksl", by_row, counts) / rows


@pytest.mark.parametrize(("b", "c"), [(0.3, 0.0), (0.3, 0.3), (0.3, 0.1)])
def test_the_errors_have_the_variance_of_the_sets_without_that_of_the_rows(b, c):
    refits = scores_of_sets(b, c)
    assert training_set_errors(refits).square().sum(0).mean().item() == pytest.approx(b**2, rel=0.06)
    if c > 0:
        assert refits[0].var(0).mean().item() == pytest.approx(b**2 + c**2, rel=0.06)


def test_sets_that_differ_by_rows_only_add_next_to_nothing():
    assert training_set_errors(scores_of_sets(0.0, 0.3)).square().sum(0).mean() < 0.1 * 0.3**2
    assert not training_set_errors(torch.ones(101, 5, 2, dtype=torch.float64)).any()


def test_a_set_or_resample_without_a_score_is_left_out():
    refits = scores_of_sets(0.3, 0.1, layers=2)
    holes = torch.cat([refits, refits[1:2] * torch.nan])
    holes = torch.cat([holes, holes[:, :1] * torch.nan], dim=1)
    torch.testing.assert_close(training_set_errors(holes), training_set_errors(refits))


def test_each_end_moves_by_adding_the_distances_in_quadrature():
    errors = torch.tensor([[0.03], [-0.04]], dtype=torch.float64)
    low, high = widened(torch.tensor([[0.4], [0.9]]).double(), torch.tensor([0.6]).double(), errors)
    reach = student_t.ppf(0.975, 1) * 0.05
    assert low.item() == pytest.approx(0.6 - (0.2**2 + reach**2) ** 0.5)
    assert high.item() == pytest.approx(0.6 + (0.3**2 + reach**2) ** 0.5)


def test_no_end_is_moved_beyond_the_range_of_the_score():
    ends, value = torch.tensor([[0.1], [0.95]]).double(), torch.tensor([0.9]).double()
    errors = torch.tensor([[0.3], [-0.4]], dtype=torch.float64)
    low, high = widened(ends, value, errors)  # a difference, which has no range
    assert low.item() < 0
    assert high.item() > 1
    assert widened(ends, value, errors, scale="share").flatten().tolist() == [0.0, 1.0]
    assert widened(ends, value, errors, scale="at_most_one")[0].item() == low.item()


@pytest.mark.parametrize("rows", [10, 11])
def test_the_weights_keep_half_of_the_rows_with_mean_1(rows):
    weights = half_weights(rows, 6, seed=0)
    assert ((weights > 0).sum(1) == rows // 2).all()
    torch.testing.assert_close(weights.mean(1), torch.ones(6))
    assert len(weights.unique(dim=0)) > 1
    assert torch.equal(weights, half_weights(rows, 6, seed=0))


def test_a_refit_is_the_probe_that_scikit_learn_fits_on_the_half():
    data = planted_task(rows=(60, 60, 50))
    spec = BankSpec(data, data.layers, 2, True, replace(EXACT, tolerance=1e-7), default_trainer, seed=0)
    train, validation = (
        Rows(split.activations.values, split.targets[None], torch.ones(1, len(split.targets)))
        for split in (data.train, data.validation)
    )
    selection = select(train, validation, spec)
    tests = data.test.activations.values
    refits = refitted_logits(train, validation, tests, selection=selection, spec=spec, sets=8)
    assert refits.shape == (4, 1, 8, 50, 2)
    assert len(selection.chosen.unique()) > 1  # layers of several penalties come back in their order
    weights = half_weights(60, 8, seed=derive_seed(0, "training sets"))
    for layer, penalty in enumerate(selection.penalties(spec.settings)):
        x, y = train.values[layer].double(), data.train.targets
        mean, deviation = x.mean(0), x.std(0, correction=0)
        for number in (0, 7):
            half = weights[number] > 0
            reference = LogisticRegression(C=2 / (penalty * 30), tol=1e-9, max_iter=10_000)
            reference.fit(((x - mean) / deviation)[half].numpy(), y[half].numpy())
            expected = reference.decision_function(((tests[layer].double() - mean) / deviation).numpy())
            np.testing.assert_allclose(refits[layer, 0, number].diff(dim=-1)[:, 0], expected, atol=5e-3)


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_every_test_score_says_that_its_interval_is_over_training_sets_and_is_no_narrower(kind):
    data = planted_task(kind=kind)
    narrow, wide = fit(data, EXACT), fit(data, WIDE)
    for before, after in zip(narrow.profiles, wide.profiles, strict=True):
        old, new = before.estimates, after.estimates
        np.testing.assert_array_equal(old.values, new.values)
        if old.null is not None and new.null is not None:
            np.testing.assert_array_equal(old.null, new.null)
        if old.interval is None or new.interval is None:
            continue
        assert new.interval_over == (OVER_BOTH if after.split == "test" else "rows"), after
        rounding = 1e-9
        assert (new.interval[0] <= old.interval[0] + rounding).all()
        assert (new.interval[1] >= old.interval[1] - rounding).all()
        assert (old.errors is None) == (new.errors is None)
        if old.errors is not None and new.errors is not None:
            np.testing.assert_array_equal(new.errors[: len(old.errors)], old.errors)
            assert len(new.errors) == len(old.errors) + 8
            assert old.freedom == ((len(old.errors), old.n - 1),)
            assert new.freedom == (*old.freedom, (8, 7))
    score = wide.profile("r2" if kind == "regression" else "macro_f1").estimates
    assert score.errors is not None
    assert score.errors[-8:].any()
    assert {row.interval_over for row in wide.results if row.ci_low is not None} == {"rows", OVER_BOTH}


def test_two_models_with_the_same_activations_have_no_difference_over_training_sets_either():
    data = planted_task()
    first, again, other = (fit(data, WIDE, seed=seed).profile("macro_f1").estimates for seed in (0, 0, 1))
    same = paired_difference(first, again)
    assert same.interval_over == OVER_BOTH
    assert same.errors is not None
    assert same.freedom == first.freedom != ()
    assert not same.errors.any()
    apart = paired_difference(first, other).errors
    assert apart is not None
    assert apart[-8:].any()


def logistic_trials(features: int, *, trials: int, rows: tuple[int, int]) -> tuple[Estimates, np.ndarray]:
    """Independent training and test sets as layers, whose log-odds of the label are linear.

    Returns:
        Accuracy on the test rows with its interval over rows and training sets, and exact accuracy on new rows.
    """
    generator = torch.Generator().manual_seed(features)
    signal = 0.05 + 0.2 / features**0.5  # of each feature: rows of class 0 or 1 are Gaussian about ∓signal

    def sample(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.arange(count) % 2
        noise = torch.randn(trials, count, features, generator=generator)
        return noise + signal * (2 * y - 1)[:, None], y

    (x, y), (x_test, y_test), (x_validation, y_validation) = sample(rows[0]), sample(rows[1]), sample(20)
    fitted = fit_probes(
        *(x, y),
        x_validation=x_validation,
        y_validation=y_validation,
        x_test=x_test,
        y_test=y_test,
        penalties=(0.1,),
        min_validation_rows=1,
        controls=0,
        permutations=0,
        bootstrap_samples=200,
    )
    # logits are affine: their values at 0 and at the unit vectors give weights and bias
    points = torch.cat([torch.zeros(1, features), torch.eye(features)]).expand(trials, -1, -1)
    difference = fitted.probes.logits(points).double().diff(dim=-1)[..., 0]
    bias, weights = difference[:, 0], difference[:, 1:] - difference[:, :1]
    margins = torch.stack([signal * weights.sum(1) - bias, signal * weights.sum(1) + bias])  # mean of each class
    accuracy = torch.special.ndtr(margins / weights.norm(dim=1)).mean(0)
    return fitted.profile("accuracy").estimates, accuracy.numpy()


@pytest.mark.parametrize("features", [64, 256])
def test_intervals_over_training_sets_cover_the_expected_score_where_those_over_rows_do_not(features):
    trials, sets = 100, 20  # 192 training rows are few: the default refits
    estimates, accuracy = logistic_trials(features, trials=trials, rows=(192, 2000))
    expected = accuracy.mean()
    assert 0.6 < expected < 0.8
    assert estimates.interval is not None
    assert estimates.errors is not None
    over_both = ((estimates.interval[0] <= expected) & (expected <= estimates.interval[1])).mean()
    of_rows = np.sqrt(np.square(estimates.errors[:-sets]).sum(0))
    over_rows = (np.abs(estimates.values - expected) <= 1.96 * of_rows).mean()
    assert over_rows < binom.ppf(0.0005, trials, 0.95) / trials <= over_both
    of_sets = np.square(estimates.errors[-sets:]).sum(0).mean()
    assert of_sets == pytest.approx(accuracy.var(ddof=1), rel=0.5)
