from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from probes.tasks.splits import carve_validation, draw_rows, row_cap


def test_a_cap_preserves_the_share_of_every_class() -> None:
    labels = [0] * 900 + [1] * 95 + [2] * 5
    drawn = draw_rows(labels, "classification", 100, seed=0, task="t", split="train")
    assert Counter(labels[i] for i in drawn) == {0: 90, 1: 9, 2: 1}


@pytest.mark.parametrize("cap", [3, 4, 10, 57, 199])
def test_exactly_as_many_rows_as_the_cap_are_drawn_in_order_without_repeats(cap: int) -> None:
    labels = [0] * 150 + [1] * 48 + [2] * 2
    drawn = draw_rows(labels, "classification", cap, seed=3, task="t", split="train")
    assert len(drawn) == cap
    assert (np.diff(drawn) > 0).all()
    assert {labels[i] for i in drawn} == {0, 1, 2}


def test_a_cap_above_the_number_of_rows_draws_them_all() -> None:
    assert draw_rows([0, 1, 0], "classification", 10, seed=0, task="t", split="train").tolist() == [0, 1, 2]


def test_the_rows_drawn_depend_only_on_seed_and_task() -> None:
    labels = [i % 2 for i in range(400)]
    draws = {
        (seed, task): tuple(draw_rows(labels, "classification", 40, seed=seed, task=task, split="train"))
        for seed in (0, 1)
        for task in ("a", "b")
    }
    np.random.seed(7)
    assert tuple(draw_rows(labels, "classification", 40, seed=0, task="a", split="train")) == draws[0, "a"]
    assert len(set(draws.values())) == 4


def test_a_smaller_cap_draws_a_subset_of_what_a_larger_one_draws() -> None:
    labels = [i % 4 for i in range(400)]
    small = draw_rows(labels, "classification", 40, seed=0, task="t", split="train")
    large = draw_rows(labels, "classification", 80, seed=0, task="t", split="train")
    assert set(small) < set(large)


def test_every_class_of_a_multilabel_task_keeps_a_row() -> None:
    labels = [(1, 0, 0)] * 200 + [(0, 1, 0), (0, 0, 1)]
    drawn = draw_rows(labels, "multilabel", 5, seed=0, task="t", split="train")
    assert np.array([labels[i] for i in drawn]).sum(axis=0).min() == 1


def test_a_cap_below_the_number_of_training_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"6 classes .* 4 rows .* `suite.max_rows`"):
        draw_rows([i % 6 for i in range(60)], "classification", 4, seed=0, task="trec", split="train")


def test_each_split_can_have_its_cap() -> None:
    caps = {"train": 5, "dev": 3}
    assert [row_cap(caps, split) for split in ("train", "validation", "test")] == [5, 3, None]


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, {"train": 0}, {"training": 5}])
def test_a_cap_that_is_not_a_positive_integer_or_names_an_unknown_split_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match=r"`suite.max_rows`"):
        row_cap(bad, "train")  # pyright: ignore[reportArgumentType]


def test_carving_takes_a_fifth_of_each_class_and_keeps_equal_rows_together() -> None:
    keys = [f"row {i // 2}" for i in range(400)]
    labels = [(i // 2) % 4 == 0 for i in range(400)]
    chosen = carve_validation(keys, labels, seed=0, task="t")
    assert chosen.mean() == pytest.approx(0.2)
    assert np.array(labels)[chosen].mean() == pytest.approx(0.25)
    validation, train = (set(np.array(keys)[side]) for side in (chosen, ~chosen))
    assert not validation & train


def test_carving_takes_at_most_a_thousand_rows() -> None:
    assert carve_validation(range(20_000), [0] * 20_000, seed=0, task="t").sum() == 1000
