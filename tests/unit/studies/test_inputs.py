import logging

import pytest
import torch

from probes.activations import ExtractionSettings, extract
from probes.backbones import tiny_backbone
from probes.studies.inputs import read_suite
from probes.studies.probe import with_labels
from probes.tasks import Split, Suite, Task


def task(name: str, prompts: dict[str, list[str]], kind="classification") -> Task:
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
