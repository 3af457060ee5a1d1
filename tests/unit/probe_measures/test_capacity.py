"""Planted problems that need a certain capacity are solved with it and not below it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussian_rows import draw_float32
from planted_tasks import PLANTED, READING
from probed_samples import FEW, probed, profiles_of, tables_of

from probes.architectures import LowRankProbe
from probes.probe_measures import ProbeCapacity
from probes.probe_measures.capacity import eliminate, full_rank
from probes.training import LabelledActivations, TaskData
from probes.values import Activations

WIDTH = 24


def task_of(label, *, classes: int, rows: tuple[int, int, int] = (400, 150, 200)) -> TaskData:
    """Two layers of Gaussian features; the class is a function of those of layer 1."""
    splits = {}
    for number, (split, count) in enumerate(zip(("train", "validation", "test"), rows, strict=True)):
        values = draw_float32(2, count, WIDTH, seed=number)
        ids = tuple(f"{split}{row}" for row in range(count))
        splits[split] = LabelledActivations(Activations(values, (0, 1), ids, READING), label(values[1]).long())
    labels = tuple(f"class-{k}" for k in range(classes))
    return TaskData(task="capacity", kind="classification", labels=labels, **splits)


def quadrant(x):
    return 2 * (x[:, 0] > 0) + (x[:, 1] > 0)


def test_rank_1_fails_and_rank_2_solves_a_problem_of_two_directions():
    measure = ProbeCapacity(sparse=(), ranks=(1, 2, 3), widths=())
    found = profiles_of(measure(probed(task_of(quadrant, classes=4))))
    scores = {name: found[f"probe_capacity/{name}"].estimates.values[1] for name in ("rank_1", "rank_2")}
    assert "probe_capacity/rank_3" not in found  # 3 is the rank of every linear probe of 4 classes
    assert scores["rank_1"] < 0.65
    assert scores["rank_2"] > 0.85
    assert (found["probe_capacity/rank_2"].estimates.values[0]) < 0.4


def test_a_network_solves_what_no_linear_probe_can():
    task = task_of(lambda x: (x[:, 0] > 0) ^ (x[:, 1] > 0), classes=2, rows=(1000, 200, 300))
    found = list(
        ProbeCapacity(sparse=(2,), ranks=(1,), widths=(32,), max_epochs=100)(
            probed(task, settings=replace(FEW, learning_rate=0.01))
        )
    )
    scores = tables_of(found)["capacity"].columns
    by_probe = dict(zip(scores["probe"], scores["macro_f1"], strict=True))
    profiles = profiles_of(found)
    assert list(by_probe) == ["sparse_2", "linear", "mlp_32"]
    assert profiles["probe_capacity/mlp_32"].estimates.values[1] > 0.75
    assert profiles["probe_capacity/sparse_2"].estimates.values[1] < 0.65


def test_sparse_probes_find_the_planted_features_of_three_classes():
    task = probed(task_of(lambda x: (x[:, 5] > 0.4).long() + (x[:, 5] > -0.4).long(), classes=3))
    assert eliminate(task, [1])[1][1].tolist() == [5]
    both = probed(task_of(lambda x: (x[:, 3] + x[:, 17] > 0).long(), classes=2))
    found = list(ProbeCapacity(sparse=(1, 2), ranks=(), widths=())(both))
    assert set(tables_of(found)["sparse_features"].columns["which"][1].split()) == {"3", "17"}
    profiles = profiles_of(found)
    one, two = (profiles[f"probe_capacity/sparse_{k}"].estimates for k in (1, 2))
    assert two.values[1] > 0.95
    assert 0.6 < one.values[1] < 0.85  # half of the rule
    assert abs(two.values[0] - 0.5) < 0.12  # noise


@pytest.mark.parametrize(("kind", "classes", "metric"), [("regression", 1, "r2"), ("multilabel", 3, "macro_f1")])
def test_other_kinds_are_eliminated_too(kind, classes, metric):
    found = list(ProbeCapacity(sparse=(classes,), ranks=(), widths=())(probed(kind=kind, classes=classes)))
    columns = tables_of(found)["sparse_features"].columns
    assert set(map(int, columns["which"][0].split())) == set(range(classes))
    score = profiles_of(found)[f"probe_capacity/sparse_{classes}"].estimates
    assert score.values[PLANTED] > 0.7
    assert tables_of(found)["capacity"].columns[metric][0] == pytest.approx(score.values[PLANTED])


def test_parameters_are_counted_as_the_probes_have_them():
    found = list(ProbeCapacity(sparse=(4,), ranks=(1,), widths=(16,), max_epochs=2)(probed(classes=3)))
    counted = dict(zip(*(tables_of(found)["capacity"].columns[name] for name in ("probe", "parameters")), strict=True))
    low_rank = sum(parameter.numel() for parameter in LowRankProbe(10, 3, rank=1).parameters())
    assert counted == {"sparse_4": 15, "rank_1": low_rank, "linear": 33, "mlp_16": 16 * 11 + 3 * 17}


def test_a_constant_layer_has_no_score_and_odd_capacities_are_refused():
    task = task_of(quadrant, classes=4)
    for split in (task.train, task.validation, task.test):
        split.activations.values[0] = 2.0
    found = profiles_of(ProbeCapacity(sparse=(2,), ranks=(), widths=())(probed(task)))
    values = found["probe_capacity/sparse_2"].estimates.values
    assert np.isnan(values).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"capacity\.ranks"):
        ProbeCapacity(ranks=(0,))
    with pytest.raises(ValueError, match="at least 1"):
        LowRankProbe(4, 3, rank=0)
    assert full_rank("classification", 2) == full_rank("regression", 1) == 1
    assert torch.equal(torch.tensor(full_rank("multilabel", 3)), torch.tensor(3))
