"""Learning curves: their end is the reported score, an easy layer needs fewer rows, noise has no answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gaussian_rows import draw_float32
from planted_tasks import PLANTED, READING
from probed_samples import probed, profiles_of, tables_of

from probes.probe_measures import SampleEfficiency
from probes.probe_measures.sample_efficiency import learning_curve, rows_to_reach
from probes.training import LabelledActivations, TaskData
from probes.values import Activations


def clear_and_faint(rows: tuple[int, int, int] = (256, 100, 200)) -> TaskData:
    """Layer 0 holds the label in one large feature; in layer 1 it is spread over 20 features in noise; layer 2 none."""
    splits = {}
    for number, (split, count) in enumerate(zip(("train", "validation", "test"), rows, strict=True)):
        values = draw_float32(3, count, 20, seed=number)
        targets = torch.randint(2, (count,), generator=torch.Generator().manual_seed(number))
        signs = 2.0 * targets - 1
        values[0, :, 0] += 4 * signs
        values[1] += 0.25 * signs[:, None]
        ids = tuple(f"{split}{row}" for row in range(count))
        splits[split] = LabelledActivations(Activations(values, (0, 1, 2), ids, READING), targets)
    return TaskData(task="clear and faint", kind="classification", labels=("a", "b"), **splits)


def test_a_clear_layer_needs_fewer_rows_than_a_faint_one_and_noise_has_no_answer():
    found = list(SampleEfficiency()(probed(clear_and_faint())))
    estimates = profiles_of(found)["rows_to_90_percent"].estimates
    clear, faint, noise = estimates.values
    assert clear < 40
    assert faint > 1.5 * clear
    assert np.isnan(noise)
    assert estimates.interval[0, 1] <= faint <= estimates.interval[1, 1]


def test_the_curve_rises_and_ends_at_the_reported_score():
    task = probed(clear_and_faint())
    curve = learning_curve(task, [16, 32, 64, 128], subsets=6)
    assert curve.sizes == (16, 32, 64, 128, 256)
    reported = task.fit.profile("macro_f1").estimates.values
    np.testing.assert_allclose(curve.values[:, -1], reported, atol=0.011)
    assert curve.values[1, -1] > curve.values[1, 0] + 0.05
    assert ((curve.low <= curve.values) & (curve.values <= curve.high)).all()
    assert curve.chance == pytest.approx(np.full(3, 0.5), abs=0.03)


@pytest.mark.parametrize(("kind", "classes", "metric"), [("regression", 1, "r2"), ("multilabel", 3, "macro_f1")])
def test_other_kinds_have_curves_too(kind, classes, metric):
    found = list(SampleEfficiency()(probed(kind=kind, classes=classes)))
    assert np.isfinite(profiles_of(found)["rows_to_90_percent"].estimates.values[PLANTED])
    table = tables_of(found)["learning_curves"].columns
    at_layer = [value for layer, value in zip(table["layer"], table[metric], strict=True) if layer == PLANTED]
    assert at_layer[-1] > at_layer[0]
    assert set(table["layer"]) == {0, 1, 2, 3}


def test_rows_to_reach_interpolates_in_the_logarithm():
    values = np.array([[0.5, 0.7, 0.9, 0.9], [0.9, 0.9, 0.9, 0.9], [0.4, 0.4, 0.4, 0.4]])
    reached = rows_to_reach(values, (16, 32, 64, 128), chance=np.full(3, 0.5), share=0.75)
    assert reached == pytest.approx([32 * 2**0.5, 16, 128])


def test_too_few_rows_give_no_number():
    found = profiles_of(SampleEfficiency(smallest=200)(probed()))["rows_to_90_percent"].estimates
    assert np.isnan(found.values).all()
    with pytest.raises(ValueError, match="at least 2 subsets"):
        SampleEfficiency(subsets=1)
