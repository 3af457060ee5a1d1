"""Labels can be mapped to common ones, groups kept out of each other's splits, and tasks divided by a column."""

from __future__ import annotations

import pytest

from probes.tasks import Split, Suite, Task, aligned, divided, load_local_suite, table_suite
from probes.tasks.groups import groups_of_rows

SPLITS = ("train", "validation", "test")


def task(name: str, labels: tuple[str, ...], rows: int = 12) -> Task:
    codes = tuple(i % len(labels) for i in range(rows))
    domains = tuple("xy"[i // 2 % 2] for i in range(rows))
    prompts, answers = tuple(f"{name} {i}" for i in range(rows)), tuple(labels[code] for code in codes)
    split = Split(prompts, codes, answers, columns={"domain": domains})
    return Task(name, "classification", labels, dict.fromkeys(SPLITS, split))


def test_labels_are_mapped_merged_and_dropped():
    suite = Suite("s", (task("mood", ("bad", "so-so", "good", "great")), task("other", ("no", "yes"))))
    align = {"mood": {"bad": "negative", "so-so": None, "good": "positive", "great": "positive"}}
    mood, other = aligned(suite, align).tasks
    assert mood.labels == ("negative", "positive")
    assert other == suite.tasks[1]
    rows = mood.splits["test"]
    assert rows.prompts == tuple(f"mood {i}" for i in range(12) if i % 4 != 1)
    assert rows.labels == tuple(int(i % 4 > 1) for i in range(12) if i % 4 != 1)
    assert rows.targets == tuple(mood.labels[label] for label in rows.labels)
    assert len(rows.columns["domain"]) == len(rows)
    assert aligned(suite, None) == suite


def test_labels_of_multi_label_tasks_are_merged_where_any_of_them_holds():
    rows = Split(("a", "b", "c"), ((1, 0, 1), (0, 1, 0), (0, 0, 1)), ("joy, fear", "anger", "fear"))
    mood = Task("mood", "multilabel", ("joy", "anger", "fear"), dict.fromkeys(SPLITS, rows))
    align = {"mood": {"joy": "positive", "anger": None, "fear": "negative"}}
    (found,) = aligned(Suite("s", (mood,)), align).tasks
    assert found.labels == ("negative", "positive")
    assert found.splits["test"].labels == ((1, 1), (0, 0), (1, 0))
    assert found.splits["test"].targets == ("negative, positive", "", "negative")
    number = Task("n", "regression", (), dict.fromkeys(SPLITS, Split(("a",), (0.5,), ("",))))
    with pytest.raises(ValueError, match="of kind regression"):
        aligned(Suite("s", (number,)), {"n": {"x": "y"}})


@pytest.mark.parametrize("labels", [("true", "false"), ("True", "False")])
def test_labels_that_yaml_reads_as_values_are_found(labels):
    align = {"claim": {True: "yes", False: "no"}}
    (found,) = aligned(Suite("s", (task("claim", labels),)), align).tasks
    assert found.labels == ("no", "yes")
    assert found.splits["test"].labels == tuple(1 - i % 2 for i in range(12))


@pytest.mark.parametrize(
    ("align", "message"),
    [
        ({"moood": {"bad": "x"}}, r"`suite\.align` names moood, which is no task of suite 's'\. It has mood"),
        ({"mood": {"sad": "x"}}, r"`suite\.align\.mood` names sad; the labels are bad, good"),
        ({"mood": {"bad": "x", "good": "x"}}, r"leaves 1 label; a task needs two"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(align, message):
    with pytest.raises(ValueError, match=message):
        aligned(Suite("s", (task("mood", ("bad", "good")),)), align)


def test_a_task_is_divided_by_the_values_of_a_column():
    parts = divided(task("mood", ("bad", "good")), "domain")
    assert [part.name for part in parts] == ["mood[x]", "mood[y]"]
    assert parts[0].splits["test"].prompts == tuple(f"mood {i}" for i in range(12) if i // 2 % 2 == 0)
    with pytest.raises(ValueError, match=r"has no column 'source' to be divided by; it has domain"):
        divided(task("mood", ("bad", "good")), "source")
    with pytest.raises(ValueError, match=r"0 of 2 values of 'domain' have rows of every class"):
        divided(task("mood", ("bad", "good", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j")), "domain")


def test_groups_of_json_lines_are_never_in_two_splits(write_task, rows, caplog):
    def with_domain(prefix: str, n: int):
        return [{**row, "domain": f"d{i % 12}"} for i, row in enumerate(rows(prefix, n))]

    folder = write_task(train=with_domain("Bo", 120), validation=with_domain("Cy", 36), test=with_domain("Al", 36))
    (found,) = load_local_suite(folder, group="domain", nuisances=["domain"]).tasks
    domains = {split: set(own.columns["domain"]) for split, own in found.splits.items()}
    assert not domains["train"] & domains["test"]
    assert not domains["train"] & domains["validation"]
    assert sum(len(own) for own in found.splits.values()) == 192
    assert len(found.splits["train"]) > 90
    several = f"have {len(domains['test'])} values of `suite.group`. Scores, their differences, transfer"
    assert several in caplog.text
    caplog.clear()
    with pytest.raises(ValueError, match=r"has no `source`, which `suite\.group` names"):
        load_local_suite(folder, group="source")
    (as_they_are,) = load_local_suite(folder, nuisances=["domain"]).tasks
    assert "values of `suite.group`" not in caplog.text
    assert set(as_they_are.splits["train"].columns["domain"]) == set(as_they_are.splits["test"].columns["domain"])


def test_rows_know_their_group_and_a_carved_validation_split_shares_none_with_train(write_task, rows):
    def with_domain(prefix: str, n: int):
        return [{**row, "domain": f"d{i % 12}"} for i, row in enumerate(rows(prefix, n))]

    folder = write_task(train=with_domain("Bo", 120), test=with_domain("Al", 36))
    (found,) = load_local_suite(folder, group="domain", nuisances=["domain"]).tasks
    groups = {split: own.groups for split, own in found.splits.items()}
    assert groups == {split: own.columns["domain"] for split, own in found.splits.items()}
    assert len(groups["validation"]) > 0
    assert not set(groups["train"]) & set(groups["validation"])
    numbers = groups_of_rows(found)
    together = list(zip(numbers["train"].tolist(), groups["train"], strict=True))
    assert len(set(together)) == len(set(groups["train"])) == len(set(numbers["train"].tolist()))
    (plain,) = load_local_suite(folder).tasks
    assert plain.splits["train"].groups == ()
    assert groups_of_rows(plain) == {}


def test_equal_texts_are_a_group_also_across_splits_and_of_two_values_of_the_group():
    train = Split(("a", "b", "c", "a"), (0, 1, 0, 1), ("",) * 4, groups=("x", "y", "z", "y"))
    validation = Split(("d", "c"), (0, 1), ("",) * 2, groups=("u", "v"))
    splits = {"train": train, "validation": validation, "test": train}
    numbers = groups_of_rows(Task("t", "classification", ("no", "yes"), splits))
    assert {split: own.tolist() for split, own in numbers.items()} == {"train": [0, 0, 1, 0], "validation": [2, 1]}


def test_labels_of_files_and_tables_can_be_aligned(write_task, rows):
    folder = write_task(train=rows("Bo", 40), test=rows("Al", 20))
    (found,) = load_local_suite(folder, align={"mood": {"sad": "yes", "glad": "no"}}).tasks
    assert found.labels == ("no", "yes")
    import pandas as pd

    frame = pd.DataFrame([{"text": f"row {i}", "label": ("a", "b", "c")[i % 3]} for i in range(60)])
    (of_table,) = table_suite(frame, align={"table": {"a": "one", "b": "two"}}).tasks
    assert of_table.labels == ("one", "two")
    assert sum(len(own) for own in of_table.splits.values()) == 40
