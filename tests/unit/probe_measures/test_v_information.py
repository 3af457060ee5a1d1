"""V-information is that of the planted signal, and is never found where there is none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_tasks import PLANTED, planted_task
from probed_samples import FEW, probed, profiles_of, tables_of

from probes.analysis.significance import with_p_values
from probes.probe_measures import VInformation
from probes.probe_measures.linear_refits import bits_of_targets, select_by_loss, solve_sets
from probes.training import solve_linear
from probes.training.bank.probe_module import Standardiser


@pytest.mark.parametrize(("kind", "classes"), [("classification", 3), ("multilabel", 2)])
def test_the_planted_layer_informs_and_noise_does_not(kind, classes):
    profile = profiles_of(VInformation()(probed(kind=kind, classes=classes)))["v_information"]
    (tested,) = with_p_values([profile])
    values, p = profile.estimates.values, tested.estimates.p
    assert values.argmax() == PLANTED
    assert p[PLANTED] < 1e-6
    assert values[PLANTED] > 0.3 * (math.log2(3) if kind == "classification" else 1)
    assert (np.delete(p, PLANTED) > 0.05).all()
    assert (np.abs(np.delete(values, PLANTED)) < 0.1).all()


def test_it_is_the_entropy_of_the_frequencies_less_the_cross_entropy_of_the_probe():
    task = probed(classes=2)
    value = profiles_of(VInformation()(task))["v_information"].estimates.values[PLANTED]
    selected = select_by_loss(task.data, task.settings, seed=0)
    targets = task.data.test.targets
    share = task.data.train.targets.double().mean()
    constant = -torch.where(targets == 1, share, 1 - share).log2().mean()
    probe = -selected.logits[PLANTED].log_softmax(-1)[torch.arange(len(targets)), targets].mean() / math.log(2)
    assert value == pytest.approx((constant - probe).item(), abs=1e-6)


def test_a_sure_and_wrong_probe_is_not_chosen():
    # on noise macro-F1 may prefer any penalty, but in bits large ones are best
    task = probed(planted=False, rows=(100, 300, 100))
    selected = select_by_loss(task.data, task.settings, seed=0)
    assert (selected.chosen >= len(task.settings.penalties) - 2).all()


def test_few_validation_rows_are_cross_validated():
    settings = replace(FEW, min_validation_rows=200)
    profile = profiles_of(VInformation()(probed(settings=settings, rows=(120, 10, 100))))["v_information"]
    assert profile.estimates.values.argmax() == PLANTED
    assert profile.estimates.interval_over == "rows"


def test_with_few_training_rows_the_interval_is_over_training_sets_too():
    fixed = profiles_of(VInformation()(probed(rows=(100, 100, 150))))["v_information"].estimates
    over_sets = replace(FEW, training_sets=10)
    wider = profiles_of(VInformation()(probed(rows=(100, 100, 150), settings=over_sets)))["v_information"].estimates
    assert wider.interval_over == "rows and training sets"
    np.testing.assert_array_equal(wider.values, fixed.values)
    assert (fixed.freedom, wider.freedom) == (((150, 149),), ((150, 149), (10, 9)))
    assert np.square(wider.errors).sum(0)[PLANTED] > np.square(fixed.errors).sum(0)[PLANTED]


def test_pointwise_information_has_the_mean_and_the_rows_that_change_most_are_shown():
    task = probed()
    found = list(VInformation(rows_shown=5)(task))
    tables, values = tables_of(found), profiles_of(found)["v_information"].estimates.values
    pointwise = tables["pointwise_v_information"].columns
    assert np.mean(pointwise[f"layer {PLANTED}"]) == pytest.approx(values[PLANTED])
    assert list(pointwise["row"]) == list(task.data.test.activations.row_ids)
    by_row = np.array([pointwise[f"layer {layer}"] for layer in range(4)])
    shown = tables["rows_that_change"].columns
    spread = np.ptp(by_row, axis=0)
    assert shown["highest bits"][0] - shown["lowest bits"][0] == pytest.approx(spread.max())
    first = int(spread.argmax())
    assert shown["text"][0] == task.task.splits["test"].prompts[first]
    assert len(shown["text"]) == 5


def test_regression_has_none():
    assert list(VInformation()(probed(kind="regression", classes=1))) == []


def test_a_set_of_rows_is_solved_as_these_rows_alone():
    data = planted_task(classes=3).train
    values, targets = data.activations.values, data.targets
    weights = torch.zeros(2, len(targets))
    weights[0, :100], weights[1, 100:] = 3.0, 0.5
    settings = replace(FEW, tolerance=1e-6)

    def reduce(solved):
        return torch.stack([solved.logits(s) for s in range(2)], dim=2)

    logits = solve_sets(
        "classification", values, targets, weights, apply_to=values, classes=3, settings=settings, reduce=reduce
    )
    x = Standardiser.of(values)[0](values)
    penalties = torch.tensor(settings.penalties, dtype=torch.float64)
    alone = solve_linear(
        "classification", x[:, :100], targets[None, :100], penalties, classes=3, tolerance=settings.tolerance
    )
    expected = (alone.weights[:, :, 0].flatten(1, 2) @ x.mT).unflatten(1, (4, 3)).mT + alone.biases[:, :, 0, None]
    torch.testing.assert_close(logits[:, :, 0], expected, atol=0.02, rtol=0.02)


def test_a_constant_layer_has_no_value():
    data = planted_task()
    for split in (data.train, data.validation, data.test):
        split.activations.values[0] = 1.0
    profile = profiles_of(VInformation()(probed(data, settings=replace(FEW, training_sets=4))))["v_information"]
    assert np.isnan(profile.estimates.values[0])
    assert np.isfinite(profile.estimates.values[1:]).all()
    assert np.isfinite(profile.estimates.errors[:, 1:]).all()
    assert np.isnan(profile.estimates.errors[:, 0]).any()


def test_bits_of_labels_are_the_mean_of_their_binary_cross_entropies():
    logits, targets = torch.tensor([[[0.0, 3.0]]]), torch.tensor([[1.0, 0.0]])
    expected = (1 + math.log2(1 + math.exp(3))) / 2
    assert bits_of_targets("multilabel", logits, targets).item() == pytest.approx(expected)
