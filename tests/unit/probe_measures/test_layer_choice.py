"""Mixtures find the layers that hold the label; what each layer adds is the step of the scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_tasks import PLANTED, planted_task
from probed_samples import FEW, probed, profiles_of

from probes.analysis import confidence_interval
from probes.architectures import ScalarMixProbe
from probes.probe_measures import LayerChoice
from probes.probe_measures.layer_choice import expected_layer, layer_positions, mixture_weights, train_mixtures
from probes.training import TaskData


def in_two_layers() -> TaskData:
    """The signal of layer 2 is also in layer 3, with noise of its own."""
    data = planted_task(classes=3)
    generator = torch.Generator().manual_seed(0)
    for split in (data.train, data.validation, data.test):
        held = split.activations.values[2]
        split.activations.values[3] = held + 4 * torch.randn(held.shape, generator=generator)
    return data


@pytest.mark.parametrize(("kind", "classes"), [("classification", 3), ("regression", 1), ("multilabel", 2)])
def test_the_weight_of_the_mixture_is_on_the_planted_layer(kind, classes):
    found = profiles_of(LayerChoice(halves=4)(probed(kind=kind, classes=classes)))
    weights = found["scalar_mix_weight"].estimates
    assert weights.values.sum() == pytest.approx(1)
    assert weights.values.argmax() == PLANTED
    assert weights.values[PLANTED] > 0.7
    centre = found["layer_choice/centre_of_gravity"].estimates
    assert centre.values.item() == pytest.approx((weights.values * np.arange(4)).sum())
    assert centre.values.item() == pytest.approx(PLANTED, abs=0.35)
    assert centre.interval_over == "training sets"
    expected = found["layer_choice/expected_layer"].estimates
    assert expected.values.item() == pytest.approx(PLANTED, abs=0.35)
    up_to = found[f"score_up_to/{'r2' if kind == 'regression' else 'macro_f1'}"].estimates.values
    assert up_to[PLANTED] > up_to[PLANTED - 1] + 0.2


def test_noise_has_even_weights_and_no_expected_layer():
    found = profiles_of(LayerChoice(halves=4)(probed(planted=False)))
    assert (found["scalar_mix_weight"].estimates.values < 0.6).all()
    expected = found["layer_choice/expected_layer"].estimates
    assert np.isnan(expected.values).all()
    assert "not clearly better" in expected.note


def test_layers_together_score_about_as_the_best_one_where_both_hold_the_signal():
    task = probed(in_two_layers())
    found = profiles_of(LayerChoice(halves=0)(task))
    both = found["layer_choice/concatenation"].estimates
    assert both.values.item() > task.fit.profile("macro_f1").estimates.values.max() - 0.1
    weak = probed(planted=False)
    (noise,) = [p for p in LayerChoice(halves=0)(weak) if p.quantity == "layer_choice/concatenation"]
    assert noise.estimates.interval[0] < 0.5
    assert both.interval[0] < both.values < both.interval[1]
    assert found["scalar_mix_weight"].estimates.errors is None


def test_layers_together_gain_where_each_holds_a_part_and_nothing_where_one_holds_all():
    parts = planted_task(rows=(300, 100, 300))
    for split in (parts.train, parts.validation, parts.test):
        generator = torch.Generator().manual_seed(len(split.targets))
        noise = torch.randn(4, len(split.targets), split.activations.values.shape[2], generator=generator)
        sign = (2.0 * split.targets - 1)[:, None]
        split.activations.values.copy_(noise)
        split.activations.values[1:, :, :1] += 0.8 * sign  # each layer with noise of its own
    gains = {}
    for name, task in (("parts", probed(parts)), ("all", probed())):
        found = profiles_of(LayerChoice(depths=2, halves=0, max_epochs=1)(task))
        gains[name] = found["layer_choice/concatenation_gain"].estimates
        best = task.fit.best_layers.layer
        expected = found["layer_choice/concatenation"].estimates.values
        expected = expected - task.fit.profile("macro_f1").estimates.values[best]
        np.testing.assert_allclose(gains[name].values, expected, atol=1e-6)
        assert gains[name].remarks == (f"over the probe of layer {best}",)
    low, high = confidence_interval(gains["parts"].values, gains["parts"].errors)
    assert high > low > 0
    assert gains["all"].values < 0.02


def test_a_mixture_up_to_a_layer_gives_the_others_no_weight_and_does_not_depend_on_halves():
    task = probed(classes=2)
    few, none = (train_mixtures(task, [0, 1, 2, 3], halves=halves, max_epochs=10) for halves in (3, 0))
    weights = mixture_weights(few.bank)
    assert weights.shape == (7, 4)
    for up_to in range(4):
        assert (weights[up_to, up_to + 1 :] == 0).all()
        assert weights[up_to].sum().item() == pytest.approx(1)
    torch.testing.assert_close(weights[:4], mixture_weights(none.bank), atol=1e-5, rtol=1e-5)


def test_without_validation_rows_a_fold_decides_when_to_stop():
    task = probed(settings=replace(FEW, folds=3), rows=(150, 0, 80))
    found = profiles_of(LayerChoice(halves=2, max_epochs=30)(task))
    assert found["scalar_mix_weight"].estimates.values.argmax() == PLANTED


def test_the_expected_layer_is_tenneys():
    scores = torch.tensor([[0.4, 0.4, 0.8, 0.8], [0.4, 0.5, 0.6, 0.7]])
    torch.testing.assert_close(expected_layer(scores, torch.arange(1.0, 4.0)), torch.tensor([2.0, 2.0]))
    assert layer_positions((0, 2, "final")) == [0, 2, 3]


def test_some_depths_are_enough_and_the_others_are_left_open():
    task = probed(classes=3)
    found = profiles_of(LayerChoice(depths=2, halves=0, concatenate=False)(task))
    scores = found["score_up_to/macro_f1"].estimates
    assert np.isfinite(scores.values).tolist() == [True, False, False, True]
    assert scores.note == "measured at some layers only"
    assert found["layer_choice/expected_layer"].estimates.values.item() == pytest.approx(2.0)  # mean of layers 1 to 3


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 layers cannot stand side by side in 10 features"):
        ScalarMixProbe(10, 2, layers=3)
