from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from probes.analysis import BetweenTasks, LabelCKA, LayerAnalysis, ReferenceCKA, SpectralMeasure, silhouette
from probes.analysis.layer_analysis import matched_rows, sample_rows, task_profiles
from probes.values import Activations, Estimates, Layer, Reading

READING = Reading("decoder", "residual", "last")
LAYERS: tuple[Layer, ...] = (0, 1, "final")
MEASURES = (LabelCKA(permutations=0), SpectralMeasure(), ReferenceCKA(permutations=0))
SILHOUETTE = BetweenTasks(quantity="silhouette", unit="silhouette", function=silhouette)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def activations(rows: int = 20, seed: int = 0) -> Activations:
    return Activations(draw(3, rows, 5, seed=seed), LAYERS, tuple(f"row-{i}" for i in range(rows)), READING)


def test_each_measure_whose_needs_are_met_gives_a_profile_that_names_its_place():
    x, labels = activations(), torch.arange(20) % 2
    met = {
        "rows": matched_rows(x),
        "labels": matched_rows(x, labels),
        "reference": matched_rows(x, other=activations(seed=1)),
        "all": matched_rows(x, labels, activations(seed=1)),
    }
    found = {name: task_profiles(MEASURES, rows, x, task="sst2", role="base") for name, rows in met.items()}
    assert {name: [profile.quantity for profile in profiles] for name, profiles in found.items()} == {
        "rows": ["effective_rank"],
        "labels": ["label_cka", "effective_rank"],
        "reference": ["effective_rank", "reference_cka"],
        "all": ["label_cka", "effective_rank", "reference_cka"],
    }
    for own in found["all"]:
        assert (own.task, own.role, own.reading, own.layers) == ("sst2", "base", READING, LAYERS)
        assert np.isfinite(own.estimates.values).all()


def test_labels_follow_their_rows_through_a_join():
    x, labels = activations(), torch.arange(20)
    other = Activations(x.values[:, 5:15].flip(1), LAYERS, x.row_ids[5:15][::-1], READING)
    rows = matched_rows(x, labels, other)
    assert rows.labels is not None
    assert rows.labels.tolist() == list(range(5, 15))
    assert rows.reference is not None
    assert torch.equal(rows.reference, rows.values)


def test_too_few_rows_give_a_profile_with_the_reason(caplog):
    few = activations(4)
    with caplog.at_level(logging.WARNING):
        label, rank = task_profiles(MEASURES, matched_rows(few, torch.arange(4) % 2), few, task="sst2")
    assert np.isnan(label.estimates.values).all()
    assert "at least 5 rows; got 4" in label.estimates.note
    assert "No label_cka of 'sst2': " in caplog.text
    assert np.isfinite(rank.estimates.values).all()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_lies_between_tasks_needs_two_of_them(number: int):
    analysis = LayerAnalysis(between={"silhouette": SILHOUETTE})
    for seed in range(number):
        analysis.add(f"task-{seed}", activations(seed=seed), role="base")
    found = [(profile.quantity, profile.task, profile.role) for profile in analysis.finish().profiles]
    assert found == [("silhouette", "all_tasks", "base")] * (number == 2)


def test_what_is_added_is_measured_once_under_its_reading_and_role():
    analysis = LayerAnalysis({"effective_rank": SpectralMeasure()}, between={"silhouette": SILHOUETTE})
    analysis.add("sst2", activations())
    assert analysis.has("sst2", READING)
    assert not analysis.has("sst2", READING, role="base")
    assert not analysis.has("trec", READING)
    analysis.add("sst2", activations(), role="base", reference=activations(rows=15, seed=1))
    found = {(profile.role, profile.quantity): profile.estimates.n for profile in analysis.finish().profiles}
    assert found == {("", "effective_rank"): 20, ("base", "effective_rank"): 15}


def test_a_sample_keeps_the_order_of_rows_and_follows_its_seed():
    rows = torch.arange(50.0)[None, :, None].expand(2, 50, 3)
    some, other = (sample_rows(rows, 10, seed=seed)[0, :, 0].tolist() for seed in (0, 1))
    assert len(some) == 10
    assert some == sorted(set(some)) != other
    assert torch.equal(sample_rows(rows, 10, seed=0)[0, :, 0], torch.tensor(some))
    assert torch.equal(sample_rows(rows, 60, seed=0), rows)


def test_a_few_layers_of_a_model_are_compared_with_the_same_layers_of_the_whole():
    whole = Activations(draw(9, 30, 5), tuple(range(9)), tuple(map(str, range(30))), READING, depth=8)
    few = replace(whole, values=whole.values[:3], layers=(0, 1, 2))

    def reference_cka(one: Activations) -> Estimates:
        (profile,) = task_profiles([ReferenceCKA(permutations=0)], matched_rows(one, other=whole), one, task="sst2")
        return profile.estimates

    np.testing.assert_allclose(reference_cka(few).values, 1, atol=1e-6)
    assert not any(reference_cka(few).remarks)
    shallow = reference_cka(replace(few, depth=2))  # the control: a model of two blocks
    assert shallow.remarks == ("", "against layer 4", "against layer 8")
    assert (shallow.values[1:] < 0.9).all()
