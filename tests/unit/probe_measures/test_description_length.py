"""The online code is a code: it is short where the label is planted, and never shorter than chance allows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gaussian_rows import draw_float32
from planted_tasks import PLANTED, planted_task
from probed_samples import FEW, probed, profiles_of
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from probes.probe_measures import DescriptionLength
from probes.probe_measures.description_length import (
    block_starts,
    code_without_activations,
    mixture_bits,
    online_code,
    row_orders,
)
from probes.training import ProbeSettings


@pytest.mark.parametrize(("kind", "classes", "uniform"), [("classification", 3, math.log2(3)), ("multilabel", 2, 1.0)])
def test_the_code_of_the_planted_layer_is_the_shortest_and_those_of_noise_save_nothing(kind, classes, uniform):
    found = profiles_of(DescriptionLength()(probed(kind=kind, classes=classes)))
    code, saved = found["description_length"].estimates, found["code_saved"].estimates
    assert found["description_length@uniform"].estimates.values.item() == pytest.approx(uniform)
    assert code.values.argmin() == PLANTED
    assert code.values[PLANTED] < 0.75 * uniform
    noise = np.delete(np.arange(4), PLANTED)
    errors = np.sqrt(np.square(saved.errors).sum(0))
    assert saved.values[PLANTED] > 5 * errors[PLANTED]
    assert (saved.values[noise] < 3 * errors[noise]).all()
    assert found["compression"].estimates.values == pytest.approx(uniform / code.values)


def test_random_labels_take_no_fewer_bits_than_the_uniform_code():
    found = profiles_of(DescriptionLength()(probed(planted=False, rows=(400, 60, 60))))
    code = found["description_length"].estimates
    assert (code.values > 1.0 - 2 * np.sqrt(np.square(code.errors).sum(0))).all()
    assert (code.values < 1.15).all()  # overhead of the mixture and of what probes take for a pattern


def test_regression_has_no_code():
    assert list(DescriptionLength()(probed(kind="regression", classes=1))) == []


def test_each_block_is_sent_by_a_probe_of_the_rows_before_it():
    data = planted_task(classes=2, rows=(80, 60, 60)).train
    values, targets = data.activations.values, data.targets
    orders, starts = row_orders(80, 1, seed=3), [20, 40]
    settings = ProbeSettings(penalties=(0.1,), tolerance=1e-6)
    code = online_code("classification", values, targets, orders, starts, settings)[:, 0]
    order = orders[0].numpy()
    assert code[:, order[:20]].numpy() == pytest.approx(1.0)
    x = values[PLANTED].double().numpy()
    # the two pseudo-rows at the mean make the deviation smaller
    x = (x - x.mean(0)) / (x.std(0) * np.sqrt(80 / 82))
    for start, end in ((20, 40), (40, 80)):
        before, block = order[:start], order[start:end]
        rows = np.concatenate([x[before], np.zeros((2, x.shape[1]))])
        weights = np.r_[np.ones(start), 0.5, 0.5]
        model = LogisticRegression(C=2 / (0.1 * (start + 1)), tol=1e-10, max_iter=1000)
        model.fit(rows, np.r_[targets[before], 0, 1], sample_weight=weights)
        probability = model.predict_proba(x[block])[np.arange(len(block)), targets[block]]
        assert code[PLANTED, block].numpy() == pytest.approx(-np.log2(probability), abs=5e-3)


def test_the_label_of_a_row_does_not_influence_how_earlier_rows_are_coded():
    data = planted_task(classes=2, rows=(80, 60, 60)).train
    orders, starts = row_orders(80, 1, seed=3), [20, 40]
    codes = []
    for flipped in (0, 15):  # labels of the last rows
        targets = data.targets.clone()
        last = orders[0, 80 - flipped :]
        targets[last] = 1 - targets[last]
        codes.append(online_code("classification", data.activations.values, targets, orders, starts, FEW)[:, 0])
    before = orders[0, :65]
    torch.testing.assert_close(codes[0][:, before], codes[1][:, before])
    assert not torch.allclose(codes[0], codes[1])


def test_the_mixture_costs_little_more_than_the_best_penalty_and_is_a_probability():
    bits = draw_float32(3, 4, 50).double().abs()
    bits[:, 2] *= 0.2
    blocks = [bits[..., :20], bits[..., 20:]]
    mixed = mixture_bits(blocks)
    assert mixed.shape == (3, 50)
    overhead = mixed.sum(1) - bits[:, 2].sum(1)
    assert (overhead <= 2 + 1).all()
    # without a fixed share: minus log2 of the mean over penalties of the probability of all rows
    one_block = mixture_bits([bits])
    expected = -(logsumexp(-bits.sum(-1).numpy() * math.log(2), axis=1) - math.log(4)) / math.log(2)
    assert one_block.sum(1).numpy() == pytest.approx(expected)


def test_the_mixture_follows_a_penalty_that_becomes_better_later():
    early, late = torch.tensor([[[0.5] * 30, [2.0] * 30]]).double(), torch.tensor([[[2.0] * 30, [0.5] * 30]]).double()
    mixed = mixture_bits([early, late]).sum()
    assert mixed < 0.5 * 60 + 8  # each penalty by itself takes 75 bits


def test_without_activations_the_code_is_that_of_the_class_frequencies():
    targets = torch.tensor([0, 0, 0, 1] * 100)
    orders = row_orders(400, 3, seed=0)
    starts = block_starts(400, 16)
    code = code_without_activations("classification", targets, orders, starts, classes=2)
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert code.mean().item() == pytest.approx(entropy, abs=0.06)
    assert code.mean().item() > entropy


def test_a_class_that_early_blocks_lack_has_a_finite_code():
    x = draw_float32(1, 64, 3)
    targets = torch.zeros(64, dtype=torch.long)
    orders = torch.arange(64)[None]
    targets[-1] = 1  # only in the last block
    code = online_code("classification", x, targets, orders, [16, 32], FEW)
    assert code.isfinite().all()
    assert code[0, 0, -1] > 3


def test_too_few_rows_for_two_blocks_are_nan_with_a_reason():
    found = profiles_of(DescriptionLength(smallest_prefix=200)(probed()))["description_length"].estimates
    assert np.isnan(found.values).all()
    assert "fewer than two blocks in 240 rows" in found.note


def test_a_code_of_one_order_is_refused():
    with pytest.raises(ValueError, match="at least 2 orders"):
        DescriptionLength(orders=1)
