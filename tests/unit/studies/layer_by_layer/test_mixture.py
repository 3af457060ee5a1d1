from __future__ import annotations

from dataclasses import replace

import pytest

from probes.studies.layer_by_layer.mixture import mixture_examples, refuse_contradictions, task_examples
from probes.tasks import Split, Suite, Task
from probes.tuning import TuningExamples


def rows(name: str, split: str, number: int) -> Split:
    prompts = tuple(f"{name} {split} {i}:" for i in range(number))
    return Split(prompts, (None,) * number, tuple(f"answer to {prompt}" for prompt in prompts))


def task(name: str, cluster: str, train: int, *, unseen: bool = False) -> Task:
    sizes = {"train": train, "validation": 3, "test": 4}
    splits = {split: rows(name, split, number) for split, number in sizes.items()}
    return Task(name, "generation", (), splits, cluster, unseen)


SUITE = Suite("s", (task("a", "x", 30), task("b", "y", 8), task("c", "x", 20), task("d", "", 12), task("e", "", 11)))


def mixed(suite: Suite = SUITE, *, rows_per_cluster: int = 12, seed: int = 0) -> dict[str, TuningExamples]:
    return mixture_examples(suite, rows_per_cluster=rows_per_cluster, seed=seed)


def counts(examples: TuningExamples) -> dict[str, int]:
    names = [prompt.split()[0] for prompt in examples.prompts]
    return {name: names.count(name) for name in dict.fromkeys(names)}


def test_a_cluster_gives_no_more_rows_than_its_share_and_small_ones_give_all():
    found = counts(mixed()["train"])
    assert found["a"] + found["c"] == 12
    assert min(found["a"], found["c"]) > 0
    assert (found["b"], found["d"], found["e"]) == (8, 12, 11)
    assert counts(mixed(rows_per_cluster=1000)["train"]) == {"a": 30, "c": 20, "b": 8, "d": 12, "e": 11}


def test_tasks_without_a_cluster_are_no_cluster_together():
    found = counts(mixed(rows_per_cluster=5)["train"])
    assert (found["d"], found["e"]) == (5, 5)


def test_a_drawn_row_keeps_its_answer_and_is_drawn_once():
    for split in mixed().values():
        assert split.targets == tuple(f"answer to {prompt}" for prompt in split.prompts)
        assert len(set(split.prompts)) == len(split)


def test_unseen_tasks_are_in_no_split_of_the_mixture():
    hidden = Suite("s", tuple(replace(own, unseen=own.name in {"a", "d"}) for own in SUITE.tasks))
    for split in ("train", "validation", "test"):
        assert set(counts(mixed(hidden)[split])) == {"b", "c", "e"}
        assert set(counts(mixed()[split])) == set("abcde")


def test_validation_and_test_rows_are_not_drawn_from():
    found = mixed(rows_per_cluster=1)
    assert counts(found["validation"]) == dict.fromkeys("abcde", 3)
    assert counts(found["test"]) == dict.fromkeys("abcde", 4)


def test_the_draw_is_decided_by_the_seed_and_by_no_other_cluster():
    assert mixed() == mixed()
    assert mixed(seed=1)["train"] != mixed(seed=0)["train"]
    alone = mixed(Suite("s", (SUITE.tasks[0], SUITE.tasks[2])))["train"].prompts
    assert [p for p in mixed()["train"].prompts if p[0] in "ac"] == list(alone)


def test_every_row_of_a_large_cluster_can_be_drawn():
    seen = {prompt for seed in range(60) for prompt in mixed(seed=seed)["train"].prompts}
    assert len(seen) == 30 + 20 + 8 + 12 + 11


def test_a_suite_of_unseen_tasks_alone_cannot_be_mixed():
    suite = Suite("s", tuple(replace(own, unseen=True) for own in SUITE.tasks))
    with pytest.raises(ValueError, match=r"'s' has no seen task to mix: all 5.*`study\.mixture\.unseen`"):
        mixed(suite)


class TestContradictions:
    @staticmethod
    def suite(clashing: int, *, other_answer: bool = True, unseen: bool = False) -> Suite:
        """Two tasks of 100 rows, some of whose prompts are the same."""
        first, second = task("a", "x", 100), task("b", "y", 100, unseen=unseen)
        shared, own = first.splits["train"], second.splits["train"]
        targets = tuple("another" for _ in range(clashing)) if other_answer else shared.targets[:clashing]
        train = replace(
            own,
            prompts=shared.prompts[:clashing] + own.prompts[clashing:],
            targets=targets + own.targets[clashing:],
        )
        return Suite("s", (first, replace(second, splits={**second.splits, "train": train})))

    def test_seen_tasks_with_equal_prompts_and_different_answers_are_refused(self):
        with pytest.raises(
            ValueError, match=r"'a' and 'b' share 2 training prompts.*`suite\.prompt=instruction`.*`suite\.tasks`"
        ):
            refuse_contradictions(self.suite(2))

    def test_a_row_in_a_hundred_equal_answers_and_unseen_tasks_are_let_through(self):
        refuse_contradictions(self.suite(1))
        refuse_contradictions(self.suite(100, other_answer=False))
        refuse_contradictions(self.suite(100, unseen=True))

    def test_a_task_may_ask_the_same_twice(self):
        own = task("a", "x", 4)
        twice = replace(own.splits["train"], prompts=("same",) * 4)
        refuse_contradictions(Suite("s", (replace(own, splits={**own.splits, "train": twice}),)))


def test_a_tasks_examples_are_its_prompts_with_their_answers_by_split():
    found = task_examples(task("a", "x", 2))
    assert {split: len(own) for split, own in found.items()} == {"train": 2, "validation": 3, "test": 4}
    assert found["train"] == TuningExamples(
        ("a train 0:", "a train 1:"), ("answer to a train 0:", "answer to a train 1:")
    )
