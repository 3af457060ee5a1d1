"""Tasks of pairs of texts: read from a folder, generated, and refused where they are none."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from probes.tasks import load_local_suite, starter_suite
from probes.tasks.starter.restatements import restatements
from probes.tasks.starter.vocabulary import TOPICS, vocabulary

PAIRS = [{"first": f"A dog barks {n} times.", "second": f"{n} barks of a dog.", "label": n % 4} for n in range(20)]


def listed(folder, **entry):
    (folder / "suite.json").write_text(json.dumps({"tasks": [{"name": "sts", "kind": "pairs", **entry}]}))
    return folder


def test_pairs_are_test_rows_with_two_texts_and_a_number(write_task):
    (task,) = load_local_suite(listed(write_task("sts", test=PAIRS), cluster="similarity")).tasks
    assert (task.kind, task.cluster, set(task.splits), task.has_probes) == ("pairs", "similarity", {"test"}, False)
    rows = task.splits["test"]
    assert rows.prompts == tuple(row["first"] for row in PAIRS)
    assert rows.seconds == tuple(row["second"] for row in PAIRS)
    assert rows.labels == tuple(float(row["label"]) for row in PAIRS)


def test_fewer_pairs_are_drawn_with_their_second_texts(write_task):
    (task,) = load_local_suite(listed(write_task("sts", test=PAIRS)), max_rows=8).tasks
    rows = task.splits["test"]
    of_first = {row["first"]: (row["second"], row["label"]) for row in PAIRS}
    assert len(rows) == 8
    for first, second, label in zip(rows.prompts, rows.seconds, rows.labels, strict=True):
        assert of_first[first] == (second, label)
    assert rows.at([3]).seconds == (rows.seconds[3],)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"first": "a", "label": 1}, "row 21 .*has no text `second`; it has first, label"),
        ({"first": "a", "second": "b", "label": "much"}, "'much' of .*row 21 .*is not a finite number"),
        ({"first": "a", "second": "b", "label": True}, "True of .*row 21 .*is not a finite number"),
        ({"first": "a", "second": "  ", "label": 1}, "row 21 .*is empty"),
    ],
)
def test_a_row_that_is_no_pair_is_named(write_task, row, fault):
    with pytest.raises(ValueError, match=fault):
        load_local_suite(listed(write_task("sts", test=[*PAIRS, row])))


def test_pairs_need_test_rows(write_task):
    with pytest.raises(ValueError, match="has no test rows; splits with rows: train"):
        load_local_suite(listed(write_task("sts", train=PAIRS)))


def test_generated_statements_share_words_with_their_restatement_only():
    words = vocabulary(0, "test")
    groups = ("names", "praise_verbs", "blame_verbs", "praise_adjectives", "blame_adjectives")
    known = {word for group in groups for word in words[group]}
    known |= {word for topic in TOPICS for kind in ("things", "venues") for word in words[f"{topic}_{kind}"]}

    def slots(text: str) -> set[str]:
        return {word for word in known if f" {word} " in f" {text.rstrip('.').replace(',', '')} "}

    rows = restatements(0).rows["test"]
    assert Counter(row["label"] for row in rows) == dict.fromkeys(range(4), 100)
    for row in rows:
        assert row["first"] != row["second"]
        both = slots(row["first"]), slots(row["second"])
        assert both[0] == both[1] if row["label"] == 3 else not both[0] & both[1], row


def test_the_starter_suite_has_pairs_if_asked_and_the_same_other_tasks():
    plain, more = starter_suite(["topic"], 40), starter_suite(["topic"], 40, pairs=True)
    assert plain.tasks == more.tasks[:1]
    assert more.tasks[1].name == "restatements"
    assert len(more.tasks[1].splits["test"]) == 40
