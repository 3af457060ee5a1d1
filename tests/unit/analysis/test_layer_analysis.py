from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from probes.analysis import BetweenTasks, LabelCKA, ReferenceCKA, SpectralMeasure, silhouette
from probes.analysis.layer_analysis import between_columns, sample_rows, task_columns, task_rows
from probes.values import Activations, Layer, Reading

READING = Reading("decoder", "residual", "last")
LAYERS: tuple[Layer, ...] = (0, 1, "final")
MEASURES = (LabelCKA(permutations=0), SpectralMeasure(), ReferenceCKA(permutations=0))
SILHOUETTE = BetweenTasks(quantity="silhouette", unit="silhouette", function=silhouette)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def activations(rows: int = 20, seed: int = 0) -> Activations:
    return Activations(draw(3, rows, 5, seed=seed), LAYERS, tuple(f"row-{i}" for i in range(rows)), READING)


def test_each_measure_whose_needs_are_met_is_a_column_that_says_where_it_was_read():
    x, labels = activations(), torch.arange(20) % 2
    met = {
        "rows": task_rows(x),
        "labels": task_rows(x, labels),
        "reference": task_rows(x, other=activations(seed=1)),
        "all": task_rows(x, labels, activations(seed=1)),
    }
    found = {name: task_columns(MEASURES, rows, x, task="sst2", role="base") for name, rows in met.items()}
    assert {name: [own.quantity for own in columns] for name, columns in found.items()} == {
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
    rows = task_rows(x, labels, other)
    assert rows.labels is not None
    assert rows.labels.tolist() == list(range(5, 15))
    assert rows.reference is not None
    assert torch.equal(rows.reference, rows.values)


def test_rows_that_do_not_suffice_are_a_column_with_the_reason(caplog):
    few = activations(4)
    with caplog.at_level(logging.WARNING):
        label, rank = task_columns(MEASURES, task_rows(few, torch.arange(4) % 2), few, task="sst2")
    assert np.isnan(label.estimates.values).all()
    assert "at least 5 rows; got 4" in label.estimates.note
    assert "No label_cka of 'sst2': " in caplog.text
    assert np.isfinite(rank.estimates.values).all()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_lies_between_tasks_wants_two_with_rows(number: int):
    rows = [draw(3, 10, 5, seed=seed) for seed in range(number)] + [draw(3, 10, 5)[:, :0]]
    columns = between_columns([SILHOUETTE], rows, LAYERS, READING, role="base")
    assert [(own.quantity, own.task, own.role) for own in columns] == [("silhouette", "all_tasks", "base")] * (
        number == 2
    )


def test_a_sample_keeps_the_order_of_rows_and_follows_its_seed():
    rows = torch.arange(50.0)[None, :, None].expand(2, 50, 3)
    some, other = (sample_rows(rows, 10, seed=seed)[0, :, 0].tolist() for seed in (0, 1))
    assert len(some) == 10
    assert some == sorted(set(some)) != other
    assert torch.equal(sample_rows(rows, 10, seed=0)[0, :, 0], torch.tensor(some))
    assert torch.equal(sample_rows(rows, 60, seed=0), rows)
