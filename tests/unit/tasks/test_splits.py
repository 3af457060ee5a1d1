from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from probes.tasks.splits import capped, carve_validation, row_cap


def test_a_cap_keeps_every_class_and_its_share() -> None:
    labels = [0] * 900 + [1] * 95 + [2] * 5
    kept = capped(labels, "classification", 100, seed=0, task="t", split="train")
    assert Counter(labels[i] for i in kept) == {0: 90, 1: 9, 2: 1}


@pytest.mark.parametrize("cap", [3, 4, 10, 57, 199])
def test_a_cap_is_met_exactly_in_the_order_of_the_rows_and_without_repeats(cap: int) -> None:
    labels = [0] * 150 + [1] * 48 + [2] * 2
    kept = capped(labels, "classification", cap, seed=3, task="t", split="train")
    assert len(kept) == cap
    assert (np.diff(kept) > 0).all()
    assert {labels[i] for i in kept} == {0, 1, 2}


def test_a_cap_above_the_rows_keeps_them_all() -> None:
    assert capped([0, 1, 0], "classification", 10, seed=0, task="t", split="train").tolist() == [0, 1, 2]


def test_the_rows_drawn_depend_on_seed_and_task_only() -> None:
    labels = [i % 2 for i in range(400)]
    draw = {
        (seed, task): tuple(capped(labels, "classification", 40, seed=seed, task=task, split="train"))
        for seed in (0, 1)
        for task in ("a", "b")
    }
    np.random.seed(7)
    assert tuple(capped(labels, "classification", 40, seed=0, task="a", split="train")) == draw[0, "a"]
    assert len(set(draw.values())) == 4


def test_a_smaller_cap_keeps_a_part_of_what_a_larger_one_keeps() -> None:
    labels = [i % 4 for i in range(400)]
    small = capped(labels, "classification", 40, seed=0, task="t", split="train")
    large = capped(labels, "classification", 80, seed=0, task="t", split="train")
    assert set(small) < set(large)


def test_a_cap_keeps_a_bearer_of_every_label() -> None:
    labels = [(1, 0, 0)] * 200 + [(0, 1, 0), (0, 0, 1)]
    kept = capped(labels, "multilabel", 5, seed=0, task="t", split="train")
    assert np.array([labels[i] for i in kept]).sum(axis=0).min() == 1


def test_fewer_rows_than_classes_are_refused_in_train() -> None:
    with pytest.raises(ValueError, match=r"6 classes .* 4 rows .* `suite.max_rows`"):
        capped([i % 6 for i in range(60)], "classification", 4, seed=0, task="trec", split="train")


def test_a_cap_may_differ_by_split() -> None:
    caps = {"train": 5, "dev": 3}
    assert [row_cap(caps, split) for split in ("train", "validation", "test")] == [5, 3, None]


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, {"train": 0}, {"training": 5}])
def test_a_cap_that_is_no_whole_number_or_names_no_split_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match=r"`suite.max_rows`"):
        row_cap(bad, "train")  # pyright: ignore[reportArgumentType]


def test_carving_takes_a_fifth_of_each_class_and_keeps_equal_rows_together() -> None:
    keys = [f"row {i // 2}" for i in range(400)]
    labels = [(i // 2) % 4 == 0 for i in range(400)]
    chosen = carve_validation(keys, labels, seed=0, task="t")
    assert chosen.mean() == pytest.approx(0.2)
    assert np.array(labels)[chosen].mean() == pytest.approx(0.25)
    assert not {k for k, c in zip(keys, chosen, strict=True) if c} & {
        k for k, c in zip(keys, chosen, strict=True) if not c
    }


def test_carving_takes_at_most_a_thousand_rows() -> None:
    assert carve_validation(range(20_000), [0] * 20_000, seed=0, task="t").sum() == 1000
