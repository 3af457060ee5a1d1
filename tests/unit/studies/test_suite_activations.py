from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from probes.activations import ExtractionSettings, extract
from probes.analysis import join_rows
from probes.backbones import FrozenBackbone, tiny_backbone
from probes.studies.probe import with_labels
from probes.studies.suite_activations import labels_of_test_rows, matching_test_rows, read_suite, task_data
from probes.tasks import Split, Suite, Task


def task(name: str, prompts: dict[str, list[str]], kind: Any = "classification") -> Task:
    splits = {
        split: Split(tuple(texts), tuple(i % 2 for i in range(len(texts))), ("",) * len(texts))
        for split, texts in prompts.items()
    }
    return Task(name, kind, ("no", "yes"), splits)


SHARED = {"train": ["one", "two", "three"], "test": ["four", "one"]}


def test_tasks_share_texts_and_every_row_finds_its_own_activations(tmp_path):
    suite = Suite("s", (task("a", SHARED), task("b", {"train": ["three", "five"], "test": ["two"]})))
    read = read_suite(suite, tiny_backbone(), ExtractionSettings(), tmp_path)
    assert read.report.texts_computed == 5
    (reading,) = read.layers
    rows = read.rows(suite.tasks[1], "train", reading)
    expected = extract(tiny_backbone(), ["three", "five"]).values
    torch.testing.assert_close(rows.values, expected, rtol=0, atol=1e-6)
    all_ids = [i for t in suite.tasks for split in t.splits for i in read.rows(t, split, reading).row_ids]
    assert len(set(all_ids)) == len(all_ids) == 8


def test_cut_rows_are_counted_by_task_and_said(tmp_path, caplog):
    suite = Suite("s", (task("a", {"train": ["short", "much longer"]}), task("b", {"train": ["tiny", "tidy"]})))
    with caplog.at_level(logging.WARNING):
        read = read_suite(suite, tiny_backbone(), ExtractionSettings(max_length=5), tmp_path)
    assert dict(read.num_cut) == {"a": 1, "b": 0}
    assert "Task 'a': 1 rows are longer than 5 tokens and lost their beginning, 6 tokens together." in caplog.text


def test_a_text_without_tokens_is_named_by_task_and_split(tmp_path):
    suite = Suite("s", (task("a", {"train": ["fine", ""]}),))
    with pytest.raises(ValueError, match=r"Task 'a', split 'train': 1 of 2 texts have no tokens"):
        read_suite(suite, tiny_backbone(), ExtractionSettings(), tmp_path)


def test_generation_tasks_are_left_out_and_named_once(caplog):
    suite = Suite("s", (task("a", SHARED), task("g", SHARED, kind="generation")))
    with caplog.at_level(logging.INFO):
        assert [t.name for t in with_labels(suite).tasks] == ["a"]
    assert caplog.text.count("1 tasks have no labels and are not probed: g.") == 1
    with pytest.raises(ValueError, match=r"Suite 's' has no task with labels: g\. .*`suite\.tasks`"):
        with_labels(Suite("s", suite.tasks[1:]))


def word_tokenizer():
    """One token a word, whatever its case; unknown words are all one token."""
    words = {"<unk>": 0, "<pad>": 1, "four": 2, "one": 3, "two": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


def test_row_ids_are_the_same_for_backbones_that_cut_texts_into_other_tokens(tmp_path):
    texts = ["four", "Four", "one two", "one  two", "four"]  # to the second tokenizer the first two are one text
    suite = Suite("s", (task("a", {"test": texts}),))
    bert = FrozenBackbone(tiny_model("bert"), word_tokenizer(), name="bert")
    sides = [read_suite(suite, backbone, ExtractionSettings(), tmp_path) for backbone in (tiny_backbone(), bert)]
    assert [side.report.texts_computed for side in sides] == [4, 2]
    x, y = (side.rows(suite.tasks[0], "test", next(iter(side.layers))) for side in sides)
    assert len(set(x.row_ids)) == 5
    joined = join_rows(x, y)
    assert (joined.num_dropped, joined.x.row_ids) == (0, joined.y.row_ids)
    torch.testing.assert_close(joined.y.values[:, 0], joined.y.values[:, 1])
    assert not torch.allclose(joined.x.values[-1, 0], joined.x.values[-1, 1])


def test_test_rows_of_another_backbone_are_found_by_the_place_of_the_reading(tmp_path):
    suite = Suite("s", (task("a", SHARED), task("b", SHARED)))
    settings = ExtractionSettings(pooling=["last", "max"])
    bert = FrozenBackbone(tiny_model("bert"), word_tokenizer(), name="bert")
    x, y = (read_suite(suite, backbone, settings, tmp_path) for backbone in (tiny_backbone(), bert))
    find = matching_test_rows(y, suite, like=x)
    for reading, pooling in zip(x.layers, ("last", "max"), strict=True):
        assert (find("b", reading).reading.stack, find("b", reading).reading.pooling) == ("encoder", pooling)
        assert find("b", reading).row_ids == x.rows(suite.tasks[1], "test", reading).row_ids


def test_only_the_splits_asked_for_are_read(tmp_path):
    suite = Suite("s", (task("a", SHARED),))
    read = read_suite(suite, tiny_backbone(), ExtractionSettings(), tmp_path, splits=("test",))
    assert read.report.texts_computed == 2


@pytest.mark.parametrize(
    ("kind", "labels", "expected"),
    [
        ("classification", (0, 1, 1), torch.tensor([0, 1, 1])),
        ("regression", (0, 1.5, 2), torch.tensor([0, 1.5, 2])),
        ("multilabel", ((0, 1), (1, 1), (0, 0)), torch.tensor([[0.0, 1], [1, 1], [0, 0]])),
        ("generation", (None, None, None), None),
    ],
)
def test_labels_are_what_measures_want(kind, labels, expected):
    split = Split(("a", "b", "c"), labels, ("",) * 3)
    found = labels_of_test_rows(Task("t", kind, (), {"test": split}))
    assert (found is None) == (expected is None)
    if expected is not None:
        torch.testing.assert_close(found, expected)


def test_probes_know_which_rows_have_one_text(tmp_path):
    repeated = {"train": ["one", "two", "three", "one"], "validation": ["two", "four"], "test": ["five", "six"]}
    apart = {"train": ["one", "two", "three"], "validation": ["four"], "test": ["five", "one"]}
    suite = Suite("s", (task("a", repeated), task("b", apart)))
    read = read_suite(suite, tiny_backbone(), ExtractionSettings(), tmp_path)
    (reading,) = read.layers
    groups = task_data(suite.tasks[0], read, reading).groups
    assert groups is not None
    assert {split: own.tolist() for split, own in groups.items()} == {"train": [0, 1, 2, 0], "validation": [1, 3]}
    assert task_data(suite.tasks[1], read, reading).groups is None


def test_probes_know_which_test_rows_share_a_value_of_the_group(tmp_path):
    texts = {"train": ["one", "two"], "validation": ["three", "four"], "test": ["five", "six", "seven"]}
    plain = task("a", texts)
    values = {"train": ("p", "q"), "validation": ("r", "s"), "test": ("v", "u", "v")}
    grouped = replace(plain, splits={name: replace(own, groups=values[name]) for name, own in plain.splits.items()})
    alone = replace(plain, name="b")
    read = read_suite(Suite("s", (grouped, alone)), tiny_backbone(), ExtractionSettings(), tmp_path)
    (reading,) = read.layers
    data = task_data(grouped, read, reading)
    found = data.row_groups("test")
    assert found is not None
    assert (found.name, found.number.tolist(), found.count) == ("groups", [1, 0, 1], 2)
    assert data.row_groups("validation") is None  # no two of its rows share a value
    assert task_data(alone, read, reading).row_groups("test") is None
