"""Means over groups of tasks, with their intervals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from probes.analysis import confidence_interval, group_means
from probes.values import Estimates, Layer, LayerProfile, Reading

LAYERS: tuple[Layer, ...] = (0, 1, "final")
READING = Reading("decoder", "residual", "last")


def gain_profile(task: str, seed: int, *, errors: int | None = 25) -> LayerProfile:
    rng = np.random.default_rng(seed)
    own = None if errors is None else rng.normal(size=(errors, 3)) * 0.05
    return LayerProfile(
        quantity="tuning_gain",
        unit="CKA",
        task=task,
        reading=READING,
        layers=LAYERS,
        estimates=Estimates(rng.normal(size=3), 20 + seed, own),
    )


def interval(of: LayerProfile) -> tuple[np.ndarray, np.ndarray]:
    assert of.estimates.errors is not None
    return confidence_interval(of.estimates.values, of.estimates.errors)


def test_each_group_is_the_mean_of_its_tasks_and_others_are_left_out():
    profiles = [gain_profile(task, seed) for seed, task in enumerate("abcde")]
    seen, unseen = group_means(profiles, {"a": "seen", "d": "unseen", "b": "seen", "e": "unseen"})
    assert (seen.task, unseen.task) == ("seen", "unseen")
    for group, members in ((seen, (0, 1)), (unseen, (3, 4))):
        values = np.stack([profiles[i].estimates.values for i in members])
        np.testing.assert_allclose(group.estimates.values, values.mean(0), rtol=1e-12)
        assert group.estimates.n == sum(profiles[i].estimates.n for i in members)
        assert (group.quantity, group.unit, group.layers) == ("group_mean/tuning_gain", "CKA", LAYERS)
        assert group.reading == READING


def test_from_three_tasks_up_the_interval_is_students_over_tasks():
    profiles = [gain_profile(task, seed) for seed, task in enumerate("abcd")]
    (group,) = group_means(profiles, dict.fromkeys("abcd", "all"))
    values = np.stack([own.estimates.values for own in profiles])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(interval(group), (expected.low, expected.high), rtol=1e-10)


@pytest.mark.parametrize("tasks", ["a", "ab"])
def test_below_three_tasks_the_variance_is_that_of_the_rows(tasks: str):
    profiles = [gain_profile(task, seed) for seed, task in enumerate(tasks)]
    (group,) = group_means(profiles, dict.fromkeys(tasks, "all"))
    errors = [own.estimates.errors for own in profiles]
    rows = sum(np.square(own).sum(0) for own in errors if own is not None)
    assert group.estimates.errors is not None
    np.testing.assert_allclose(np.square(group.estimates.errors).sum(0), rows / len(tasks) ** 2, rtol=1e-12)


def test_two_tasks_of_which_one_has_no_errors_have_no_interval_and_three_do():
    profiles = [gain_profile("a", 0), gain_profile("b", 1, errors=None), gain_profile("c", 2)]
    assert group_means(profiles[:2], {"a": "g", "b": "g"})[0].estimates.errors is None
    assert group_means(profiles, dict.fromkeys("abc", "g"))[0].estimates.errors is not None


def test_a_layer_that_one_task_lacks_has_no_mean():
    profiles = [gain_profile(task, seed) for seed, task in enumerate("abc")]
    values = profiles[1].estimates.values.copy()
    values[0] = np.nan
    profiles[1] = replace(profiles[1], estimates=replace(profiles[1].estimates, values=values))
    (group,) = group_means(profiles, dict.fromkeys("abc", "g"))
    assert np.isnan(group.estimates.values).tolist() == [True, False, False]
    assert np.isnan(interval(group)[0]).tolist() == [True, False, False]


def test_without_members_there_are_no_groups():
    assert group_means([gain_profile("a", 0)], {"b": "g"}) == []
    assert group_means([], {"b": "g"}) == []
