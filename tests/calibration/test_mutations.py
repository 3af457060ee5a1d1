"""A calibration test that no mistake could fail would be worthless: each of these mistakes fails one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from calibration import across_tasks
from calibration.catalogue import SIMULATIONS
from calibration.simulation import Measured, measure
from torch import Tensor

from probes.analysis import linear_cka, significance
from probes.analysis.between_tasks import tuning_gain
from probes.analysis.measures import ReferenceCKA, TaskRows
from probes.analysis.significance import PValues
from probes.metrics import Scores
from probes.training import TaskProbes
from probes.values import Estimates

pytestmark = pytest.mark.slow


def rates(name: str, calls: int) -> dict[str, Measured]:
    (simulation,) = [simulation for simulation in SIMULATIONS if simulation.name == name]
    return {rate.quantity: rate for rate in measure(simulation, calls)}


def test_errors_that_are_not_paired_make_the_interval_of_a_gain_too_wide(monkeypatch: pytest.MonkeyPatch):
    def independent(minuend: Estimates, subtrahend: Estimates) -> Estimates:
        errors = np.concatenate([minuend.errors, subtrahend.errors])
        return replace(minuend, values=minuend.values - subtrahend.values, errors=errors)

    assert rates("tuning_gain none 200", 8)["tuning_gain"].may_hold
    monkeypatch.setattr(tuning_gain, "paired_difference", independent)
    assert not rates("tuning_gain none 200", 8)["tuning_gain"].may_hold


def test_rows_drawn_with_replacement_put_the_interval_of_an_unbiased_cka_beside_the_truth(
    monkeypatch: pytest.MonkeyPatch,
):
    def bootstrap(self: ReferenceCKA, rows: TaskRows) -> Estimates:
        x, y = rows.values, rows.reference
        generator = torch.Generator().manual_seed(0)
        count = x.shape[1]
        drawn = [torch.randint(count, (count,), generator=generator) for _ in range(60)]
        values = torch.stack([linear_cka(x[:, some], y[:, some]) for some in drawn]).numpy()
        return Estimates(linear_cka(x, y).numpy(), count, interval=np.quantile(values, [0.025, 0.975], axis=0))

    assert rates("reference_cka unrelated", 2)["reference_cka"].may_hold
    monkeypatch.setattr(ReferenceCKA, "__call__", bootstrap)
    assert not rates("reference_cka unrelated", 2)["reference_cka"].may_hold


def test_a_null_standardised_without_the_observed_value_raises_false_alarms(monkeypatch: pytest.MonkeyPatch):
    def without_observed(observed: np.ndarray, null: np.ndarray, **_: object) -> PValues:
        mean, deviation = null.mean(0), null.std(0)
        largest = ((null - mean) / deviation).max(1)
        num_above = (largest[:, None] >= (observed - mean) / deviation).sum(0)
        p = (1 + num_above) / (1 + len(null))
        return PValues(p, p)

    monkeypatch.setattr(significance, "permutation_p", without_observed)
    assert not rates("label_cka family-wise counted 0.7 50", 40)["p of label_cka, any cell"].may_hold


def test_a_layer_chosen_on_test_rows_has_an_interval_above_its_true_score(monkeypatch: pytest.MonkeyPatch):
    def on_test(fits: TaskProbes) -> dict[object, float]:
        return dict(fits.profile("macro_f1").by_layer())

    monkeypatch.setattr(TaskProbes, "_validation_scores", on_test)
    assert not rates("best layer", 30)["accuracy at the best layer"].may_hold


def test_percentile_intervals_miss_scores_near_the_end_of_their_range(monkeypatch: pytest.MonkeyPatch):
    def percentiles(scores: Scores, metric: str) -> tuple[Tensor, Tensor] | None:
        low, high = scores.draws[metric].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
        return low, high

    monkeypatch.setattr(Scores, "interval", percentiles)
    assert not rates("probe scores, easy, 60 rows, ('auroc',)", 4)["auroc"].may_hold


@pytest.mark.parametrize(
    ("simulation", "calls", "quantity"),
    [("group_mean 3 normal", 3, "group_mean"), ("specificity 60", 5, "specificity/label_cka")],
)
def test_intervals_that_are_too_narrow_are_noticed(
    simulation: str, calls: int, quantity: str, monkeypatch: pytest.MonkeyPatch
):
    exact = across_tasks.interval_of

    def narrow(profile: object) -> Sequence[np.ndarray]:
        low, high = exact(profile)
        centre, half = (low + high) / 2, (high - low) / 2
        return centre - 0.7 * half, centre + 0.7 * half

    monkeypatch.setattr(across_tasks, "interval_of", narrow)
    assert not rates(simulation, calls)[quantity].may_hold
