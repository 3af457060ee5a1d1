from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import wandb
from report_samples import MEAN, a_matrix, best_at, results_of
from similarity_samples import a_layer_by_layer
from wandb_log import offline_run_dirs, read_offline_run

from probes.report import FilesOnly, WandbRunLogger, read_results, report_run, save_png
from probes.report.figures.layer_pairs import layer_by_layer_heatmaps
from probes.values import Layer

ROOT = Path(__file__).parents[3]
BEST = best_at({"sst2": "final", "topic": 0}) | best_at({"trec": 1}, (0, 1, "final"))
NOTES: dict[tuple[Layer, str], str] = {(0, "trec"): "constant layer"}


def two_matrices():
    values = np.random.default_rng(1).uniform(size=(4, 3))
    values[0, 1] = np.nan
    return [a_matrix(reading=MEAN), a_matrix(values=values, notes=NOTES), a_matrix("label_cka", reading=MEAN)]


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """The output folder of a complete report, and the offline W&B run read back from it."""
    folder = tmp_path_factory.mktemp("out")
    logger = WandbRunLogger(mode="offline", group="sweep", name="a run", tags=["x", "y"], notes="why", job_type="probe")
    (folder / "probes").mkdir()
    matrices = two_matrices()
    with logger.run({"seed": 0, "suite": {"tasks": ["sst2"], "name": "starter"}}, folder):
        heatmaps = report_run(
            folder,
            results=results_of(matrices[0]),
            matrices=matrices,
            best_layers=BEST,
            logger=logger,
            summary={"mean/accuracy": 0.5},
        )
    (run_dir,) = offline_run_dirs(folder)
    return SimpleNamespace(
        folder=folder, heatmaps=heatmaps, matrices=matrices, logged=read_offline_run(run_dir), logger=logger
    )


class TestReport:
    def test_every_file_is_written_and_the_heatmaps_of_the_primary_reading_come_first(self, reported):
        made = {str(path.relative_to(reported.folder)) for path in reported.folder.rglob("*.*") if path.is_file()}
        other = "accuracy@decoder.residual.last"
        assert made >= {"results.csv", "best_layers.csv", "wandb_run_id.txt"}
        with (reported.folder / "best_layers.csv").open(encoding="utf-8") as file:
            assert list(csv.reader(file)) == [
                ["task", "best_layer", "best_layers", "metric", "validation_score", "n", "level"],
                *[["sst2", "final", "final", "macro_f1", "0.8", "400", "0.95"]],
                *[["topic", "0", "0", "macro_f1", "0.8", "400", "0.95"]],
                *[["trec", "1", "0–1, final", "macro_f1", "0.8", "400", "0.95"]],
            ]
        assert {name for name in made if name.startswith("layer_by_task")} == {
            *("layer_by_task/accuracy.csv", "layer_by_task/label_cka.csv", f"layer_by_task/{other}.csv")
        }
        pictures = ["accuracy.png", "label_cka.png", f"{other}.png"]
        assert reported.heatmaps == [reported.folder / "figures" / name for name in pictures]
        profiles = {"figures/accuracy_profiles.png", "figures/label_cka_profiles.png"}
        assert {name for name in made if name.startswith("figures")} == {f"figures/{p}" for p in pictures} | profiles
        assert read_results(reported.folder / "results.csv") == results_of(reported.matrices[0])

    def test_two_quantities_with_the_same_file_name_are_refused(self, tmp_path):
        clash = [a_matrix("cka/base"), a_matrix("cka_base")]
        with pytest.raises(ValueError, match=r"'cka/base' and 'cka_base' .* would both be cka_base\.csv"):
            report_run(tmp_path, results=[], matrices=clash, best_layers={}, logger=FilesOnly())
        assert not list(tmp_path.iterdir())


class TestOfflineRun:
    def test_it_has_the_config_and_the_names_of_the_run(self, reported):
        run = reported.logged
        assert run["config"]["seed"] == 0
        assert run["config"]["suite"] == {"tasks": ["sst2"], "name": "starter"}
        assert (run["project"], run["group"], run["name"], run["notes"]) == ("probes", "sweep", "a run", "why")
        assert (run["tags"], run["job_type"], run["exit_code"]) == (("x", "y"), "probe", 0)

    def test_its_id_is_kept_for_resuming(self, reported):
        assert (reported.folder / "wandb_run_id.txt").read_text().strip() == reported.logged["run_id"]
        assert reported.logger.run_id == reported.logged["run_id"]

    def test_it_has_one_table_per_quantity_with_the_same_numbers(self, reported):
        names = ["probe/accuracy", "probe/accuracy@decoder.residual.last", "label_cka"]
        assert set(reported.logged["tables"]) == {f"layer_by_task/{name}" for name in names}
        for name, matrix in zip(names, reported.matrices, strict=True):
            table = reported.logged["tables"][f"layer_by_task/{name}"]
            columns = ["layer", "task", "value", "ci_low", "ci_high", "null_mean", "p", "p_cell", "note"]
            assert table["columns"] == columns
            assert len(table["data"]) == matrix.values.size
            for layer, task, value, low, high, null, p, p_cell, note in table["data"]:
                cell = [str(name) for name in matrix.layers].index(layer), matrix.tasks.index(task)
                numbers = {"values": value, "ci_low": low, "ci_high": high, "null_mean": null, "p": p, "p_cell": p_cell}
                for array, number in numbers.items():
                    expected = getattr(matrix, array)[cell]
                    assert number == expected or (number is None and np.isnan(expected))
                assert note == matrix.notes.get((matrix.layers[cell[0]], task), "")

    def test_it_has_one_heatmap_per_quantity_identical_to_the_file(self, reported):
        names = ["probe/accuracy", "label_cka", "probe/accuracy@decoder.residual.last"]
        assert set(reported.logged["images"]) == {f"heatmap/{name}" for name in names}
        for name, file in zip(names, reported.heatmaps, strict=True):
            assert reported.logged["images"][f"heatmap/{name}"].read_bytes() == file.read_bytes()

    def test_its_summary_has_the_best_layers_and_what_is_given(self, reported):
        summary = reported.logged["summary"]
        assert {task: summary[f"best_layer/{task}"] for task in BEST} == {"sst2": "final", "trec": 1, "topic": 0}
        sets = {"sst2": "final", "trec": "0–1, final", "topic": "0"}
        assert {task: summary[f"best_layers/{task}"] for task in BEST} == sets
        assert summary["mean/accuracy"] == 0.5

    def test_it_has_an_artifact_only_if_the_config_says_so(self, reported, tmp_path):
        def uploaded(run):
            return {name: files for name, files in run["artifacts"].items() if name.startswith("probes-")}

        assert not uploaded(reported.logged)
        (tmp_path / "probes").mkdir()
        for name in ("results.csv", "probes/sst2.safetensors"):
            (tmp_path / name).write_text("1")
        logger = WandbRunLogger(mode="offline", upload_artifacts=True)
        with logger.run({}, tmp_path):
            logger.log_artifacts([tmp_path / "results.csv", tmp_path / "probes"])
        (run_dir,) = offline_run_dirs(tmp_path)
        ((name, files),) = uploaded(read_offline_run(run_dir)).items()
        assert name == f"probes-{logger.run_id}"
        assert set(files) == {"results.csv", "probes/sst2.safetensors"}


def test_a_run_with_artifacts_needs_no_home_that_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/proc/none")
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "results.csv"
    file.write_text("1")
    with pytest.raises((PermissionError, FileNotFoundError)):
        wandb.Artifact("control", type="probes").add_file(str(file))
    with WandbRunLogger(mode="offline", upload_artifacts=True).run({}, tmp_path) as logger:
        logger.log_artifacts([file])
    assert "WANDB_DATA_DIR" not in os.environ
    (run_dir,) = offline_run_dirs(tmp_path)
    assert any(name.startswith("probes-") for name in read_offline_run(run_dir)["artifacts"])


def test_layer_by_layer_matrices_are_one_table_of_all_tasks_and_one_picture(tmp_path):
    values = np.array([[0.25, np.nan, 1 / 3], [0.5, 0.75, -0.125]])
    layers: dict[str, Any] = {"x_layers": (0, "final"), "y_layers": (0, 1, "final")}
    matrices = [a_layer_by_layer(task, values=values + shift, **layers) for shift, task in enumerate(("sst2", "trec"))]
    picture = save_png(layer_by_layer_heatmaps(matrices), tmp_path / "picture.png")
    logger = WandbRunLogger(mode="offline")
    with logger.run({}, tmp_path):
        logger.log_layer_by_layer("cka", matrices, picture)
        logger.log_picture("bands/cka", picture)
    (run_dir,) = offline_run_dirs(tmp_path)
    logged = read_offline_run(run_dir)
    assert {*logged["tables"]} == {"layer_by_layer/cka"}
    table = logged["tables"]["layer_by_layer/cka"]
    assert table["columns"] == ["task", "x_layer", "y_layer", "value"]
    expected = [
        [task, str(x_layer), str(y_layer), None if np.isnan(values[i, j]) else values[i, j] + shift]
        for shift, task in enumerate(("sst2", "trec"))
        for i, x_layer in enumerate(layers["x_layers"])
        for j, y_layer in enumerate(layers["y_layers"])
    ]
    assert table["data"] == expected
    assert {*logged["images"]} == {"heatmap/layer_by_layer/cka", "bands/cka"}
    assert all(image.read_bytes() == picture.read_bytes() for image in logged["images"].values())


class TestRun:
    def test_two_jobs_in_one_process_are_two_finished_runs_of_one_group(self, tmp_path):
        for seed in (0, 1):
            with WandbRunLogger(mode="offline", group="sweep").run({"seed": seed}, tmp_path / str(seed)):
                pass
        runs = [read_offline_run(path) for path in offline_run_dirs(tmp_path)]
        assert [run["config"]["seed"] for run in runs] == [0, 1]
        assert [(run["group"], run["exit_code"]) for run in runs] == [("sweep", 0), ("sweep", 0)]
        assert runs[0]["run_id"] != runs[1]["run_id"]
        assert wandb.run is None

    def test_a_run_that_somebody_else_has_open_is_left_alone(self, tmp_path):
        theirs = wandb.init(mode="offline", dir=str(tmp_path), settings=wandb.Settings(silent=True, console="off"))
        logger = WandbRunLogger(mode="offline")
        with logger.run({"seed": 0}, tmp_path / "ours"):
            assert logger.run_id != theirs.id
        theirs.log({"still": "open"})
        theirs.finish()

    def test_an_exception_passes_through_and_marks_the_run_failed(self, tmp_path):
        with pytest.raises(KeyError, match="lost"), WandbRunLogger(mode="offline").run({}, tmp_path):
            raise KeyError("lost")
        (run_dir,) = offline_run_dirs(tmp_path)
        assert read_offline_run(run_dir)["exit_code"] == 1

    def test_a_run_with_a_given_id_is_continued(self, tmp_path):
        with WandbRunLogger(mode="offline", run_id="abc12345").run({}, tmp_path):
            pass
        (run_dir,) = offline_run_dirs(tmp_path)
        assert read_offline_run(run_dir)["run_id"] == "abc12345"

    def test_a_disabled_logger_writes_nothing(self, tmp_path):
        logger = WandbRunLogger(mode="disabled")
        with logger.run({}, tmp_path):
            logger.log_matrix(a_matrix(), tmp_path / "no.png", primary=True)
            logger.log_layer_by_layer("cka", [a_layer_by_layer()], tmp_path / "no.png")
            logger.log_picture("bands/cka", tmp_path / "no.png")
            logger.summarize({"mean/accuracy": 1.0})
            logger.log_artifacts([tmp_path])
        assert logger.run_id is None
        assert not list(tmp_path.iterdir())

    def test_an_unknown_mode_is_refused(self):
        with pytest.raises(ValueError, match=r"Unknown W&B mode 'onlin'. Set `logger.mode` to one of auto, online"):
            WandbRunLogger(mode="onlin")  # pyright: ignore[reportArgumentType]


def test_the_csv_logger_imports_neither_wandb_nor_pyplot(tmp_path):
    code = (
        "import json, pathlib, sys\n"
        "from probes.report import FilesOnly, report_run\n"
        "before = [name for name in ('wandb', 'matplotlib.pyplot') if name in sys.modules]\n"
        "logger = FilesOnly()\n"
        "with logger.run({}, pathlib.Path('out')):\n"
        "    report_run(pathlib.Path('out'), results=[], matrices=[], best_layers={}, logger=logger)\n"
        "print(json.dumps(before + [name for name in ('wandb', 'matplotlib.pyplot') if name in sys.modules]))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert json.loads(subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=environment)) == []
    assert (tmp_path / "out/results.csv").exists()


def test_where_the_run_is_is_logged_once(tmp_path, caplog):
    with caplog.at_level(logging.INFO), WandbRunLogger(mode="offline").run({}, tmp_path):
        pass
    assert [record.name for record in caplog.records if "W&B" in record.message] == [
        "probes.report.loggers.wandb_logger"
    ]
