from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probes.tasks import load_local_suite
from probes.tasks.checks import choose_tasks

Write = Callable[..., Path]
Rows = Callable[[str, int], list[dict[str, Any]]]


def test_an_unknown_task_is_refused_with_the_closest_name_and_all_names() -> None:
    with pytest.raises(
        ValueError, match=r"No task 'ste2'. Did you mean 'sst2'\? There are rte, sst2. Set `suite.tasks`"
    ):
        choose_tasks(["ste2"], ["rte", "sst2"])


def test_naming_a_task_twice_or_naming_no_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`suite.tasks` names rte twice"):
        choose_tasks(["rte", "rte"], ["rte", "sst2"])
    with pytest.raises(ValueError, match=r"`suite.tasks` is empty"):
        choose_tasks([], ["rte"])


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_split_is_refused_and_the_splits_with_rows_are_listed(
    write_task: Write, rows: Rows, split: str
) -> None:
    splits = {name: rows(name, 10) for name in ("train", "validation", "test") if name != split}
    with pytest.raises(ValueError, match=rf"Split '{split}' of task 'mood' is missing; splits with rows: .*validation"):
        load_local_suite(write_task(**splits))


def test_an_empty_split_is_refused(write_task: Write, rows: Rows) -> None:
    with pytest.raises(ValueError, match="Split 'validation' of task 'mood' is empty"):
        load_local_suite(write_task(train=rows("cat", 10), validation=[], test=rows("owl", 10)))


def test_an_empty_text_is_refused_with_its_row(write_task: Write, rows: Rows) -> None:
    test = rows("owl", 10)
    test[6]["inputs"] = " \n"
    with pytest.raises(ValueError, match=r"The text of task 'mood', split 'test', row 7 \(.*\) is empty"):
        load_local_suite(write_task(train=rows("cat", 20), validation=rows("dog", 4), test=test))


def test_a_single_class_is_refused(write_task: Write, rows: Rows) -> None:
    glad = {split: rows(split, 20)[1::2] for split in ("train", "validation", "test")}
    with pytest.raises(ValueError, match=r"single class in its training split: glad"):
        load_local_suite(write_task(**glad))


def test_a_class_that_train_lacks_is_refused(write_task: Write, rows: Rows) -> None:
    train = rows("cat", 20)
    train[0].update(label=2, targets="mad")
    folder = write_task(train=train, validation=rows("dog", 4), test=rows("owl", 4))
    assert load_local_suite(folder).tasks[0].labels == ("sad", "glad", "mad")
    write_task(train=[*train[2::2], {**train[0], "inputs": "?"}], test=rows("owl", 4))
    with pytest.raises(
        ValueError,
        match=r"Split 'validation' of task 'mood' has rows of class 1, which train lacks; train has sad, mad",
    ):
        load_local_suite(folder)


def test_a_class_that_train_lacks_is_refused_in_multilabel_tasks(write_task: Write) -> None:
    train = [{"inputs": f"a {i}", "label": [i % 2]} for i in range(20)]
    train[0]["label"] = [2]
    other = [{"inputs": f"b {i}", "label": [i % 2]} for i in range(4)]
    folder = write_task(train=train, validation=other, test=[{"inputs": "c", "label": [0, 1]}])
    assert load_local_suite(folder).tasks[0].splits["test"].labels == ((1, 1, 0),)
    write_task(train=[{**row, "label": [0]} for row in train[1:]] + [{**train[0], "label": [2]}])
    with pytest.raises(ValueError, match="has rows of class 1, which train lacks"):
        load_local_suite(folder)


def test_a_leak_is_counted_in_a_warning_and_refused_if_strict(
    write_task: Write, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    train, test = rows("cat", 20), rows("owl", 10)
    folder = write_task(train=train, validation=rows("dog", 4), test=[*test[:-2], *train[:2]])
    load_local_suite(folder)
    assert (
        "Leak: 2 of 10 rows in split 'test' of task 'mood' are also in 'train', for example 'cat 0 feels" in caplog.text
    )
    with pytest.raises(ValueError, match=r"Leak: 2 of 10 rows .*`suite.strict=false`"):
        load_local_suite(folder, strict=True)


def test_leaks_are_found_in_the_rendered_prompts(write_task: Write, rows: Rows) -> None:
    splits = {"train": rows("cat", 20), "validation": rows("dog", 4), "test": rows("cat", 20)}
    for split, found in splits.items():
        for row in found:
            row["options"] = f"(A) sad (B) glad, says the {split}"
    folder = write_task(**splits)
    assert len(load_local_suite(folder, strict=True, prompt="raw").tasks[0].splits["test"]) == 20
    with pytest.raises(ValueError, match="Leak: 20 of 20 rows"):
        load_local_suite(folder, strict=True, template="{text}")


def test_duplicates_are_counted_and_so_are_prompts_with_several_answers(
    write_task: Write, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    train = rows("cat", 20)
    train += [train[0], {**train[1], "label": 0, "targets": "sad"}]
    load_local_suite(write_task(train=train, validation=rows("dog", 4), test=rows("owl", 4)), strict=True)
    assert "Duplicates: 2 rows in split 'train' of task 'mood'" in caplog.text
    assert "1 prompts have several answers" in caplog.text


def test_a_declared_class_without_any_row_is_warned_of(
    write_task: Write, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_task(train=rows("cat", 20), validation=rows("dog", 4), test=rows("owl", 4))
    (folder / "suite.json").write_text('{"tasks": [{"name": "mood", "labels": ["sad", "glad", "mad"]}]}')
    load_local_suite(folder)
    assert "Task 'mood': no row has the label mad." in caplog.text
