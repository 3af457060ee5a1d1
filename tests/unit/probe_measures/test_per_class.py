"""Results of single classes against scikit-learn, and planted confusions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted_tasks import READING
from probed_samples import probed, tables_of
from sklearn.metrics import confusion_matrix as confusion_of_sklearn
from sklearn.metrics import precision_recall_fscore_support

from probes.metrics import Predictions
from probes.probe_measures import PerClass
from probes.probe_measures.per_class import class_results, confusion_matrix, most_confused


def predictions(kind: str = "classification", seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    if kind == "multilabel":
        targets = rng.random((90, 4)) < 0.4
        predicted = targets[None] ^ (rng.random((1, 90, 4)) < 0.2)
    else:
        targets = rng.integers(4, size=90).astype(np.int16)
        predicted = np.where(rng.random((1, 90)) < 0.7, targets, rng.integers(4, size=(1, 90))).astype(np.int16)
    ids = tuple(map(str, range(90)))
    return Predictions("task", kind, READING, ("a", "b", "c", "d"), (0,), ids, predicted, targets)


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_results_of_classes_are_those_of_scikit_learn(kind):
    sample = predictions(kind)
    precision, recall, f1, rows = precision_recall_fscore_support(sample.targets, sample.predicted[0])
    found = class_results(sample, 0)
    for name, expected in (("precision", precision), ("recall", recall), ("f1", f1), ("rows", rows)):
        np.testing.assert_allclose(found[name], expected)


def test_confusions_are_those_of_scikit_learn_and_the_most_frequent_comes_first():
    sample = predictions()
    matrix = confusion_matrix(sample, 0)
    np.testing.assert_array_equal(matrix, confusion_of_sklearn(sample.targets, sample.predicted[0]))
    planted = replace(sample, predicted=np.where(sample.targets == 1, 3, sample.targets)[None].astype(np.int16))
    pairs = most_confused(confusion_matrix(planted, 0), planted.labels, 5)
    assert pairs["true class"] == ["b"]
    assert pairs["predicted as"] == ["d"]
    assert pairs["share of the class"] == [1.0]


def test_the_interval_of_a_recall_is_wilsons():
    sample = predictions()
    found = class_results(sample, 0)
    n, share, z = found["rows"][0], found["recall"][0], 1.959964
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert found["lower end"][0] == pytest.approx(centre - reach, abs=1e-6)
    assert found["upper end"][0] == pytest.approx(centre + reach, abs=1e-6)


def test_a_task_has_tables_at_its_best_layer_and_regression_has_none():
    task = probed(classes=3)
    tables = tables_of(PerClass()(task))
    assert list(tables) == ["per_class", "recall_by_layer", "confusions", "confusion_matrix"]
    recall = tables["per_class"].columns["recall"]
    np.testing.assert_allclose(recall, tables["recall_by_layer"].columns["layer 2"])
    assert np.mean(tables["per_class"].columns["f1"]) == pytest.approx(task.fit.profile("macro_f1").estimates.values[2])
    assert list(tables_of(PerClass()(probed(kind="multilabel", classes=2)))) == ["per_class", "recall_by_layer"]
    assert tables_of(PerClass()(probed(kind="regression", classes=1))) == {}
