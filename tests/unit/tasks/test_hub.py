from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from probes.tasks import load_hub_suite

pytestmark = pytest.mark.usefixtures("offline_datasets")
SPLITS = {"train": "train", "validation": None, "test": "validation"}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A dataset in the form of GLUE: two sentences, a class index, and test labels of -1."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    for split, n in (("train", 100), ("validation", 20), ("test", 10)):
        rows = [
            {"one": f"{split} {i}", "two": f"It is {i}.", "label": -1 if split == "test" else i % 2, "degree": i / 4}
            for i in range(n)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """A folder of parquet files whose label column stores the names of its classes."""
    from datasets import ClassLabel, Dataset, Features, Value

    folder = tmp_path / "named"
    folder.mkdir()
    features = Features({"text": Value("string"), "topic": ClassLabel(names=["art", "law", "war"])})
    for split, n in (("train", 30), ("validation", 9), ("test", 9)):
        rows = {"text": [f"{split} {i}" for i in range(n)], "topic": [i % 3 for i in range(n)]}
        Dataset.from_dict(rows, features=features).to_parquet(str(folder / f"{split}.parquet"))
    return folder


def load(path: Path, **settings: Any) -> Any:
    return load_hub_suite(str(path), **{"prompt": "raw", **settings})


def test_class_names_and_splits_come_from_the_dataset(named: Path) -> None:
    suite = load(named, label="topic", max_rows={"train": 12})
    task = suite.tasks[0]
    assert (suite.name, task.name, task.kind, task.labels) == (
        "named",
        "named",
        "classification",
        ("art", "law", "war"),
    )
    assert {split: len(rows) for split, rows in task.splits.items()} == {"train": 12, "validation": 9, "test": 9}
    assert (task.splits["test"].prompts[1], task.splits["test"].labels[1], task.splits["test"].targets[1]) == (
        "test 1",
        1,
        "law",
    )


def test_splits_are_mapped_and_validation_is_carved_from_train(pairs: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = load(pairs, text="{one}\n{two}", splits=SPLITS, labels=["no", "yes"]).tasks[0]
    assert {split: len(rows) for split, rows in task.splits.items()} == {"train": 80, "validation": 20, "test": 20}
    assert task.splits["test"].prompts[3] == "validation 3\nIt is 3."
    assert task.splits["test"].targets[3] == "yes"
    assert "20 of its 100 training rows" in caplog.text


def test_definitions_make_several_tasks_from_one_dataset(pairs: Path) -> None:
    definitions = {
        "parity": {"instruction": "Is {two} odd?", "labels": ["no", "yes"], "cluster": "number"},
        "degree": {"instruction": "How much is {two}?", "label": "degree", "unseen": True},
    }
    suite = load(pairs, splits=SPLITS, definitions=definitions, prompt="instruction", name="both")
    parity, degree = suite.tasks
    assert (suite.name, parity.kind, parity.cluster, degree.kind, degree.unseen) == (
        "both",
        "classification",
        "number",
        "regression",
        True,
    )
    assert degree.splits["test"].labels[3] == 0.75
    only = load(pairs, splits=SPLITS, definitions=definitions, tasks=["degree"], prompt="instruction")
    assert [task.name for task in only.tasks] == ["degree"]
    assert only.tasks[0].splits == degree.splits


def test_a_template_takes_precedence_over_the_prompt(pairs: Path) -> None:
    assert load(pairs, splits=SPLITS, template="<{two}>").tasks[0].splits["test"].prompts[0] == "<It is 0.>"


def test_an_index_of_minus_one_is_refused_with_what_it_usually_means(pairs: Path) -> None:
    with pytest.raises(ValueError, match=r"Label -1 of .*split 'test', row 1 .*usually means unlabelled"):
        load(pairs, text="one")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"text": "sentence"}, r"`suite.text` names \{sentence\} for task 'pairs'. Its fields are one, two"),
        ({"text": "one", "label": "gold"}, r"no column 'gold' .* It has one, two, label, degree. Set `suite.label`"),
        ({"text": "one", "splits": {**SPLITS, "test": "tset"}}, r"no split 'tset' .*It has train, validation, test"),
        ({"text": "one", "splits": {"train": "train"}}, r"`suite.splits.test` of task 'pairs' is empty"),
        (
            {"text": "one", "splits": {**SPLITS, "training": "train"}},
            r"`suite.splits` of task 'pairs' has no key training. Its keys are train, val",
        ),
        ({"prompt": "instruction"}, r"'pairs' has no instruction. Set `suite.instruction`"),
        ({"prompt": "bare"}, r"No prompt 'bare'"),
        ({"definitions": {"a": {"txt": "one"}}}, r"`suite.definitions.a` has no key txt"),
        ({"text": "one", "tasks": ["pears"]}, r"No task 'pears'. Did you mean 'pairs'\?"),
        ({"text": "one", "config": "mnli"}, r"Cannot read dataset '.*', configuration 'mnli'.*`suite.config`"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:20],
)
def test_missing_columns_splits_and_keys_are_refused_with_the_key_to_set(
    pairs: Path, settings: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        load(pairs, **{"splits": SPLITS, **settings})


def test_a_dataset_that_cannot_be_found_is_refused_with_the_key_to_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No dataset '.*nowhere' found: .*`suite.path`"):
        load(tmp_path / "nowhere")
