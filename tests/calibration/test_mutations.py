"""A calibration test that no mistake could fail would be worthless: each of these mistakes fails one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from calibration import across_tasks
from calibration.catalogue import SIMULATIONS
from calibration.simulation import Measured, measure
from scipy.stats import norm, spearmanr
from torch import Tensor

from probes.analysis import intervals, linear_cka, measures, significance
from probes.analysis.between_tasks import tuning_gain
from probes.analysis.between_tasks.tuning_gain import RankAgreement
from probes.analysis.measures import ReferenceCKA, TaskRows
from probes.analysis.significance import PValues
from probes.metrics import Scores
from probes.training import TaskProbes, best_layers
from probes.values import Estimates, Layer

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
    def on_test(fits: TaskProbes) -> Layer:
        return max(fits.profile("macro_f1").by_layer(), key=lambda cell: cell[1])[0]

    monkeypatch.setattr(TaskProbes, "validation_best_layer", property(on_test))
    assert not rates("best layer", 30)["accuracy at the best layer"].may_hold


def test_percentile_intervals_miss_scores_near_the_end_of_their_range(monkeypatch: pytest.MonkeyPatch):
    def percentiles(scores: Scores, metric: str) -> tuple[Tensor, Tensor] | None:
        if metric not in scores.draws:
            return None
        low, high = scores.draws[metric].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
        return low, high

    monkeypatch.setattr(Scores, "interval", percentiles)
    assert not rates("probe scores, easy, 60 rows, ('auroc',)", 15)["auroc"].may_hold


def test_halves_whose_pairs_of_rows_count_three_times_make_the_interval_of_separability_too_wide(
    monkeypatch: pytest.MonkeyPatch,
):
    def plain(values: Tensor, *, half_means: str) -> np.ndarray:
        return intervals.errors_of_halves(values, half_means="added")

    name = "task_separability/between_share"
    assert rates("between_share 0.0", 10)[name].may_hold
    monkeypatch.setattr(measures, "errors_of_halves", plain)
    assert not rates("between_share 0.0", 10)[name].may_hold


def test_a_normal_quantile_is_too_small_for_three_tasks(monkeypatch: pytest.MonkeyPatch):
    class Normal:
        ppf = staticmethod(lambda level, freedom: norm.ppf(level))

    monkeypatch.setattr(intervals, "student_t", Normal)
    assert not rates("group_mean 3 normal", 3)["group_mean"].may_hold


def test_cells_of_one_task_that_count_as_independent_narrow_an_agreement(monkeypatch: pytest.MonkeyPatch):
    def by_cells(x: np.ndarray, y: np.ndarray) -> RankAgreement:
        value, reach = float(spearmanr(x.ravel(), y.ravel()).statistic), norm.ppf(0.975) / np.sqrt(x.size - 3)
        return RankAgreement(value, *np.tanh(np.arctanh(value) + np.array([-reach, reach])), x.size)

    monkeypatch.setattr(across_tasks, "rank_agreement", by_cells)
    assert not rates("agreement 9 0.5", 3)["agreement"].may_hold


def test_layers_compared_with_the_best_one_by_one_drop_the_truly_best_too_often(monkeypatch: pytest.MonkeyPatch):
    def one_by_one(scores: Tensor, draws: Tensor, *, level: float = 0.95) -> Tensor:
        best = scores.argmax()
        return (draws[:, [best]] - draws).quantile(1 - level, dim=0) <= 0

    monkeypatch.setattr(best_layers, "possibly_best", one_by_one)
    assert not rates("best layers, equal", 15)["best_layers"].may_hold
