"""Without resamples there are no intervals, without draws of a null no p; values are the same."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from nuisance_samples import planted

from probes.metrics import permuted_orders, permuted_scores
from probes.metrics.calibration import Answers, calibrated_errors
from probes.probe_measures import Baselines, Calibration, NuisanceAudit, ProbedTask, SpanDeletion
from probes.probe_measures.nuisances.strata import within_strata
from probes.probe_measures.transfer import TrainedTask, transfer_profiles
from probes.studies import TransferStudy
from probes.values import LayerProfile


@cache
def task() -> ProbedTask:
    own = planted(signal=0.7)
    return replace(own, random_weights=own.data, variants={"without tag": own.data, "without random tag": own.data})


def of_transfer(own: ProbedTask, **draws: int) -> list[LayerProfile]:
    trained = TrainedTask(own.data, own.fit)
    return transfer_profiles(trained, trained, centred=True, seed=0, **draws)


FEW = {"resamples": 20, "permutations": 20}
MEASURES = {
    "baselines": lambda own, **draws: Baselines(**draws)(own),
    "transfer": of_transfer,
    "nuisances": lambda own, **draws: NuisanceAudit(**draws)(own),
    "spans": lambda own, **draws: SpanDeletion(spans={"tag": "^[ab] "}, **draws)(own),
}


def measured(name: str, **draws: int) -> dict[str, LayerProfile]:
    return {profile.quantity: profile for profile in MEASURES[name](task(), **FEW | draws)}


@pytest.mark.parametrize("name", MEASURES)
def test_without_resamples_there_are_no_intervals(name: str):
    whole, without = measured(name), measured(name, resamples=0)
    assert whole.keys() == without.keys()
    assert sum(profile.estimates.interval is not None for profile in whole.values()) > 1
    for quantity, profile in without.items():
        assert profile.estimates.interval is None
        assert profile.estimates.errors is None
        np.testing.assert_array_equal(profile.estimates.values, whole[quantity].estimates.values)


@pytest.mark.parametrize("name", ["baselines", "transfer"])
def test_without_permutations_there_is_no_null(name: str):
    whole, without = measured(name), measured(name, permutations=0)
    assert all(profile.estimates.null is not None for profile in whole.values())
    for quantity, profile in without.items():
        assert profile.estimates.null is None
        np.testing.assert_array_equal(profile.estimates.interval, whole[quantity].estimates.interval)


def test_a_calibration_error_without_draws_has_no_null():
    (whole, _, _), (without, _, _) = (list(Calibration(draws=draws)(task())) for draws in (20, 0))
    assert isinstance(whole, LayerProfile)
    assert isinstance(without, LayerProfile)
    assert whole.estimates.null is not None
    assert without.estimates.null is None
    np.testing.assert_array_equal(without.estimates.values, whole.estimates.values)


def test_no_draws_are_empty():
    sentences = torch.tensor([0, 0, 1, 1, 1])
    for groups in (None, sentences):
        assert permuted_orders(5, 2, seed=0, groups=groups).shape == (2, 5)
        assert permuted_orders(5, 0, seed=0, groups=groups).shape == (0, 5)
    logits, targets = torch.randn(3, 5, 2), torch.tensor([0, 1, 0, 1, 1])
    orders = permuted_orders(5, 0, seed=0)
    assert permuted_scores("classification", logits, targets, orders, names={"macro_f1"})["macro_f1"].shape == (0, 3)
    answers = Answers(torch.full((3, 5), 0.9), torch.ones(3, 5))
    assert calibrated_errors(answers, 0, seed=0).shape == (0, 3)


def test_strata_without_draws_have_values_alone():
    targets = torch.arange(40) % 2
    logits = torch.randn(2, 40, 2, generator=torch.Generator().manual_seed(0))
    strata = torch.arange(40) // 20
    few, none = (
        within_strata("classification", logits, targets, strata, resamples=n, permutations=n, seed=0) for n in (20, 0)
    )
    assert few.null is not None
    assert few.null.shape == (20, 2)
    assert (none.null, none.errors, none.interval) == (None, None, None)
    np.testing.assert_array_equal(none.values, few.values)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: NuisanceAudit(permutations=0), r"`analysis\.probe_measures\.nuisances\.permutations` .* 1; got 0"),
        (lambda: SpanDeletion(permutations=0), r"`analysis\.probe_measures\.spans\.permutations` .* 1; got 0"),
        (lambda: Baselines(resamples=-1), r"`analysis\.probe_measures\.baselines\.resamples` .* 0; got -1"),
        (lambda: Calibration(bins=0), r"`analysis\.probe_measures\.calibration\.bins` .* 1; got 0"),
        (lambda: TransferStudy(permutations=-1), r"`study\.permutations` must be at least 0; got -1"),
    ],
)
def test_numbers_that_a_measure_cannot_do_with_are_refused_by_key(make, key: str):
    with pytest.raises(ValueError, match=key):
        make()
