"""A direction that two tasks share transfers, a rotated one loses, and inverted labels fall below chance."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from planted_tasks import READING
from sklearn.metrics import f1_score

from probes.analysis import interval_of
from probes.probe_measures.transfer import (
    TrainedTask,
    angle_profile,
    probe_directions,
    share_labels,
    transfer_profiles,
    transferred_logits,
)
from probes.training import LabelledActivations, ProbeSettings, TaskData, default_trainer, fit_task
from probes.values import Activations

SETTINGS = ProbeSettings(
    bootstrap_samples=50, permutations=50, min_validation_rows=50, training_sets=0, penalties=(0.1,), controls=0
)
DRAWS = {"resamples": 100, "permutations": 100, "seed": 0}


@cache
def task(
    name: str, *, degrees: float = 0.0, inverted: bool = False, shift: float = 0.0, labels: tuple = ("no", "yes")
) -> TrainedTask:
    """Two layers: the label lies along a direction that is turned by an angle, in the second layer only."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    angle, splits = math.radians(degrees), {}
    direction = torch.zeros(20)
    direction[0], direction[1] = math.cos(angle), math.sin(angle)
    for split, rows in {"train": 400, "validation": 100, "test": 300}.items():
        y = torch.arange(rows) % 2
        values = torch.randn(2, rows, 20, generator=generator) + shift
        values[1] += 2.5 * (2 * y[:, None] - 1) * direction
        targets = 1 - y if inverted else y
        ids = tuple(f"{name}/{split}/{i}" for i in range(rows))
        splits[split] = LabelledActivations(Activations(values, (0, 1), ids, READING), targets)
    data = TaskData(task=name, kind="classification", labels=labels, **splits)
    return TrainedTask(data, fit_task(data, SETTINGS, default_trainer, 0))


def transferred(source: TrainedTask, target: TrainedTask, *, centred: bool = True):
    profiles = transfer_profiles(source, target, centred=centred, **DRAWS)
    return {profile.quantity.removeprefix("transfer/"): profile for profile in profiles}


def score(source: TrainedTask, target: TrainedTask, **options) -> float:
    return float(transferred(source, target, **options)["macro_f1"].estimates.values[1])


def test_the_same_direction_transfers_and_costs_nothing():
    found = transferred(task("a"), task("b"))
    assert found["macro_f1"].task == "a → b"
    assert found["macro_f1"].estimates.values[1] > 0.95
    difference = found["minus_own_macro_f1"]
    assert abs(difference.estimates.values[1]) < 0.03
    low, high = interval_of(difference)
    assert low[1] <= 0.01
    assert high[1] > -0.02


def test_a_rotated_direction_loses_with_its_angle():
    scores = [score(task("a"), task(f"r{degrees}", degrees=degrees)) for degrees in (0, 45, 70, 90)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.95
    assert 0.6 < scores[2] < 0.9
    assert abs(scores[3] - 0.5) < 0.1
    low, high = interval_of(transferred(task("a"), task("r90", degrees=90))["minus_own_macro_f1"])
    assert high[1] < -0.3
    assert low[1] < high[1]


def test_inverted_labels_fall_below_chance():
    assert score(task("a"), task("i", inverted=True)) < 0.05


def test_a_layer_without_the_label_is_at_chance():
    estimates = transferred(task("a"), task("b"))["macro_f1"].estimates
    assert abs(estimates.values[0] - 0.5) < 0.1


def test_what_all_texts_of_a_task_share_is_no_evidence_once_rows_are_centred():
    shifted = task("s", shift=4.0)
    assert score(task("a"), shifted) > 0.95
    assert score(task("a"), shifted, centred=False) < 0.6


def test_labels_are_matched_by_name_and_scores_are_those_of_scikit_learn():
    turned = task("t", inverted=True, labels=("yes", "no"))
    assert share_labels(task("a").data, turned.data)
    assert not share_labels(task("a").data, task("o", labels=("left", "right")).data)
    logits = transferred_logits(task("a").fit.probes, turned.data)[1]
    expected = f1_score(turned.data.test.targets, logits.argmax(-1), average="macro")
    assert score(task("a"), turned) == pytest.approx(expected)
    assert expected > 0.95


def cosine(source: TrainedTask, target: TrainedTask, sets: int = 4, shuffles: int = 20):
    directions = {
        own.data.task: probe_directions(own, SETTINGS, sets=sets, shuffles=shuffles, seed=0) for own in (source, target)
    }
    return angle_profile(source, target, directions=directions).estimates


@pytest.mark.parametrize("degrees", [0, 45, 90])
def test_the_cosine_of_directions_is_that_of_the_planted_angle(degrees):
    found = cosine(task("a"), task(f"r{degrees}", degrees=degrees))
    assert found.values[1] == pytest.approx(math.cos(math.radians(degrees)), abs=0.25)
    assert abs(found.values[0]) < 0.6
    assert found.errors.shape == (4, 2)
    assert found.null.shape == (40, 2)
    assert (abs(found.values[1]) > abs(found.null[:, 1]).max()) == (degrees < 90)


def test_inverted_labels_have_the_opposite_direction_and_reordered_ones_the_same():
    assert cosine(task("a"), task("i", inverted=True), sets=0).values[1] < -0.85
    found = cosine(task("a"), task("t", inverted=True, labels=("yes", "no")), sets=0, shuffles=0)
    assert found.values[1] > 0.85
    assert found.errors is None
    assert found.null is None


def of_words(name: str, *, dependent: bool) -> TrainedTask:
    """Sentences of five equal words; without `dependent`, the words are taken as independent rows."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    splits, sentences = {}, {}
    for split, number in {"train": 60, "validation": 20, "test": 60}.items():
        y = torch.arange(number) % 2
        values = torch.randn(1, number, 8, generator=generator)
        values[0, :, 0] += 2 * y - 1
        sentences[split] = torch.arange(number).repeat_interleave(5)
        ids = tuple(f"{name}/{split}/{i}" for i in range(5 * number))
        rows = Activations(values[:, sentences[split]], (0,), ids, READING)
        splits[split] = LabelledActivations(rows, y[sentences[split]])
    data = TaskData(task=name, kind="classification", labels=("no", "yes"), **splits)
    data = replace(data, sentences=sentences) if dependent else data
    return TrainedTask(data, fit_task(data, replace(SETTINGS, controls=0), default_trainer, 0))


def test_equal_words_of_a_sentence_count_as_one_row():
    spread = {}
    for dependent in (False, True):
        one, other = (of_words(name, dependent=dependent) for name in ("one", "other"))
        found = transferred(one, other)
        angle = cosine(one, other, sets=10)
        scores = [found[name].estimates for name in ("macro_f1", "minus_own_macro_f1")]
        assert {own.interval_over for own in scores} == {"sentences" if dependent else "rows"}
        widths = [float(np.ptp(own.interval)) for own in scores]
        nulls = [own.null.std() for own in scores]
        spread[dependent] = [*widths, *nulls, np.linalg.norm(angle.errors)]
    for of_rows, of_sentences in zip(spread[False], spread[True], strict=True):
        assert of_sentences > 1.4 * of_rows  # √5 on average


def test_directions_are_the_weights_of_the_probes():
    own = task("a")
    directions = probe_directions(own, SETTINGS, sets=0, shuffles=0, seed=0).own[:, 0]
    x = own.data.test.activations.values
    logits = own.fit.probes.logits(x)
    expected = logits - logits.mean(-1, keepdim=True)
    found = x @ directions.mT
    torch.testing.assert_close(
        (found - found.mean(1, keepdim=True)), (expected - expected.mean(1, keepdim=True)), rtol=1e-3, atol=1e-3
    )


def test_a_layer_that_is_constant_in_one_task_has_no_value():
    constant = task("c")
    for split in ("train", "validation", "test"):
        getattr(constant.data, split).activations.values[0] = 1.0
    refitted = replace(constant, fit=fit_task(constant.data, SETTINGS, default_trainer, 0))
    found = transferred(task("a"), refitted)
    assert np.isnan(found["macro_f1"].estimates.values[0])
    assert found["macro_f1"].estimates.values[1] > 0.95
    assert np.isnan(cosine(task("a"), refitted).values[0])


def multi_label(name: str, second: float) -> TrainedTask:
    """The first label lies along the first feature, the second label at an angle to it of so many degrees."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    angle, splits = math.radians(second), {}
    for split, rows in {"train": 600, "validation": 100, "test": 300}.items():
        y = (torch.rand(rows, 2, generator=generator) < 0.5).float()
        values = torch.randn(1, rows, 10, generator=generator)
        values[0, :, 0] += 2 * (2 * y[:, 0] - 1)
        values[0, :, 1] += 2 * math.cos(angle) * (2 * y[:, 1] - 1)
        values[0, :, 2] += 2 * math.sin(angle) * (2 * y[:, 1] - 1)
        ids = tuple(f"{name}/{split}/{i}" for i in range(rows))
        splits[split] = LabelledActivations(Activations(values, (0,), ids, READING), y)
    data = TaskData(task=name, kind="multilabel", labels=("one", "other"), **splits)
    return TrainedTask(data, fit_task(data, SETTINGS, default_trainer, 0))


def test_labels_of_multi_label_tasks_have_directions_of_their_own():
    one, same, turned = multi_label("one", 0), multi_label("same", 0), multi_label("turned", 90)
    directions = {
        own.data.task: probe_directions(own, SETTINGS, sets=2, shuffles=2, seed=0) for own in (one, same, turned)
    }
    cosine = {
        other.data.task: angle_profile(one, other, directions=directions).estimates.values.item()
        for other in (same, turned)
    }
    assert cosine["same"] > 0.9
    assert cosine["turned"] == pytest.approx(0.5, abs=0.1)  # the first labels share a direction, the second do not
