"""Real runs of `train.py`: what they leave, what they refuse, what they share."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from wandb_log import read_offline_run

from probes.cli import CONFIG_DIR
from probes.run import run
from probes.training import load_probes
from probes.values import RESULT_COLUMNS

ROOT = Path(__file__).parents[2]


def configured(tmp_path: Path, *overrides: str, experiment: str | None = "quick"):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        paths = (f"paths.cache_dir={tmp_path / 'cache'}", f"paths.output_dir={tmp_path / 'out'}")
        chosen = ["backbone=tiny", "logger=csv"] if experiment is None else [f"experiment={experiment}"]
        return compose("train", overrides=[*chosen, *paths, *overrides])


def command(*overrides: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *overrides],
        cwd=cwd,
        env=os.environ | {"PROBES_CACHE_DIR": str(cwd / "cache"), "WANDB_MODE": "offline"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run(configured(folder, "logger=wandb", "logger.mode=offline", "extraction.pooling=[last,mean]"))
    return folder


class TestWhatARunLeaves:
    def test_the_documented_files_are_there(self, finished):
        out = finished / "out"
        names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and "wandb" not in path.parts}
        assert {
            "results.csv",
            "config.yaml",
            "provenance.json",
            "layer_by_task/accuracy.csv",
            "layer_by_task/macro_f1.csv",
            "layer_by_task/selectivity.csv",
            "layer_by_task/cross_entropy_bits.csv",
            "layer_by_task/accuracy@decoder.residual.mean.csv",
            "figures/accuracy.png",
            "probes/subject_number.safetensors",
            "probes/topic.safetensors",
            "probes/topic@decoder.residual.mean.safetensors",
        } <= names

    def test_results_are_tidy_and_every_score_stands_beside_its_baselines(self, finished):
        rows = rows_of(finished / "out")
        assert tuple(rows[0]) == RESULT_COLUMNS
        assert {row["control"] for row in rows} >= {"", "shuffled_labels", "majority"}
        assert {row["split"] for row in rows if row["control"] == "shuffled_labels"} >= {"train", "test"}
        tested = [r for r in rows if r["split"] == "test" and not r["control"] and r["metric"] == "macro_f1"]
        assert len(tested) == 2 * 2 * 4  # tasks, poolings, layers
        constant = [row for row in tested if row["value"] == "nan"]
        # Every sentence ends in the same token.
        assert {(row["layer"], row["pooling"]) for row in constant} == {("0", "last")}
        assert all(row["note"].startswith("constant layer") for row in constant)
        for row in (row for row in tested if row not in constant):
            assert float(row["ci_low"]) <= float(row["value"]) <= float(row["ci_high"])
            assert row["null_mean"] != ""
            assert (row["study"], row["suite"], row["seed"]) == ("probe", "starter", "0")

    def test_the_matrix_files_hold_the_numbers_of_the_results(self, finished):
        with (finished / "out/layer_by_task/accuracy.csv").open() as file:
            matrix = {row["layer"]: row for row in csv.DictReader(file)}
        for row in rows_of(finished / "out"):
            chosen = (row["split"], row["control"], row["metric"], row["pooling"])
            if chosen == ("test", "", "accuracy", "last"):
                assert matrix[row["layer"]][row["task"]] == row["value"]

    def test_the_picture_is_a_picture(self, finished):
        from matplotlib.image import imread

        picture = imread(finished / "out/figures/accuracy.png")
        assert min(picture.shape[:2]) > 200
        assert picture[..., :3].std() > 0.05

    def test_provenance_tells_versions_seconds_and_passes(self, finished):
        facts = json.loads((finished / "out/provenance.json").read_text())
        assert facts["forward_passes"] > 0
        assert facts["texts"] == facts["texts_computed"] > 0
        assert {"tasks", "backbone", "activations", "probes", "report"} <= set(facts["seconds"])
        assert facts["versions"]["torch"].startswith("2.")
        assert len(facts["backbone_fingerprint"]) == 32

    def test_saved_probes_give_the_reported_accuracy_on_the_stored_activations(self, finished):
        from hydra.utils import instantiate

        from probes.activations import extract
        from probes.backbones import tiny_backbone

        cfg = configured(finished)
        (task,) = [task for task in instantiate(cfg.suite).tasks if task.name == "topic"]
        probes = load_probes(finished / "out/probes/topic.safetensors")
        rows = extract(tiny_backbone(), task.splits["test"].prompts, cache_dir=cfg.paths.cache_dir)
        right = (probes.predict(rows.values) == torch.tensor(task.splits["test"].labels)).double().mean(dim=1)
        reported = {
            row["layer"]: float(row["value"])
            for row in rows_of(finished / "out")
            if (row["task"], row["split"], row["control"], row["metric"], row["pooling"])
            == ("topic", "test", "", "accuracy", "last")
        }
        assert np.isnan(reported["0"])
        np.testing.assert_allclose([reported[layer] for layer in "123"], right[1:].numpy(), atol=1e-6)

    def test_the_offline_wandb_run_holds_config_tables_heatmaps_and_summary(self, finished):
        logged = read_offline_run(next((finished / "out").rglob("offline-run-*")))
        assert logged["config"]["seed"] == 0
        assert logged["config"]["suite"]["max_rows"] == 120
        assert any("accuracy" in name for name in logged["tables"])
        assert any("accuracy" in name for name in logged["images"])
        assert {"best_layer/topic", "best_layer/subject_number"} <= set(logged["summary"])
        assert 0 < logged["summary"]["objective"] <= 1  # what conf/wandb_sweep.yaml maximises


def test_a_second_run_does_no_forward_pass_and_gives_the_same_numbers(finished, tmp_path):
    cfg = configured(tmp_path, f"paths.cache_dir={finished / 'cache'}", "extraction.pooling=[last,mean]")
    run(cfg)
    facts = json.loads((tmp_path / "out/provenance.json").read_text())
    assert (facts["forward_passes"], facts["texts_computed"]) == (0, 0)
    assert rows_of(tmp_path / "out") == rows_of(finished / "out")


def test_another_seed_moves_the_control_and_no_data(finished, tmp_path):
    cfg = configured(tmp_path, f"paths.cache_dir={finished / 'cache'}", "seed=1", "extraction.pooling=[last,mean]")
    run(cfg)
    before, after = rows_of(finished / "out"), rows_of(tmp_path / "out")

    def training_scores(rows, control):
        chosen = ("train", control, "accuracy")
        return [row["value"] for row in rows if (row["split"], row["control"], row["metric"]) == chosen]

    assert training_scores(before, "majority") == training_scores(after, "majority") != []
    assert training_scores(before, "shuffled_labels") != training_scores(after, "shuffled_labels")
    assert json.loads((tmp_path / "out/provenance.json").read_text())["texts_computed"] == 0


def test_a_probe_class_of_the_users_own_needs_no_other_change(tmp_path):
    (tmp_path / "my_probes.py").write_text(
        "from torch import nn\n"
        "class MyProbe(nn.Module):\n"
        "    def __init__(self, in_features, num_classes):\n"
        "        super().__init__()\n"
        "        self.net = nn.Sequential(nn.LayerNorm(in_features), nn.Linear(in_features, num_classes))\n"
        "    def forward(self, x):\n"
        "        return self.net(x)\n"
    )
    done = command(
        "experiment=quick",
        "probe.architecture._target_=my_probes.MyProbe",
        "probe.max_epochs=3",
        "hydra.run.dir=out",
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert {row["task"] for row in rows_of(tmp_path / "out") if row["probe"]} == {"subject_number", "topic"}
    assert "out/figures/" in done.stdout.replace("\n", "")


def test_a_sweep_leaves_two_runs_in_one_group_and_runs_the_backbone_once(tmp_path):
    done = command("-m", "experiment=quick", "logger=wandb", "seed=0,1", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    logged = [read_offline_run(path) for path in sorted((tmp_path / "sweep").rglob("offline-run-*"))]
    assert len(logged) == 2
    assert len({run["group"] for run in logged}) == 1
    assert logged[0]["group"]
    assert sorted(run["config"]["seed"] for run in logged) == [0, 1]
    passes = [json.loads((tmp_path / f"sweep/{job}/provenance.json").read_text())["forward_passes"] for job in "01"]
    assert passes[0] > 0
    assert passes[1] == 0


def test_help_loads_neither_torch_nor_transformers(tmp_path):
    code = (
        "import runpy, sys\n"
        "sys.argv = ['train.py', '--help']\n"
        "try: runpy.run_path(r'{}', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {{'torch', 'transformers', 'lightning', 'wandb', 'matplotlib', 'datasets'}} & set(sys.modules)\n"
        "sys.exit(f'loaded {{heavy}}' if heavy else 0)\n"
    ).format(ROOT / "train.py")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "backbone" in done.stdout


def test_a_typo_ends_the_command_before_anything_is_loaded(tmp_path):
    done = command("sead=1", cwd=tmp_path)
    assert done.returncode == 1
    assert "Did you mean `seed`?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "outputs").exists()


def suite_folder(tmp_path: Path, text: str = "{}") -> Path:
    folder = tmp_path / "suite"
    for task, kind in [("color", "label"), ("story", "none")]:
        (folder / task).mkdir(parents=True)
        for split, size in [("train", 60), ("validation", 30), ("test", 30)]:
            rows = []
            for i in range(size):
                content = text.format(f"{split} {i} {'red' if i % 2 else 'blue'}")
                answer = ("red" if i % 2 else "blue") if kind == "label" else f"once upon {split} {i}"
                rows.append(json.dumps({"inputs": content, "targets": answer}))
            (folder / task / f"{split}.jsonl").write_text("\n".join(rows))
    return folder


def test_a_local_suite_without_suite_json_is_probed_and_generation_tasks_are_named(tmp_path, caplog):
    cfg = configured(tmp_path, "suite=local", f"suite.path={suite_folder(tmp_path)}", experiment=None)
    with caplog.at_level("INFO"):
        objective = run(cfg)
    assert objective == pytest.approx(1.0, abs=0.05)  # the last byte gives the color away
    assert "1 tasks have no labels and are not probed: story" in caplog.text


def test_a_constant_layer_is_a_marked_cell_and_no_error(tmp_path):
    folder = suite_folder(tmp_path, "{}. True or false?")
    run(configured(tmp_path, "suite=local", f"suite.path={folder}", experiment=None))
    tested = [
        r for r in rows_of(tmp_path / "out") if r["split"] == "test" and r["metric"] == "accuracy" and not r["control"]
    ]
    cells = {r["layer"]: r for r in tested if r["layer"]}
    assert cells["0"]["value"] in {"", "nan"}
    assert "constant" in cells["0"]["note"]
    assert float(cells["2"]["value"]) > 0.4


def test_a_suite_of_nothing_but_generation_is_refused_before_the_backbone_is_loaded(tmp_path):
    folder = suite_folder(tmp_path)
    missing = ("backbone=hub", "backbone.name=no/such-model")
    local = ("suite=local", f"suite.path={folder}", "suite.tasks=[story]")
    cfg = configured(tmp_path, *missing, *local, experiment=None)
    with pytest.raises(ValueError, match=r"has no task with labels: story.*`suite\.tasks`"):
        run(cfg)


@pytest.mark.slow
def test_two_processes_leave_one_run_with_the_numbers_of_one_process(tmp_path):
    overrides = ("experiment=quick", "logger=wandb", "suite.tasks=[topic]", "hydra.run.dir=out")
    processes = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    done = command(*overrides, *processes, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Test scores at the best layer") == 1
    assert len(list(tmp_path.rglob("offline-run-*"))) == 1
    run(configured(tmp_path, "suite.tasks=[topic]", f"paths.output_dir={tmp_path / 'alone'}"))
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "alone")
