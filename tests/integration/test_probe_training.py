"""A task from activations to trained probes, through a real Lightning trainer."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from planted_tasks import EXACT, MINIBATCH, PLANTED, READING, fit, planted_task, result, state

from probes.training import default_trainer, fit_task
from probes.values import Activations

both_fits = pytest.mark.parametrize("settings", [EXACT, MINIBATCH], ids=["exact", "minibatch"])


@both_fits
@pytest.mark.parametrize("classes", [2, 3])
def test_probes_find_a_planted_label_at_its_layer_and_a_shuffled_or_absent_one_nowhere(settings, classes):
    fitted = fit(planted_task(classes=classes, noise=0.15), settings)
    assert fitted.validation_best_layer == PLANTED
    assert fitted.objective > 0.8
    planted, control = result(fitted, "macro_f1"), result(fitted, "macro_f1", control="shuffled_labels")
    assert planted.value > 0.8
    assert abs(control.value - 1 / classes) < 0.2
    assert planted.null_mean == pytest.approx(1 / classes, abs=0.03)
    for layer in (0, 1, 3):
        assert abs(result(fitted, "accuracy", layer).value - 1 / classes) < 0.15
    selectivity = result(fitted, "selectivity")
    assert selectivity.value == pytest.approx(planted.value - control.value)
    assert selectivity.ci_low > 0.15
    elsewhere = [result(fitted, "selectivity", layer) for layer in (0, 1, 3)]
    assert sum(noise.ci_low < 0 < noise.ci_high for noise in elsewhere) >= 2  # each interval misses once in twenty
    absent = fit(planted_task(classes=classes, planted=False), settings)
    assert abs(result(absent, "accuracy").value - 1 / classes) < 0.15


def test_classes_in_order_have_a_rank_correlation_with_interval_and_null():
    data = planted_task(classes=4)
    assert {r.metric for r in fit(data).results}.isdisjoint({"spearman"})
    fitted = fit(replace(data, ordered=True))
    planted, control = result(fitted, "spearman"), result(fitted, "spearman", control="shuffled_labels")
    assert 0.5 < planted.ci_low < planted.value < planted.ci_high
    assert planted.null_mean == pytest.approx(0, abs=0.03)
    assert abs(control.value) < 0.25
    assert abs(result(fitted, "spearman", 0).value) < 0.25
    assert result(fitted, "selectivity") == result(fit(data), "selectivity")  # macro-F1 stays the main metric


@both_fits
def test_regression_is_scored_in_the_unit_of_its_targets(settings):
    fitted = fit(planted_task(classes=1, kind="regression"), settings)
    assert fitted.validation_best_layer == PLANTED
    assert result(fitted, "r2").value > 0.8
    assert result(fitted, "spearman").value > 0.9
    assert result(fitted, "mse").value == pytest.approx((1 - result(fitted, "r2").value) * 2500, rel=0.35)
    assert fitted.objective == -result(fitted, "mse", split="validation").value
    assert result(fitted, "r2", control="shuffled_labels").value < 0.1


@both_fits
def test_multilabel_tasks_are_probed_label_by_label(settings):
    data = planted_task(classes=3, kind="multilabel")
    fitted = fit(data, settings)
    assert fitted.validation_best_layer == PLANTED
    assert result(fitted, "label_accuracy").value > 0.85 > 0.7 > result(fitted, "label_accuracy", 0).value
    predicted = fitted.probes.predict(data.test.activations.values)
    assert predicted.shape == (4, 160, 3)
    assert set(predicted.unique().tolist()) == {0, 1}


@both_fits
def test_statistics_come_from_the_training_rows_alone(settings):
    data = planted_task()
    fitted, train = fit(data, settings), data.train.activations.values
    assert torch.allclose(fitted.probes.standardiser.mean, train.mean(1), atol=1e-4)
    assert torch.allclose(fitted.probes.standardiser.deviation, train.std(1, correction=0), atol=1e-4)


@both_fits
def test_the_same_seed_gives_the_same_numbers_zero_included(settings):
    data = planted_task()
    first, again, other = fit(data, settings), fit(data, settings), fit(data, settings, seed=1)
    assert first.results == again.results
    assert [r.value for r in first.results] != [r.value for r in other.results]


@both_fits
def test_a_layer_scores_the_same_alone_among_other_layers_and_in_chunks(settings):
    data = planted_task()

    def only_planted(split):
        activations, targets = split
        return Activations(activations.values[[PLANTED]], (PLANTED,), activations.row_ids, READING), targets

    single_layer = replace(
        data, train=only_planted(data.train), validation=only_planted(data.validation), test=only_planted(data.test)
    )
    together, alone = fit(data, settings), fit(single_layer, settings)
    in_chunks = fit(data, replace(settings, max_bank_bytes=1))
    assert result(alone, "cross_entropy_bits").value == pytest.approx(
        result(together, "cross_entropy_bits").value, abs=1e-5
    )
    for name, value in state(together).items():
        assert torch.allclose(value, state(in_chunks)[name], atol=1e-5), name


def test_a_checkpoint_holds_probes_and_their_statistics_only(tmp_path):
    trainers = []

    def kept_trainer(**overrides):
        trainers.append(default_trainer(**overrides))
        return trainers[-1]

    for settings in (EXACT, MINIBATCH):
        fit_task(planted_task(), settings, kept_trainer, 0)
        trainers[-1].save_checkpoint(tmp_path / "probes.ckpt")
        names = torch.load(tmp_path / "probes.ckpt", weights_only=False)["state_dict"]
        assert {name.partition(".")[0] for name in names} == {"bank", "standardiser"}
        assert trainers[-1].global_step > 0


def test_an_exact_fit_that_is_impossible_is_an_error():
    with pytest.raises(ValueError, match=r"Only LinearProbe can be solved exactly.*MLPProbe.*`probe\.fit`"):
        fit(planted_task(), replace(MINIBATCH, fit="exact"))
    with pytest.raises(ValueError, match=r"penalties above 0.*\[0\.0, 1\.0\].*`probe\.penalties`"):
        fit(planted_task(), replace(EXACT, fit="exact", penalties=(0.0, 1.0)))


def test_a_probe_that_did_not_converge_is_noted():
    fitted = fit(planted_task(), replace(EXACT, max_iterations=1, tolerance=1e-9))
    assert "not converged" in result(fitted, "macro_f1").note
    assert result(fit(planted_task()), "macro_f1").note == ""


def test_minibatches_come_near_the_exact_optimum_of_the_same_penalty():
    data = planted_task(classes=3)
    linear = replace(EXACT, penalties=(0.1,))
    exact = fit(data, linear)
    minibatch = fit(
        data, replace(linear, fit="minibatch", batch_size=240, learning_rate=0.02, max_epochs=200, patience=200)
    )
    near, optimal = (result(fitted, "cross_entropy_bits", split="train").value for fitted in (minibatch, exact))
    assert near == pytest.approx(optimal, abs=0.02)


def test_balanced_class_weights_raise_the_score_of_a_rare_class():
    data = planted_task(rows=(400, 200, 400))
    train, targets = data.train
    # All rows of one class and about an eighth of the other's, with so much noise that the prior matters.
    kept = ((targets == 0) | (torch.arange(400) % 8 == 0)).nonzero()[:, 0]
    noise = 6 * torch.randn(4, len(kept), 10, generator=torch.Generator().manual_seed(3))
    row_ids = tuple(train.row_ids[i] for i in kept.tolist())
    noisy = Activations(train.values[:, kept] + noise, train.layers, row_ids, READING)
    skewed = replace(data, train=(noisy, targets[kept]))
    plain, balanced = fit(skewed), fit(skewed, replace(EXACT, class_weights="balanced"))
    assert result(balanced, "macro_f1").value > result(plain, "macro_f1").value + 0.05


def test_lightning_neither_logs_nor_warns(caplog, recwarn):
    with caplog.at_level(logging.INFO):
        fit(planted_task())
        fit(planted_task(), replace(MINIBATCH, max_epochs=2))
    assert not caplog.records
    assert not recwarn.list
