"""The short form of `make calibrate`: every rate is within the limits that chance sets for so few repetitions."""

from __future__ import annotations

import pytest
from calibration.__main__ import row, with_rows
from calibration.catalogue import SIMULATIONS
from calibration.simulation import Measured, Simulation, measure
from scipy.stats import binomtest

SHORT = [simulation for simulation in SIMULATIONS if simulation.short > 0]


@pytest.mark.slow
@pytest.mark.parametrize("simulation", SHORT, ids=lambda simulation: simulation.name)
def test_the_rate_is_what_the_interval_or_test_claims(simulation: Simulation):
    rates = measure(simulation, simulation.short)
    missed = [f"{rate.quantity}: {rate.value:.3f} of {rate.repetitions}" for rate in rates if not rate.may_hold]
    assert not missed, f"{simulation.setting}: nominal {simulation.nominal}, but {missed}"


def test_names_of_simulations_are_unique():
    names = [simulation.name for simulation in SIMULATIONS]
    assert len(names) == len(set(names))


def rate_of(value: float, repetitions: int, **claims: object) -> Measured:
    fields = {"quantity": "q", "setting": "", "rate": "coverage", "claim": "equal", "nominal": 0.95}
    return Measured(**fields | claims, value=value, repetitions=repetitions, effective=repetitions)


def test_the_interval_of_a_rate_is_scipys():
    for hits in (0, 1, 95, 100):
        expected = binomtest(hits, 100).proportion_ci(0.95)
        assert rate_of(hits / 100, 100).interval == pytest.approx((expected.low, expected.high))


def test_few_repetitions_allow_more_than_many():
    assert rate_of(0.88, 50).may_hold
    assert not rate_of(0.88, 2000).may_hold
    assert not rate_of(0.88, 50).holds
    assert rate_of(0.94, 50).holds


def test_a_conservative_claim_allows_one_side_only_and_power_has_a_least_rate():
    assert rate_of(0.999, 2000, claim="conservative").holds
    assert not rate_of(0.999, 2000).holds
    assert not rate_of(0.90, 2000, claim="conservative").holds
    false_alarms = {"claim": "conservative", "rate": "false alarms", "nominal": 0.05}
    assert rate_of(0.0, 2000, **false_alarms).holds
    assert not rate_of(0.08, 2000, **false_alarms).holds
    assert not rate_of(0.8, 2000, claim="power", rate="power", nominal=0.9).holds


def test_some_rates_take_the_place_of_their_own_rows_only():
    first, second = rate_of(0.9, 100, setting="a"), rate_of(0.9, 100, setting="b")
    again = rate_of(0.95, 1000, setting="b")
    assert with_rows([row(first), row(second)], [again]) == [row(first), row(again)]
    new = rate_of(0.9, 100, setting="c")
    assert with_rows([row(first)], [new]) == [row(first), row(new)]
