from __future__ import annotations

import pytest
import torch

from probes.training import TaskData
from probes.values import Activations, Reading

READING = Reading("decoder", "residual", "last")


def activations(rows, *, layers=(0, 1, "final"), features=4, reading=READING):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(len(layers), rows, features, generator=generator)
    return Activations(values, tuple(layers), tuple(f"row-{i}" for i in range(rows)), reading)


def task(kind="classification", labels=("no", "yes"), **splits):
    default = torch.tensor([0, 1, 0, 1])
    pairs = {split: (activations(4), default) for split in ("train", "validation", "test")}
    return TaskData(task="sst2", kind=kind, labels=labels, **{**pairs, **splits})


def test_a_task_has_the_layers_reading_and_widths_of_its_training_rows():
    data = task()
    assert (data.layers, data.reading, data.in_features, data.num_classes) == ((0, 1, "final"), READING, 4, 2)
    numbers = torch.arange(4.0)
    pairs = {split: (activations(4), numbers) for split in ("train", "validation", "test")}
    assert task("regression", (), **pairs).num_classes == 1


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_activation_that_is_not_finite_is_an_error_that_names_layer_and_rows(split, bad):
    broken = activations(4)
    broken.values[2, 1, 3] = bad
    broken.values[2, 3, 0] = bad
    with pytest.raises(ValueError, match=rf"layer final are NaN or infinite in 2 {split} rows \(row-1, row-3\)"):
        task(**{split: (broken, torch.tensor([0, 1, 0, 1]))})


def test_finite_activations_whose_sum_overflows_are_no_error():
    huge = activations(4)
    huge.values[:] = 3e38
    task(train=(huge, torch.tensor([0, 1, 0, 1])))


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"test": (activations(4), torch.tensor([0, 1, 2, 1]))}, r"target 2 of test row 'row-2'.*0 \(no\), 1 \(yes\)"),
        ({"train": (activations(4), torch.tensor([0, -1, 0, 1]))}, r"target -1 of train row 'row-1'"),
        ({"train": (activations(4), torch.tensor([0, 0, 0, 0]))}, r"of 'yes'; its labels are 'no', 'yes'"),
        ({"test": (activations(3), torch.tensor([0, 1, 0, 1]))}, r"test expects targets of shape \(3,\); got \(4,\)"),
        ({"test": (activations(0), torch.zeros(0).long())}, "has no test rows"),
        ({"test": (activations(4, layers=(0, 1)), torch.tensor([0, 1, 0, 1]))}, "reading and width of test differ"),
        ({"test": (activations(4, features=5), torch.tensor([0, 1, 0, 1]))}, "reading and width of test differ"),
    ],
)  # fmt: skip
def test_splits_that_do_not_match_are_an_error(splits, message):
    with pytest.raises(ValueError, match=message):
        task(**splits)


def test_a_task_with_one_class_is_an_error():
    pairs = {split: (activations(4), torch.zeros(4).long()) for split in ("train", "validation", "test")}
    with pytest.raises(ValueError, match="has 1 class; a probe expects at least 2"):
        task(labels=("only",), **pairs)


def test_a_label_of_every_row_and_equal_targets_are_errors():
    always = torch.tensor([[1, 0], [1, 1], [1, 0], [1, 1]])
    pairs = {split: (activations(4), always) for split in ("train", "validation", "test")}
    with pytest.raises(ValueError, match="only training rows of 'a'"):
        task("multilabel", ("a", "b"), **pairs)
    pairs = {split: (activations(4), torch.full((4,), 2.5)) for split in ("train", "validation", "test")}
    with pytest.raises(ValueError, match=r"all training targets are 2\.5"):
        task("regression", (), **pairs)


def test_a_generation_task_is_an_error():
    with pytest.raises(ValueError, match="is of kind 'generation'"):
        task("generation")


def test_validation_may_be_empty():
    assert len(task(validation=(activations(0), torch.zeros(0).long())).validation.targets) == 0
