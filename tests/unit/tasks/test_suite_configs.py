from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

CONFIG_FOLDER = Path(__file__).parents[3] / "conf/suite"
CONFIGS = sorted(CONFIG_FOLDER.glob("*.yaml"))


def load(name: str, **changes: Any) -> Any:
    return OmegaConf.merge(OmegaConf.load(CONFIG_FOLDER / f"{name}.yaml"), changes)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_suite_config_has_and_explains_every_argument_of_its_target(path: Path) -> None:
    config = OmegaConf.load(path)
    target = get_object(config._target_)
    arguments = set(inspect.signature(target).parameters)
    assert set(map(str, config)) - {"_target_", "_convert_"} == arguments
    top_level = [line for line in path.read_text().splitlines() if line[:1].isalpha()]
    assert all("#" in line for line in top_level if not line.startswith(("_target_", "_convert_")))


def test_the_starter_config_generates_the_suite() -> None:
    suite = instantiate(load("starter", tasks=["tense", "topic"], max_rows={"train": 16, "test": 8}))
    assert [(task.name, len(task.splits["train"]), len(task.splits["test"])) for task in suite.tasks] == [
        ("tense", 16, 8),
        ("topic", 16, 8),
    ]


def test_the_local_config_reads_a_folder(
    write_task: Callable[..., Path], rows: Callable[[str, int], list[Mapping[str, Any]]]
) -> None:
    folder = write_task("mood", train=rows("cat", 20), validation=rows("dog", 4), test=rows("owl", 4))
    suite = instantiate(load("local", path=str(folder), prompt="raw"))
    assert suite.tasks[0].splits["test"].prompts[0] == "owl 0 feels so."


@pytest.mark.usefixtures("offline_datasets")
@pytest.mark.parametrize("name", ["glue", "ag_news", "trec"])
def test_the_hub_configs_fit_the_published_columns_and_classes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-ins with the published columns and numbers of classes, since tests do not use the network."""
    from datasets import Dataset, DatasetDict

    columns = {
        "cola": ("sentence",), "sst2": ("sentence",), "mrpc": ("sentence1", "sentence2"),
        "qqp": ("question1", "question2"),
        "stsb": ("sentence1", "sentence2"), "mnli": ("premise", "hypothesis"), "qnli": ("question", "sentence"),
        "rte": ("sentence1", "sentence2"), "wnli": ("sentence1", "sentence2"),
    }  # fmt: skip
    classes = {"fancyzhx/ag_news": 4, "CogComp/trec": 6, "mnli": 3}

    def published(path: str, config: str | None, revision: str | None) -> DatasetDict:
        label = "coarse_label" if path == "CogComp/trec" else "label"
        texts = columns.get(config or "", ("text",))
        count = classes.get(config or path, 2)

        def split(name: str) -> Dataset:
            unlabelled = name.startswith("test") and config is not None
            values = [-1 if unlabelled else i % count for i in range(60)]
            rows = {text: [f"{name} {text} {i}" for i in range(60)] for text in texts}
            return Dataset.from_dict({**rows, label: [v / 1.0 for v in values] if config == "stsb" else values})

        names = ["train", "test"] if config is None else ["train", "validation", "test"]
        if config == "mnli":
            names = ["train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched"]
        return DatasetDict({name: split(name) for name in names})

    monkeypatch.setattr("datasets.load_dataset", published)
    for prompt in ("instruction", "raw"):
        suite = instantiate(load(name, prompt=prompt))
        assert len(suite.tasks) == (9 if name == "glue" else 1)
        for task in suite.tasks:
            assert len(task.labels) == (0 if task.name == "stsb" else classes.get(task.name, len(task.labels)))
            assert [len(task.splits[split]) for split in ("train", "validation", "test")] == [48, 12, 60]


def test_importing_the_package_does_not_import_datasets_transformers_lightning_or_torch() -> None:
    heavy = ("datasets", "transformers", "lightning", "torch")
    code = f"import sys, probes.tasks; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
