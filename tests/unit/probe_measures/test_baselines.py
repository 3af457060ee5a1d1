"""Gains over baselines are paired differences on the same rows, and a baseline that holds the label leaves no gain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from nuisance_samples import SETTINGS, planted
from sklearn.metrics import f1_score

from probes.analysis import result_rows
from probes.probe_measures import Baselines
from probes.training import default_trainer, fit_task

BASELINES = Baselines(resamples=100, permutations=100)


def measured(probed, measure: Baselines = BASELINES):
    return {profile.quantity: profile for profile in measure(probed)}


def test_words_that_tell_the_label_leave_no_gain_and_random_words_do():
    told = measured(planted(label_is_tag=1.0, signal=0.7))
    assert told["baseline/tfidf_macro_f1"].estimates.values[0] > 0.9
    assert told["gain_over/tfidf_macro_f1"].estimates.values[1] < 0.05
    untold = measured(planted(signal=0.7))
    assert untold["baseline/tfidf_macro_f1"].estimates.values[0] < 0.65
    low, high = untold["gain_over/tfidf_macro_f1"].estimates.interval
    assert low[1] > 0.15
    assert low[0] < 0.05  # the first layer holds nothing
    assert (high > low).all()


def test_the_gain_over_layer_0_is_the_difference_of_the_scores():
    task = planted(signal=0.7)
    gain = measured(task)["gain_over/layer_0_macro_f1"].estimates
    predictions = task.fit.predictions
    assert predictions is not None
    scores = [f1_score(predictions.targets, own, average="macro") for own in predictions.predicted]
    np.testing.assert_allclose(gain.values, [0.0, scores[1] - scores[0]], atol=1e-12)
    (row,) = [row for row in result_rows([measured(task)["gain_over/layer_0_macro_f1"]]) if row.layer == 1]
    assert row.ci_low is not None
    assert row.ci_low > 0.1


def test_random_weights_are_probed_on_the_same_rows():
    own = planted(signal=0.7)
    noise = planted(seed=1).data
    splits = {
        split: getattr(own.data, split)._replace(
            activations=replace(getattr(own.data, split).activations, values=getattr(noise, split).activations.values)
        )
        for split in ("train", "validation", "test")
    }
    random = replace(own.data, **splits)
    found = measured(replace(own, random_weights=random))
    fit = fit_task(random, replace(SETTINGS, controls=0), default_trainer, 0)
    np.testing.assert_array_equal(
        found["baseline/random_weights_macro_f1"].estimates.values, fit.profile("macro_f1").estimates.values
    )
    gain = found["gain_over/random_weights_macro_f1"].estimates
    assert gain.values[1] > 0.3
    assert abs(gain.values[0]) < 0.2
    same = measured(replace(own, random_weights=own.data))["gain_over/random_weights_macro_f1"].estimates
    np.testing.assert_array_equal(same.values, 0.0)


def test_baselines_can_be_left_out():
    assert not measured(planted(), Baselines(words=False, layer_0=False, random_weights=False))
    assert {name.split("/")[0] for name in measured(planted(), Baselines(layer_0=False, resamples=20))} == {
        "baseline",
        "gain_over",
    }


def test_training_sets_widen_a_gain_over_the_same_probes():
    own = planted(signal=0.5)
    refitted = replace(own, fit=fit_task(own.data, replace(SETTINGS, training_sets=10), default_trainer, 0))
    found = measured(refitted)["gain_over/layer_0_macro_f1"].estimates
    assert found.interval_over == "rows and training sets"
    assert found.values[1] == pytest.approx(measured(own)["gain_over/layer_0_macro_f1"].estimates.values[1])


def test_numbers_have_baselines_too():
    own = planted()
    targets = {split: getattr(own.data, split).activations.values[1, :, 0] for split in ("train", "validation", "test")}
    splits = {split: getattr(own.data, split)._replace(targets=targets[split]) for split in targets}
    data = replace(own.data, kind="regression", labels=(), **splits)
    fit = fit_task(data, SETTINGS, default_trainer, 0)
    found = measured(replace(own, data=data, fit=fit, random_weights=data))
    assert found["baseline/tfidf_r2"].estimates.values[0] < 0.2
    assert found["gain_over/tfidf_r2"].estimates.values[1] > 0.7
    assert torch.isfinite(torch.from_numpy(found["gain_over/random_weights_r2"].estimates.values)).all()
