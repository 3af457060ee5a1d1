from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probes.tasks import load_local_suite

FLAN_MINI = Path(__file__).parents[3].parent / "shared/data/flan_mini"
needs_flan_mini = pytest.mark.skipif(not FLAN_MINI.exists(), reason="needs the data set flan_mini")
Write = Callable[..., Path]
Rows = Callable[[str, int], list[dict[str, Any]]]


@pytest.fixture
def folder(write_task: Write, rows: Rows) -> Path:
    return write_task("mood", train=rows("cat", 40), validation=rows("dog", 10), test=rows("owl", 20))


def test_both_layouts_give_the_same_task(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
        (other / name).mkdir(parents=True)
        file = other / name / f"mood_10templates_{split}.jsonl"
        file.write_text((folder / "mood" / f"{split}.jsonl").read_text())
    one, two = load_local_suite(folder).tasks[0], load_local_suite(other).tasks[0]
    assert (one.name, one.kind, one.labels, one.splits) == (two.name, two.kind, two.labels, two.splits)
    assert (one.name, one.labels, {split: len(rows) for split, rows in one.splits.items()}) == (
        "mood",
        ("sad", "glad"),
        {"train": 40, "validation": 10, "test": 20},
    )


def test_suite_json_sets_the_order_names_clusters_and_unseen_marks(folder: Path, write_task: Write, rows: Rows) -> None:
    write_task("again", train=rows("ant", 40), validation=rows("bee", 10), test=rows("cow", 20))
    listed = [
        {"name": "mood", "kind": "classification", "labels": ["low", "high"], "cluster": "feeling", "unseen": True},
        {"name": "again"},
    ]
    (folder / "suite.json").write_text(json.dumps({"name": "moods", "tasks": listed}))
    suite = load_local_suite(folder)
    mood, again = suite.tasks
    assert (suite.name, mood.labels, mood.cluster, mood.unseen) == ("moods", ("low", "high"), "feeling", True)
    assert (again.name, again.labels, again.cluster, again.unseen) == ("again", ("sad", "glad"), "", False)


def test_suite_json_says_which_classes_are_in_order(folder: Path) -> None:
    def listed(**entry: object) -> None:
        (folder / "suite.json").write_text(json.dumps({"tasks": [{"name": "mood", **entry}]}))

    assert not load_local_suite(folder).tasks[0].ordered
    listed(labels=["low", "high"], ordered=True)
    assert load_local_suite(folder).tasks[0].ordered
    listed(labels=["low", "high"], kind="ordinal")
    task = load_local_suite(folder).tasks[0]
    assert (task.kind, task.ordered) == ("classification", True)
    listed(ordered=True)
    with pytest.raises(ValueError, match=r"'mood' is declared `ordered` but is without `labels`.*Add `labels` from"):
        load_local_suite(folder)
    listed(kind="generation", ordered=True)
    with pytest.raises(ValueError, match=r"'mood' is declared `ordered` but is of kind generation"):
        load_local_suite(folder)


def test_rows_without_label_are_labelled_by_their_answers(write_task: Write, rows: Rows) -> None:
    bare = {
        split: [{k: row[k] for k in ("inputs", "targets")} for row in rows(split, 20)] for split in ("train", "test")
    }
    task = load_local_suite(write_task("mood", validation=bare["train"][:4], **bare)).tasks[0]
    assert (task.kind, task.labels, task.splits["test"].labels[:3]) == ("classification", ("glad", "sad"), (1, 0, 1))


def test_a_missing_validation_split_is_carved_from_train_with_a_warning(
    write_task: Write, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    task = load_local_suite(write_task(train=rows("cat", 50), test=rows("owl", 10))).tasks[0]
    assert {split: len(found) for split, found in task.splits.items()} == {"train": 40, "validation": 10, "test": 10}
    assert not set(task.splits["train"].prompts) & set(task.splits["validation"].prompts)
    assert "10 of its 50 training rows serve as one, drawn by `suite.seed`=0" in caplog.text


def test_the_seed_decides_which_rows_are_carved_and_drawn(write_task: Write, rows: Rows) -> None:
    folder = write_task(train=rows("cat", 50), test=rows("owl", 10))
    draws = [load_local_suite(folder, seed=seed, max_rows=8).tasks[0].splits["train"].prompts for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_a_generation_task_stays_in_the_suite(write_task: Write) -> None:
    rows = {
        split: [{"inputs": f"{split} {i}", "targets": f"{i}", "label": None} for i in range(30)]
        for split in ("train", "test")
    }
    task = load_local_suite(
        write_task("sums", validation=[{"inputs": "1", "targets": "1", "label": None}], **rows)
    ).tasks[0]
    assert (task.kind, task.labels, task.splits["test"].labels[0], task.splits["test"].targets[3]) == (
        "generation",
        (),
        None,
        "3",
    )


def test_tasks_are_loaded_in_the_order_named(folder: Path, write_task: Write, rows: Rows) -> None:
    write_task("again", train=rows("ant", 40), validation=rows("bee", 10), test=rows("cow", 20))
    assert [task.name for task in load_local_suite(folder, tasks=["mood", "again"]).tasks] == ["mood", "again"]


def test_a_missing_or_empty_folder_is_refused_with_the_key_to_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No folder '.*nowhere'. Set `suite.path`"):
        load_local_suite(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has neither task/split.jsonl nor split/task.jsonl"):
        load_local_suite(tmp_path)


def test_a_listed_task_without_files_is_refused(folder: Path) -> None:
    (folder / "suite.json").write_text(json.dumps({"tasks": [{"name": "lost"}]}))
    with pytest.raises(FileNotFoundError, match=r"'lost' is listed in .*suite.json but has no files.*There are mood"):
        load_local_suite(folder)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"inputs": "a", ', r"line 41: not JSON"),
        ("[1, 2]", r"line 41: no field `targets` or `label`; the line is of type list"),
        ('{"inputs": "a"}', r"line 41: no field `targets` or `label`; the row has inputs"),
        ("", r"line 41: not JSON"),
    ],
)
def test_a_malformed_line_is_refused_and_named_by_file_and_line(folder: Path, line: str, why: str) -> None:
    with (folder / "mood/train.jsonl").open("a") as file:
        file.write(f'{line}\n{{"inputs": "b", "targets": "sad", "text": "b", "label": 0}}\n')
    with pytest.raises(ValueError, match=rf"mood/train.jsonl, {why}"):
        load_local_suite(folder)


def test_a_row_with_a_bad_label_is_named_by_file_and_row(folder: Path) -> None:
    with (folder / "mood/test.jsonl").open("a") as file:
        file.write('{"inputs": "b", "targets": "mad", "text": "b", "label": 2}\n')
    with pytest.raises(ValueError, match=r"Label 2 of task 'mood', split 'test', row 21 \(.*mood/test.jsonl"):
        load_local_suite(folder)


def test_a_file_that_is_not_utf8_is_refused(folder: Path) -> None:
    (folder / "mood/test.jsonl").write_bytes(b'{"inputs": "caf\xe9", "targets": "sad"}\n')
    with pytest.raises(ValueError, match=r"test.jsonl is not UTF-8"):
        load_local_suite(folder)


@needs_flan_mini
def test_flan_mini_has_14_tasks_with_classes_and_12_that_generate() -> None:
    kinds = [task.kind for task in load_local_suite(FLAN_MINI).tasks]
    assert (kinds.count("classification"), kinds.count("generation")) == (14, 12)


@needs_flan_mini
def test_kinds_and_labels_of_flan_mini_are_inferred_without_its_suite_json(tmp_path: Path) -> None:
    declared = load_local_suite(FLAN_MINI)
    for task in FLAN_MINI.iterdir():
        if task.is_dir():
            (tmp_path / task.name).symlink_to(task)
    inferred = {task.name: task for task in load_local_suite(tmp_path).tasks}
    for task in declared.tasks:
        assert (inferred[task.name].kind, inferred[task.name].labels) == (task.kind, task.labels)


@needs_flan_mini
def test_classes_of_flan_mini_are_inferred_from_answers_alone_in_the_layout_of_the_hub(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        (tmp_path / split).mkdir()
        for file in FLAN_MINI.glob(f"*/{split}.jsonl"):
            rows = [json.loads(line) for line in file.read_text().rstrip("\n").split("\n")]
            kept = [{"inputs": row["inputs"], "targets": row["targets"], "task": file.parent.name} for row in rows]
            text = "".join(json.dumps(row) + "\n" for row in kept)
            (tmp_path / split / f"{file.parent.name}_10templates_{split}.jsonl").write_text(text)
    found = {task.name: task for task in load_local_suite(tmp_path).tasks}
    for task in load_local_suite(FLAN_MINI).tasks:
        assert (found[task.name].kind, set(found[task.name].labels)) == (task.kind, set(task.labels))


def test_nothing_is_logged_for_a_suite_without_faults(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="probes")
    load_local_suite(folder, strict=True)
    assert caplog.text == ""
