"""Paired differences of the scores of two runs: what is known of them, and the rates of their intervals and p."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import f1_score

from probes.analysis import LayerTable, paired_score_difference, result_rows
from probes.metrics import Predictions
from probes.values import LayerProfile, Reading

READING = Reading("decoder", "residual", "last")


def predictions(right: np.ndarray, targets: np.ndarray, *, layers: tuple[int | str, ...] = (0, 1)) -> Predictions:
    """Two-class predictions that are right where `right`, bool `(layers, rows)`, says so."""
    return Predictions(
        task="toy",
        kind="classification",
        reading=READING,
        labels=("no", "yes"),
        layers=layers,
        row_ids=tuple(f"row{i}" for i in range(len(targets))),
        predicted=np.where(right, targets, 1 - targets).astype(np.int16),
        targets=targets.astype(np.int16),
    )


def drawn(rng: np.random.Generator, accuracies: tuple[float, ...], rows: int, targets: np.ndarray) -> Predictions:
    return predictions(rng.random((len(accuracies), rows)) < np.array(accuracies)[:, None], targets)


@pytest.fixture
def targets() -> np.ndarray:
    return np.arange(200) % 2


def test_equal_predictions_differ_by_exactly_nothing(targets):
    one = drawn(np.random.default_rng(0), (0.7, 0.8), 200, targets)
    found = paired_score_difference(one, one, resamples=50, exchanges=20)
    np.testing.assert_array_equal(found.values, 0)
    np.testing.assert_array_equal(found.interval, 0)


def test_a_few_layers_of_a_model_are_compared_with_the_same_layers_of_the_whole(targets):
    rng = np.random.default_rng(0)
    whole = replace(predictions(rng.random((5, 200)) < 0.7, targets, layers=(0, 1, 2, 3, 4)), depth=4)
    few = replace(whole, layers=(0, 1, 2), predicted=whole.predicted[:3])
    found = paired_score_difference(few, whole, resamples=20, exchanges=20)
    np.testing.assert_array_equal(found.values, 0)
    assert not any(found.remarks)
    shallow = paired_score_difference(replace(few, depth=2), whole, resamples=20, exchanges=20)
    assert shallow.remarks == ("", "against layer 2", "against layer 4")


def test_the_difference_is_that_of_the_scores_and_an_improvement_is_found(targets):
    rng = np.random.default_rng(1)
    one, other = drawn(rng, (0.6, 0.6), 200, targets), drawn(rng, (0.6, 0.9), 200, targets)
    found = paired_score_difference(one, other)
    for layer in range(2):
        scores = [f1_score(targets, own.predicted[layer], average="macro") for own in (one, other)]
        assert found.values[layer] == pytest.approx(scores[1] - scores[0])
    table = LayerTable()
    table.add([LayerProfile(quantity="difference/macro_f1", unit="F1", task="toy", layers=(0, 1), estimates=found)])
    same, better = result_rows(table.findings().profiles)
    assert better.p is not None
    assert same.p is not None
    assert better.p < 0.01 < same.p
    assert better.ci_low is not None
    assert better.ci_low > 0.1


def test_rows_are_joined_by_their_names(targets):
    rng = np.random.default_rng(2)
    one, other = drawn(rng, (0.6, 0.6), 200, targets), drawn(rng, (0.8, 0.7), 200, targets)
    order = rng.permutation(200)
    shuffled = replace(
        other,
        row_ids=tuple(other.row_ids[row] for row in order),
        predicted=other.predicted[:, order],
        targets=other.targets[order],
    )
    plain, joined = (paired_score_difference(one, own, resamples=50, exchanges=20) for own in (other, shuffled))
    np.testing.assert_array_equal(plain.interval, joined.interval)
    np.testing.assert_array_equal(plain.null, joined.null)


def test_layers_of_models_of_other_depth_match_by_relative_depth(targets):
    right = np.ones((5, 200), bool)
    right[3] = False  # matched by no layer of the shallow model
    shallow = predictions(np.ones((3, 200), bool), targets, layers=(0, 1, 2))
    found = paired_score_difference(shallow, predictions(right, targets, layers=(0, 1, 2, 3, 4)), resamples=20)
    np.testing.assert_array_equal(found.values, 0)
    assert found.remarks == ("", "against layer 2", "against layer 4")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ("a", "b")}, "with labels .'no', 'yes'. in one run"),
        ({"row_ids": tuple(f"other{i}" for i in range(200))}, "200 and 200 of which 0 are the same"),
        ({"targets": np.zeros(200, np.int16)}, "100 targets of the same rows differ"),
    ],
)
def test_what_does_not_match_is_refused(targets, change, message):
    one = drawn(np.random.default_rng(0), (0.7, 0.8), 200, targets)
    with pytest.raises(ValueError, match=f"Task 'toy' cannot be compared: .*{message}"):
        paired_score_difference(one, replace(one, **change))


def test_a_metric_that_needs_probabilities_is_refused(targets):
    one = drawn(np.random.default_rng(0), (0.7, 0.8), 200, targets)
    with pytest.raises(ValueError, match=r"'auroc' cannot be computed from predictions .* accuracy, macro_f1"):
        paired_score_difference(one, one, metric="auroc")


def test_errors_over_training_sets_are_paired_if_the_sets_are_the_same(targets):
    rng = np.random.default_rng(3)
    errors = rng.normal(size=(20, 2)).astype(np.float32) * 0.05
    one = replace(drawn(rng, (0.7, 0.7), 200, targets), training_errors=errors, training_seed="a")
    other = replace(drawn(rng, (0.7, 0.7), 200, targets), training_errors=errors, training_seed="a")
    paired, independent, without = (
        np.ptp(paired_score_difference(one, own, exchanges=20).interval, axis=0)
        for own in (other, replace(other, training_seed="b"), replace(other, training_errors=np.empty((0, 0))))
    )
    np.testing.assert_allclose(paired, without)  # equal errors cancel
    assert (independent > 1.2 * paired).all()


def test_intervals_cover_and_p_errs_at_their_rates():
    """For 300 pairs of equally good probes that are right on correlated rows."""
    rng, rows, repetitions = np.random.default_rng(4), 150, 300
    targets = np.arange(rows) % 2
    covered = rejected = 0
    for repetition in range(repetitions):
        hard = rng.random(rows) < 0.4  # rows on which both guess
        chance = np.where(hard, 0.5, 0.9)
        null = [predictions(rng.random((1, rows)) < chance, targets, layers=(0,)) for _ in range(2)]
        found = paired_score_difference(null[0], null[1], resamples=200, exchanges=99, seed=repetition)
        covered += found.interval[0, 0] <= 0 <= found.interval[1, 0]
        rejected += np.mean(np.abs([*found.null[:, 0], found.values[0]]) >= abs(found.values[0])) <= 0.05
    assert binom.ppf(0.0005, repetitions, 0.95) <= covered
    assert rejected <= binom.ppf(0.9995, repetitions, 0.05)
    assert rejected > 0
