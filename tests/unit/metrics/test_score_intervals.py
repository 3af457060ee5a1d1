"""Intervals on the scale of a score, against SciPy's and against the scale's own definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from probes.metrics import METRICS, bootstrap_counts, errors_of_draws, score_interval, score_rows
from probes.metrics.score_intervals import Scale, standard_errors

ROWS = 10_000
"""So many that Student's and the normal quantile are equal to four digits."""


def draws_with(error: float, *, rows: int) -> Tensor:
    """Two draws whose corrected standard error is `error`."""
    half = error * math.sqrt((rows - 1) / rows / 2)
    return torch.tensor([[-half], [half]], dtype=torch.float64)


def ends(value: float, error: float, scale: Scale, *, rows: int = ROWS) -> tuple[float, float]:
    low, high = score_interval(
        torch.tensor([value], dtype=torch.float64), draws_with(error, rows=rows), rows=rows, scale=scale
    )
    return float(low), float(high)


@pytest.mark.parametrize("right", [1, 60, 5000, 9990])
def test_of_a_plain_share_the_interval_is_wilsons(right: int):
    share = right / ROWS
    wilson = stats.binomtest(right, ROWS).proportion_ci(method="wilson")
    found = ends(share, math.sqrt(share * (1 - share) / ROWS), "share")
    assert found == pytest.approx((wilson.low, wilson.high), rel=1e-3)


@pytest.mark.parametrize(("rows", "right"), [(1000, 1000), (1000, 0)])
def test_of_a_share_without_error_the_interval_is_wilsons_of_all_rows(rows: int, right: int):
    wilson = stats.binomtest(right, rows).proportion_ci(method="wilson")
    found = ends(right / rows, 0.0, "share", rows=rows)
    assert found == pytest.approx((wilson.low, wilson.high), abs=1e-4)


def test_a_share_is_never_as_precise_as_one_of_more_rows_but_a_share_of_labels_may_be():
    error = math.sqrt(0.9 * 0.1 / (4 * ROWS))
    plain = ends(0.9, math.sqrt(0.9 * 0.1 / ROWS), "share")
    assert ends(0.9, error, "share") == pytest.approx(plain, rel=1e-9)
    low, high = ends(0.9, error, "share_of_labels")
    assert high - low == pytest.approx((plain[1] - plain[0]) / 2, rel=1e-3)


def test_the_interval_of_a_share_of_pairs_is_symmetric_in_logits_and_at_1_that_of_a_share():
    low, high = ends(0.9, 0.02, "share_of_pairs")
    reach = stats.norm.ppf(0.975) * 0.02 / (0.9 * 0.1)
    logits = [math.log(end / (1 - end)) for end in (low, high)]
    assert logits == pytest.approx([math.log(9) - reach, math.log(9) + reach], rel=1e-3)
    assert ends(1.0, 0.0, "share_of_pairs") == ends(1.0, 0.0, "share")


def test_the_interval_of_a_correlation_is_fishers():
    found = ends(0.8, (1 - 0.8**2) / math.sqrt(ROWS - 3), "correlation")
    centre, reach = math.atanh(0.8), stats.norm.ppf(0.975) / math.sqrt(ROWS - 3)
    assert found == pytest.approx((math.tanh(centre - reach), math.tanh(centre + reach)), rel=1e-4)


def test_losses_have_intervals_by_ratios_and_r2_that_of_its_loss():
    low, high = ends(2.0, 0.3, "positive")
    assert low * high == pytest.approx(4.0)
    assert high / low == pytest.approx(math.exp(2 * stats.norm.ppf(0.975) * 0.15), rel=1e-3)
    unexplained = ends(0.25, 0.1, "positive")
    assert ends(0.75, 0.1, "at_most_one") == pytest.approx((1 - unexplained[1], 1 - unexplained[0]))


@pytest.mark.parametrize("rows", [10, 60])
def test_the_interval_of_a_difference_is_students(rows: int):
    reach = 0.1 * stats.t.ppf(0.975, rows - 1)
    assert ends(0.2, 0.1, "difference", rows=rows) == pytest.approx((0.2 - reach, 0.2 + reach))


@pytest.mark.parametrize(("scale", "value"), [("positive", 0.0), ("at_most_one", 1.0), ("correlation", -1.0)])
def test_a_score_at_the_end_of_its_range_without_error_is_its_own_interval(scale: Scale, value: float):
    assert ends(value, 0.0, scale) == (value, value)


def test_the_standard_error_of_bootstrap_draws_is_that_of_a_mean():
    values = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = bootstrap_counts(30, 20_000, seed=0).double() @ values[:, None] / 30
    assert float(standard_errors(draws, rows=30)) == pytest.approx(stats.sem(values.numpy()), rel=0.02)


def test_undefined_draws_are_left_out_and_without_draws_there_is_no_interval():
    draws = torch.tensor([[0.1, torch.nan], [0.3, torch.nan], [torch.nan, torch.nan]], dtype=torch.float64)
    errors = standard_errors(draws, rows=ROWS)
    np.testing.assert_allclose(errors.numpy(), [math.sqrt(0.02), np.nan], rtol=1e-3)
    low, high = score_interval(torch.tensor([0.2, 0.2]), draws, rows=ROWS, scale="share")
    assert low.isnan().tolist() == high.isnan().tolist() == [False, True]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: f"{metric.kind}-{metric.name}")
def test_the_interval_of_every_metric_holds_its_value_and_stays_in_its_range(metric):
    generator = torch.Generator().manual_seed(0)
    classes = {"classification": max(2, metric.least_classes), "multilabel": 3, "regression": 1}[metric.kind]
    logits = torch.randn(2, 40, classes, generator=generator)
    targets = {
        "classification": torch.randint(classes, (40,), generator=generator),
        "multilabel": torch.randint(2, (40, 3), generator=generator).float(),
        "regression": torch.randn(40, generator=generator),
    }[metric.kind]
    scores = score_rows(metric.kind, logits, targets, bootstrap_counts(40, 200, seed=0), ordered=metric.of_order)
    low, high = scores.interval(metric.name)
    least, most = {"positive": (0, math.inf), "at_most_one": (-math.inf, 1), "correlation": (-1, 1)}.get(
        metric.scale, (0, 1)
    )
    assert ((least <= low) & (low < scores.values[metric.name])).all()
    assert ((scores.values[metric.name] < high) & (high <= most)).all()


def test_errors_of_draws_sum_to_the_variance_that_intervals_have():
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = bootstrap_counts(20, 20_000, seed=0).double() @ x / 20
    errors = errors_of_draws(draws, units=20)
    torch.testing.assert_close(errors.square().sum(0).sqrt(), standard_errors(draws, rows=20))
    torch.testing.assert_close(errors.square().sum(0), x.var(0) / 20, rtol=0.03, atol=0)
    assert not errors_of_draws(draws[:, :1] * 0, units=1).any()
