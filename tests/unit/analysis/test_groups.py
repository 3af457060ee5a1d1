from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from probes.analysis import Column, confidence_interval, group_means
from probes.values import Estimates, Layer, Reading

READING = Reading("decoder", "residual", "last")
LAYERS: tuple[Layer, ...] = (0, 1, "final")


def column(task: str, seed: int, *, errors: int | None = 25) -> Column:
    rng = np.random.default_rng(seed)
    own = None if errors is None else rng.normal(size=(errors, 3)) * 0.05
    return Column("tuning_gain", "CKA", task, READING, LAYERS, Estimates(rng.normal(size=3), 20 + seed, own))


def interval(of: Column) -> tuple[np.ndarray, np.ndarray]:
    assert of.estimates.errors is not None
    return confidence_interval(of.estimates.values, of.estimates.errors)


def test_each_group_is_the_mean_of_its_tasks_and_others_are_left_out():
    columns = [column(task, seed) for seed, task in enumerate("abcde")]
    seen, unseen = group_means(columns, {"a": "seen", "d": "unseen", "b": "seen", "e": "unseen"})
    assert (seen.task, unseen.task) == ("seen", "unseen")
    for group, members in ((seen, (0, 1)), (unseen, (3, 4))):
        values = np.stack([columns[i].estimates.values for i in members])
        np.testing.assert_allclose(group.estimates.values, values.mean(0), rtol=1e-12)
        assert group.estimates.n == sum(columns[i].estimates.n for i in members)
        assert (group.quantity, group.unit, group.layers) == ("group_mean/tuning_gain", "CKA", LAYERS)
        assert group.reading == READING


def test_from_three_tasks_up_the_interval_is_students_over_tasks():
    columns = [column(task, seed) for seed, task in enumerate("abcd")]
    (group,) = group_means(columns, dict.fromkeys("abcd", "all"))
    values = np.stack([own.estimates.values for own in columns])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(interval(group), (expected.low, expected.high), rtol=1e-10)


@pytest.mark.parametrize("tasks", ["a", "ab"])
def test_below_three_tasks_the_variance_is_that_of_the_rows(tasks: str):
    columns = [column(task, seed) for seed, task in enumerate(tasks)]
    (group,) = group_means(columns, dict.fromkeys(tasks, "all"))
    errors = [own.estimates.errors for own in columns]
    rows = sum(np.square(own).sum(0) for own in errors if own is not None)
    assert group.estimates.errors is not None
    np.testing.assert_allclose(np.square(group.estimates.errors).sum(0), rows / len(tasks) ** 2, rtol=1e-12)


def test_two_tasks_of_which_one_has_no_errors_have_no_interval_and_three_do():
    columns = [column("a", 0), column("b", 1, errors=None), column("c", 2)]
    assert group_means(columns[:2], {"a": "g", "b": "g"})[0].estimates.errors is None
    assert group_means(columns, dict.fromkeys("abc", "g"))[0].estimates.errors is not None


def test_a_layer_that_one_task_lacks_has_no_mean():
    columns = [column(task, seed) for seed, task in enumerate("abc")]
    values = columns[1].estimates.values.copy()
    values[0] = np.nan
    columns[1] = replace(columns[1], estimates=replace(columns[1].estimates, values=values))
    (group,) = group_means(columns, dict.fromkeys("abc", "g"))
    assert np.isnan(group.estimates.values).tolist() == [True, False, False]
    assert np.isnan(interval(group)[0]).tolist() == [True, False, False]


def test_without_members_there_are_no_groups():
    assert group_means([column("a", 0)], {"b": "g"}) == []
    assert group_means([], {"b": "g"}) == []
