"""Models whose history is known: the study finds the tuned blocks, and which of two twins has learnt a task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import planted_history as planted
import pytest
from planted_history import RIGHT, SHUFFLED, UNTAUGHT
from study_samples import TUNING, toy_suite

from probes.activations import ExtractionSettings
from probes.backbones import tiny_backbone
from probes.studies import MixtureSettings
from probes.studies.layer_by_layer.comparison import Comparison
from probes.studies.layer_by_layer.models import ModelTuner, read_models, tune_models
from probes.tasks import Suite
from probes.trainers import default_trainer
from probes.tuning import TuningSettings
from probes.values import LayerProfile, Reading

pytestmark = pytest.mark.slow

BLOCKS = 5
LAST = Reading("decoder", "residual", "last")


def compared(folder: Path, tuning: TuningSettings) -> dict[str, list[LayerProfile]]:
    """The whole comparison of toy tasks under one tuning: quantity → its profiles."""
    suite = toy_suite()
    tuner = ModelTuner(
        tiny_backbone(num_layers=BLOCKS), suite, tuning, default_trainer, ExtractionSettings(), 0, folder
    )
    read = read_models(tuner, tune_models(tuner, MixtureSettings(replicate_tasks=1)), splits=("test",))
    comparison = Comparison(suite, LAST, read.base.layers[LAST], {}, max_rows=12)
    for task in suite.tasks:
        comparison.add(task.name, read.task(task, LAST))
    found: dict[str, list[LayerProfile]] = {}
    for profile in comparison.profiles():
        found.setdefault(profile.quantity, []).append(profile)
    return found


@pytest.mark.parametrize("blocks", [(1,), (2, 3), (4,)])
def test_models_are_equal_up_to_the_first_tuned_block_and_differ_from_the_next_layer_on(blocks: tuple, tmp_path):
    found = compared(tmp_path, replace(TUNING, layers_to_transform=blocks))
    edge = blocks[0]
    for quantity, equal in (("cka/control_vs_base", 1), ("cka/control_vs_experimental", 1), ("tuning_gain", 0)):
        assert len(found[quantity]) == 3
        for profile in found[quantity]:
            values, errors = profile.estimates.values, profile.estimates.errors
            assert errors is not None
            assert (values[: edge + 1] == equal).all(), quantity
            assert (errors[:, : edge + 1] == 0).all(), quantity
            assert (np.abs(values[edge + 1 :] - equal) > 1e-6).all(), quantity


@pytest.fixture(scope="module")
def history(tmp_path_factory) -> planted.Found:
    """`benchmarks/planted_history.py` in small: one task, which the base has read without answers."""
    (task,) = [task for task in planted.planted_suite().tasks if task.name == UNTAUGHT]
    base, cache = planted.train_from_scratch(Suite("planted", (task,)), epochs=3), tmp_path_factory.mktemp("planted")
    twins = {
        RIGHT: planted.tuned_model(base, "twin", [task], cache=cache),
        SHUFFLED: planted.tuned_model(base, "shuffled", [planted.with_shuffled_answers(task)], cache=cache),
    }
    return planted.study(task, base, twins, planted.tuned_model(base, "control", [task], cache=cache, seed=1))


def test_the_twin_that_was_tuned_on_right_answers_gains_the_task(history):
    for gain in (history.probe_gain[RIGHT], history.tuning_gain[RIGHT]):
        low, _ = planted.interval(gain)
        assert low[-1] > 0.1


def test_the_twin_that_was_tuned_on_shuffled_answers_does_not(history):
    for gain in (history.probe_gain[SHUFFLED], history.tuning_gain[SHUFFLED]):
        assert np.nanmax(gain.values) < 0.1
