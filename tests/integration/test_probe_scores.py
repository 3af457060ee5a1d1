"""What is reported of a task's probes: baselines, choices made on validation, layers without a probe."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_tasks import EXACT, MINIBATCH, PLANTED, fit, planted_task, result, state

from probes.training import fit_probes
from probes.training import selection as selection_module

both_fits = pytest.mark.parametrize("settings", [EXACT, MINIBATCH], ids=["exact", "minibatch"])


def task_with_constant_layers(layers):
    data = planted_task()
    for split in (data.train, data.validation, data.test):
        split.activations.values[layers] = 3.5
    return data


def test_every_score_is_reported_with_its_baselines():
    fitted = fit(planted_task(classes=3))
    counts = Counter((r.split, r.control, r.metric) for r in fitted.results)
    for split in ("train", "validation", "test"):
        for metric in ("accuracy", "macro_f1", "cross_entropy_bits"):
            assert counts[split, "", metric] == counts[split, "shuffled_labels", metric] == 4
            assert counts[split, "majority", metric] == 1
        assert counts[split, "", "selectivity"] == 4
    for r in fitted.results:
        assert (r.task, r.stack, r.site, r.pooling) == ("planted", "decoder", "residual", "last")
        assert (r.probe, r.seed) == ("linear", 0)
        assert (r.ci_low is None) == (r.split == "train" or r.control == "majority")
        assert (r.layer is None) == (r.control == "majority") == (r.penalty is None)
        assert r.ci_low is None or r.ci_low <= r.value <= r.ci_high
        assert r.n == {"train": 240, "validation": 100, "test": 160}[r.split]
    assert result(fit(planted_task(classes=2)), "auroc").value > 0.9


def test_without_controls_resamples_or_permutations_there_are_no_such_numbers():
    fitted = fit(planted_task(), replace(EXACT, controls=0, bootstrap_samples=0, permutations=0))
    assert {r.control for r in fitted.results} == {"", "majority"}
    assert all(r.ci_low is None and r.null_mean is None and r.metric != "selectivity" for r in fitted.results)


def test_several_controls_are_averaged():
    fitted = fit(planted_task(), replace(EXACT, controls=3))
    control = result(fitted, "macro_f1", control="shuffled_labels")
    assert control.note == "mean of 3 shuffles"
    selectivity = result(fitted, "selectivity").value
    assert selectivity == pytest.approx(result(fitted, "macro_f1").value - control.value)


def test_the_null_scores_the_same_predictions_on_permuted_labels_of_test_rows():
    fitted = fit(planted_task(), EXACT)
    score = fitted.profile("accuracy").estimates
    assert score.null is not None
    assert score.null.shape[0] == EXACT.permutations
    assert np.abs(np.nanmean(score.null) - 0.5) < 0.05  # two balanced classes
    assert np.nanmax(score.values) > np.nanmax(score.null)  # the planted layer
    assert fitted.profile("accuracy", split="validation").estimates.null is None
    alternatives = {
        metric: fitted.profile(metric).estimates.alternative for metric in ("accuracy", "cross_entropy_bits")
    }
    assert alternatives == {"accuracy": "greater", "cross_entropy_bits": "less"}


@both_fits
def test_nothing_is_chosen_on_test(settings):
    data = planted_task()
    first, second = fit(data, settings), fit(replace(data, test=planted_task(seed=9).test), settings)
    assert first.probes.penalties == second.probes.penalties
    assert all(torch.equal(a, b) for a, b in zip(state(first).values(), state(second).values(), strict=True))
    assert (first.validation_best_layer, first.objective) == (second.validation_best_layer, second.objective)
    assert result(first, "macro_f1").value != result(second, "macro_f1").value


def test_each_layer_gets_the_penalty_with_the_best_validation_score_or_the_larger_of_equals():
    data = planted_task(rows=(60, 200, 60), classes=3)
    fitted = fit(data)
    by_penalty = {penalty: fit(data, replace(EXACT, penalties=(penalty,))) for penalty in EXACT.penalties}
    for layer in range(4):
        scores = {p: result(one, "macro_f1", layer, split="validation").value for p, one in by_penalty.items()}
        assert fitted.probes.penalties[layer] == max(scores, key=lambda p: (scores[p], p))
    assert len(set(fitted.probes.penalties)) > 1


@both_fits
@pytest.mark.parametrize("validation_rows", [0, 30])
def test_few_validation_rows_are_replaced_by_cross_validation(settings, validation_rows, monkeypatch):
    fits = []
    train_bank = selection_module.train_bank
    monkeypatch.setattr(selection_module, "train_bank", lambda *a: fits.append(len(a[0])) or train_bank(*a))
    fitted = fit(planted_task(rows=(200, validation_rows, 100)), settings)
    assert len(fits) == 6
    score = result(fitted, "macro_f1", split="validation")
    assert score.n == 200 + validation_rows
    assert score.note == "out of fold, 5-fold cross-validation"
    assert score.value > 0.8
    assert abs(result(fitted, "macro_f1", 0, split="validation").value - 0.5) < 0.12
    assert fitted.validation_best_layer == PLANTED


def test_a_constant_layer_has_results_without_a_value_and_a_note():
    data = task_with_constant_layers(1)
    fitted = fit(data)
    for metric in ("accuracy", "macro_f1", "auroc", "cross_entropy_bits", "selectivity"):
        constant = result(fitted, metric, 1)
        assert math.isnan(constant.value)
        assert "constant layer" in constant.note
    assert fitted.validation_best_layer == PLANTED
    predicted = fitted.probes.predict(data.test.activations.values)
    assert (predicted[1] == -1).all()
    assert (predicted[[0, 2, 3]] >= 0).all()


@pytest.mark.parametrize("constant", [0, 1, 3])
def test_other_layers_keep_their_scores_whichever_layer_is_constant(constant):
    whole, fitted = fit(planted_task()), fit(task_with_constant_layers(constant))
    for layer in {0, 1, 2, 3} - {constant}:
        assert result(fitted, "cross_entropy_bits", layer).value == pytest.approx(
            result(whole, "cross_entropy_bits", layer).value, abs=2e-4
        )
    values = [result(whole, "cross_entropy_bits", layer).value for layer in range(4)]
    assert min(abs(a - b) for i, a in enumerate(values) for b in values[:i]) > 2e-3  # else a swap would pass unnoticed


def test_a_task_of_constant_layers_has_no_values_and_no_best_layer():
    fitted = fit(task_with_constant_layers(slice(None)))
    assert fitted.validation_best_layer is None
    assert math.isnan(fitted.objective)
    assert all(math.isnan(r.value) for r in fitted.results if r.control != "majority")


def test_fit_probes_takes_plain_arrays_and_splits_them_itself():
    data = planted_task(rows=(300, 100, 100))
    values, targets = data.train.activations.values, data.train.targets
    fitted = fit_probes(values.numpy(), targets.tolist(), bootstrap_samples=0)
    assert fitted.validation_best_layer == PLANTED
    assert result(fitted, "macro_f1").n == 60
    one_layer = fit_probes(values[PLANTED], targets, layers=["final"], bootstrap_samples=0)
    assert one_layer.validation_best_layer == "final"
    with pytest.raises(ValueError, match="come together"):
        fit_probes(values, targets, x_test=values)


def test_fit_probes_uses_the_splits_it_is_given():
    data = planted_task(rows=(300, 100, 100))
    fitted = fit_probes(
        data.train.activations.values,
        data.train.targets,
        x_validation=data.validation.activations.values,
        y_validation=data.validation.targets,
        x_test=data.test.activations.values,
        y_test=data.test.targets,
        labels=["a", "b"],
        min_validation_rows=1,
    )
    assert result(fitted, "macro_f1").n == 100
    assert fitted.probes.labels == ("a", "b")


def without_interval(rows: int, *, test_rows: int = 60) -> dict[str, str]:
    """Metric → note, of test scores without an interval where so many test rows are of the rarer class."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 5 == 0
    y_test = torch.arange(test_rows) < rows
    x, x_test = torch.randn(1, 200, 4, generator=generator), torch.randn(1, test_rows, 4, generator=generator)
    fitted = fit_probes(x, y.long(), x_test=x_test, y_test=y_test.long(), labels=["often", "rare"], training_sets=0)
    scores = [r for r in fitted.results if r.split == "test" and not r.control]
    return {r.metric: r.note for r in scores if r.ci_low is None}


def test_scores_that_rest_on_few_rows_of_a_rare_class_have_no_interval_and_say_why():
    why = "no interval: class 'rare' has 9 test rows"
    assert without_interval(9) == {"selectivity": why, "cross_entropy_bits": why}
    assert without_interval(20) == {}  # the control: enough rows
    assert without_interval(10, test_rows=20) == {}  # few rows of a class that is not rare


def test_bits_that_rest_on_few_wrong_rows_have_no_interval_and_say_why():
    data = planted_task(rows=(300, 100, 100))
    x, y = data.train.activations.values, data.train.targets
    easy = torch.cat([x, 50.0 * (2.0 * y - 1)[None, :, None].expand(len(x), -1, 1)], dim=2)
    fitted = fit_probes(easy[:, :200], y[:200], x_test=easy[:, 200:], y_test=y[200:], training_sets=0)
    bits = result(fitted, "cross_entropy_bits")
    assert bits.ci_low is None
    assert bits.note == "no interval: 0 rows are wrong"
    assert result(fitted, "macro_f1").ci_low is not None
