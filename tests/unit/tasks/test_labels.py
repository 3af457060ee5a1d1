from __future__ import annotations

from typing import Any

import pytest

from probes.tasks.labels import classes_of_targets, encode_labels
from probes.tasks.task import RawTask


def raw_task(train: list[Any], test: list[Any] | None = None, field: str = "label", **settings: Any) -> RawTask:
    def rows(values: list[Any]) -> list[dict[str, Any]]:
        return [{"text": f"row {i}", field: value} for i, value in enumerate(values)]

    return RawTask(name="t", rows={"train": rows(train), "test": rows(train if test is None else test)}, **settings)


def test_class_names_become_indices_in_alphabetical_order() -> None:
    found = encode_labels(raw_task(["b", "a", "b"]))
    assert (found.kind, found.class_names, found.labels["train"]) == ("classification", ("a", "b"), [1, 0, 1])
    assert found.targets["train"] == ["b", "a", "b"]


def test_declared_labels_decide_the_order() -> None:
    assert encode_labels(raw_task(["b", "a"], labels=("b", "a"))).labels["train"] == [0, 1]


def test_class_indices_are_named_by_their_answers() -> None:
    rows = [{"label": 1, "targets": "glad"}, {"label": 0, "targets": "sad"}]
    assert encode_labels(RawTask(name="t", rows={"train": rows})).class_names == ("sad", "glad")


def test_class_indices_with_several_answers_are_named_by_their_number() -> None:
    rows = [{"label": 1, "targets": "glad"}, {"label": 1, "targets": "happy"}, {"label": 0, "targets": "sad"}]
    assert encode_labels(RawTask(name="t", rows={"train": rows})).class_names == ("0", "1")


def test_booleans_are_two_classes() -> None:
    found = encode_labels(raw_task([True, False]))
    assert (found.class_names, found.labels["train"]) == (("false", "true"), [1, 0])


def test_floats_are_regression() -> None:
    found = encode_labels(raw_task([0.5, 2.0]))
    assert (found.kind, found.class_names, found.labels["train"]) == ("regression", (), [0.5, 2.0])


def test_declared_regression_accepts_integers_too() -> None:
    assert encode_labels(raw_task([1, 2.5], kind="regression")).labels["train"] == [1.0, 2.5]


@pytest.mark.parametrize(
    ("values", "names"),
    [([["b", "a"], [], ["b"]], ("a", "b")), ([[1, 0], [], [1]], ("0", "1"))],
    ids=["names", "indices"],
)
def test_lists_of_classes_are_multilabel(values: list[Any], names: tuple[str, ...]) -> None:
    found = encode_labels(raw_task(values))
    assert (found.kind, found.class_names, found.labels["train"]) == ("multilabel", names, [(1, 1), (0, 0), (0, 1)])


def test_few_frequent_answers_are_classes() -> None:
    found = encode_labels(raw_task(["yes", "no"] * 10, field="targets"))
    assert (found.kind, found.class_names) == ("classification", ("no", "yes"))


@pytest.mark.parametrize(
    "answers",
    [[f"answer {i % 21}" for i in range(210)], ["yes", "no"] * 10 + ["Paris"], ["yes", "no"] * 1000 + ["Paris"] * 9],
    ids=["21 distinct", "one is given once", "one is rarer than 0.5 %"],
)
def test_many_or_rare_answers_are_generation(answers: list[str]) -> None:
    assert classes_of_targets(answers) is None
    found = encode_labels(raw_task(answers, field="targets"))
    assert (found.kind, found.class_names, set(found.labels["train"])) == ("generation", (), {None})


def test_null_labels_are_generation_even_with_few_answers() -> None:
    rows = [{"label": None, "targets": word} for word in ("yes", "no", "yes", "no")]
    assert encode_labels(RawTask(name="t", rows={"train": rows})).kind == "generation"


def test_mixed_types_are_refused_with_the_first_row_of_each() -> None:
    with pytest.raises(ValueError, match=r"mixed types: integer \(row 1\), string \(row 3\)"):
        encode_labels(raw_task([0, 1, "one"]))


@pytest.mark.parametrize("bad", ["c", 2, -1])
def test_a_label_that_is_none_of_the_classes_is_refused_with_its_row(bad: Any) -> None:
    train = ["a", "b"] if isinstance(bad, str) else [0, 1]
    with pytest.raises(ValueError, match=r"split 'test', row 2 .*none of the task's classes"):
        encode_labels(raw_task(train, [train[0], bad]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "much", True])
def test_a_label_that_is_not_a_finite_number_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"row 2 .*finite number"):
        encode_labels(raw_task([0.5, 1.5], [0.5, bad]))


def test_a_declared_kind_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="declared classification, but its labels are of type float"):
        encode_labels(raw_task([0.5, 1.5], kind="classification"))
    with pytest.raises(ValueError, match=r"kind 'sorting'.*classification, multilabel, regression, generation"):
        encode_labels(raw_task([0, 1], kind="sorting"))
