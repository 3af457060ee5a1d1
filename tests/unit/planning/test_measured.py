"""Rates are positive, kept under what they depend on, and measured again when that changes."""

from __future__ import annotations

import math

import pytest
from study_samples import TUNING, toy_suite

from probes.activations import ExtractionSettings
from probes.analysis import LayerAnalysis
from probes.backbones import tiny_backbone
from probes.planning import Rates, counted_tasks, shape_of
from probes.planning.measure_run import RunParts, measured_rates
from probes.planning.measured import drawn_task, kept_rates, machine_key, seconds_since_start
from probes.trainers import default_trainer
from probes.training import ProbeSettings


def parts(**other) -> RunParts:
    given = {
        "backbone": tiny_backbone(), "suite": toy_suite(), "extraction": ExtractionSettings(),
        "probe": ProbeSettings(penalties=(0.1,), bootstrap_samples=0, permutations=0), "trainer": default_trainer,
        "analysis": LayerAnalysis(measures={}), "tuning": TUNING,
    } | other  # fmt: skip
    return RunParts(**given)


def measured(run: RunParts) -> Rates:
    backbone = tiny_backbone()
    shape = shape_of(backbone.model.config, name="tiny", dtype="float32")
    tasks = counted_tasks(toy_suite().tasks, lambda texts: [len(ids) for ids in backbone.tokenize(texts).ids])
    return measured_rates(run, shape, tasks, features=32, start=1.0, load=2.0)


def test_every_rate_of_a_run_is_measured():
    rates = measured(parts())
    for rate in (rates.forward_flop, rates.tuning_flop, rates.generated, rates.load, rates.compare, rates.fit[2]):
        assert 0 < rate < math.inf


def test_what_a_run_does_not_do_is_not_measured():
    rates = measured(parts(probe=None, tuning=None, suite=None))
    assert rates.tuning_flop == rates.generated == math.inf
    assert rates.fit == {2: 0.0}


def test_rates_are_kept_until_the_run_or_the_machine_is_another(tmp_path):
    calls = []

    def measure() -> Rates:
        calls.append(1)
        return measured(parts(probe=None, tuning=None))

    key = machine_key(tiny_backbone(), probe="linear")
    first = kept_rates(tmp_path, key, measure)
    assert kept_rates(tmp_path, key, measure) == first
    assert len(calls) == 1
    kept_rates(tmp_path, machine_key(tiny_backbone(), probe="mlp"), measure)
    kept_rates(tmp_path, key, measure, again=True)
    assert len(calls) == 3


def test_drawn_tasks_can_be_learned():
    data = drawn_task(16, {"train": 60, "validation": 30, "test": 30}, 3)
    assert data.num_classes == 3
    means = [data.train.activations.values[0, data.train.targets == label].mean(0) for label in range(3)]
    assert (means[0] - means[1]).abs().max() > 0.1


def test_a_process_knows_when_it_began():
    assert 0 < seconds_since_start() < 86400
    assert seconds_since_start() == pytest.approx(seconds_since_start(), abs=5)
