"""Whatever a task is called, its files stay in the run's folder, and no two tasks share one."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from study_samples import toy_suite

from probes.activations import ExtractionSettings
from probes.analysis import LayerAnalysis
from probes.backbones import tiny_backbone
from probes.cli import CONFIG_DIR
from probes.files import file_name
from probes.report import FilesOnly, read_run
from probes.report.loggers.mlflow_logger import _allowed
from probes.run import run
from probes.studies import CompareStudy, RunContext
from probes.tasks import Suite, Task, load_local_suite
from probes.tuning.model_store import ModelFolder
from probes.values import ALL_TASKS

NAMES = (
    "../../escaped", "/tmp/escaped", "..", "C:\\escaped", "<script>alert(1)</script>", "</script>", "x" * 250,
    "x" * 300, "x" * 299 + "y", "😀", "Case", "case", "CASE", "a$b$c", "two\nlines", "[red]bold[/red]", "nul", "a\0b",
    " ", "é", "e\u0301",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_file_name_is_short_and_portable(name):
    found = file_name(name)
    assert len(f"{found}@encoder_decoder.attention.last.safetensors") < 144  # the shortest limit, of eCryptfs
    for kind in (PurePosixPath, PureWindowsPath):
        assert kind(found).name == found
        assert len(kind(found).parts) == 1
    assert found.isascii()
    assert found.isprintable()
    assert not found.startswith(".")
    assert not found.endswith((".", " "))
    assert found.partition(".")[0].lower() not in {"con", "nul", "prn", "aux", "com1", "lpt1"}
    assert ModelFolder.of(Path("cache"), name, "key").path.parent == Path("cache/adapters")


def test_plain_names_stay_as_they_are():
    for name in ("rte", "anli_r1", "definite_pronoun_resolution", "x-1.5", "x" * 80):
        assert file_name(name) == name


def test_different_names_have_different_files_also_where_case_does_not_count():
    assert len({file_name(name).lower() for name in NAMES}) == len(NAMES)
    assert file_name(file_name("Case")) != file_name("Case")
    assert file_name(file_name("Case").lower()) != file_name("Case").lower()


def test_mlflow_accepts_every_name_and_keeps_them_apart():
    from mlflow.utils.validation import _validate_metric_name

    keys = {_allowed(f"macro_f1/{name}") for name in NAMES}
    for key in keys:
        _validate_metric_name(key)
    assert len(keys) == len(NAMES)


@given(st.text(max_size=100), st.text(max_size=100))
def test_any_two_names_have_different_portable_files(one, other):
    first, second = file_name(one), file_name(other)
    assert (first.lower() == second.lower()) == (one == other)
    assert len(first) <= 80
    assert PureWindowsPath(first).name == first


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b", "a"), "has 2 tasks of the name 'a'"),
        ((ALL_TASKS,), "means all tasks together"),
        (("\udcff",), r"'\\udcff', which cannot be written as UTF-8"),
    ],
)
def test_names_that_would_be_lost_in_the_results_are_refused(names, message):
    (task, *_) = toy_suite().tasks
    with pytest.raises(ValueError, match=message):
        Suite("mine", tuple(replace(task, name=name) for name in names))


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path):
    folder = tmp_path / "suite" / "caf\udce9"  # as Python reads the byte E9 of a name that is not UTF-8
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        rows = "".join(f'{{"inputs": "{split} row {i}", "label": {i % 2}}}\n' for i in range(20))
        (folder / f"{split}.jsonl").write_text(rows)
    with pytest.raises(ValueError, match="cannot be written as UTF-8"):
        load_local_suite(tmp_path / "suite")


SUITE = """
from probes.tasks import Split, Suite, Task

NAMES = {names!r}

def rows(name, split, count):
    prompts = tuple(f"{{split}} {{NAMES.index(name)}} {{i}} {{'ab'[i % 2]}}" for i in range(count))
    return Split(prompts, tuple(i % 2 for i in range(count)), ("",) * count)

def suite(tasks=None, max_rows=None):
    sizes = {{"train": 24, "validation": 12, "test": 12}}
    tasks = [
        Task(name, "classification", ("no", "yes"), {{split: rows(name, split, n) for split, n in sizes.items()}})
        for name in NAMES
    ]
    return Suite("odd/../names", tuple(tasks))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder in which a whole run of tasks with these names has left `run/out`."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "suite_of_odd_names.py").write_text(SUITE.format(names=NAMES))
    sys.path.insert(0, str(folder))
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        overrides = [
            "experiment=quick", "logger=wandb", "logger.mode=offline", "backbone.num_layers=1", "probe.controls=0",
            "probe.bootstrap_samples=20", "probe.permutations=10", "probe.training_sets=0", "probe.penalties=[0.1]",
            "~suite", "+suite._target_=suite_of_odd_names.suite", "analysis=none",
            f"paths.cache_dir={folder / 'run/cache'}", f"paths.output_dir={folder / 'run/out'}",
        ]  # fmt: skip
        cfg = compose("train", overrides=overrides)
    run(cfg)
    sys.path.remove(str(folder))
    sys.modules.pop("suite_of_odd_names")
    return folder


def test_all_files_of_a_run_stay_in_its_folder_and_none_is_lost(finished):
    outside = {path.name for path in finished.iterdir()} - {"run", "suite_of_odd_names.py", "__pycache__"}
    assert not outside
    assert not Path("/tmp/escaped").exists()
    for folder, ending in (("probes", "safetensors"), ("predictions", "npz")):
        assert len(list((finished / "run/out" / folder).iterdir())) == len(NAMES), ending


def test_every_task_is_in_the_results_and_read_back_under_its_name(finished):
    with (finished / "run/out/results.csv").open(newline="") as file:
        assert {row["task"] for row in csv.DictReader(file)} >= set(NAMES)
    saved = read_run(finished / "run/out")
    assert [saved.probes(name).task for name in NAMES] == list(NAMES)


def test_no_name_is_markup_on_the_page(finished):
    page = (finished / "run/out/report.html").read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert "<script>alert" not in page


def test_every_matrix_between_layers_of_two_models_has_a_file_of_its_own(tmp_path):
    (first, *_) = toy_suite().tasks
    renamed = [Task(name, first.kind, first.labels, first.splits) for name in NAMES]
    context = RunContext.of(logger=FilesOnly(), seed=0, cache_dir=tmp_path / "cache", output_dir=tmp_path / "run/out")
    CompareStudy().run(
        context,
        backbone=lambda: tiny_backbone(num_layers=1),
        reference_backbone=lambda: tiny_backbone(num_layers=1, seed=1),
        suite=lambda: Suite("names", tuple(renamed)),
        extraction=ExtractionSettings(),
        analysis=LayerAnalysis(),
    )
    assert len(list((tmp_path / "run/out/layer_by_layer/cka").glob("*.csv"))) == len(NAMES)
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "run"}
    assert {matrix.task for matrix in read_run(tmp_path / "run/out").layer_by_layer} == set(NAMES)
