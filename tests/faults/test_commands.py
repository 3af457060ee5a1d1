"""Commands that are interrupted, repeated or mistaken: exit codes, the last line on the screen, and what is kept."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from probes.runs.run_folder import read_state

ROOT = Path(__file__).parents[2]
QUICK = ("experiment=quick", "suite.tasks=[topic]", "analysis=none")


def start(*overrides: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *overrides],
        cwd=cwd,
        env=os.environ | {"PROBES_CACHE_DIR": str(cwd / "cache"), "WANDB_MODE": "offline"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def command(*overrides: str, cwd: Path, **environment: str) -> tuple[int, str, str]:
    return finished(start(*overrides, cwd=cwd, **environment))


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def jobs(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "jobs.csv").open() as file:
        return list(csv.DictReader(file))


def test_an_interrupted_sweep_goes_on_by_the_command_that_it_prints(tmp_path):
    process = start("-m", *QUICK, "seed=0,1", cwd=tmp_path)
    sweep = tmp_path / "outputs/sweeps"
    while not (second := list(sweep.glob("*/*/1/run_state.json"))):
        wait_for(tmp_path, process)
        time.sleep(0.01)
    sweep = second[0].parents[1]
    process.send_signal(signal.SIGINT)
    code, _, errors = finished(process)
    assert code == 128 + signal.SIGINT, errors
    assert [job["state"] for job in jobs(sweep)] == ["finished", "interrupted"]
    (line,) = errors.splitlines()
    assert line.startswith("Interrupted by SIGINT. What is finished is kept")

    before = (sweep / "0/results.csv").stat()
    words = shlex.split(line.partition("Go on with: ")[2])
    assert words[-1] == f"hydra.sweep.dir={sweep.relative_to(tmp_path)}"
    again = subprocess.run(
        words, cwd=tmp_path, env=os.environ | {"PROBES_CACHE_DIR": str(tmp_path / "cache")}, capture_output=True,
        text=True, check=False, timeout=120,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("nothing is computed again") == 1
    assert (sweep / "0/results.csv").stat() == before
    first, second = jobs(sweep)
    assert (first["state"], second["state"]) == ("finished", "finished")
    assert float(first["ci_low"]) < float(first["score"]) < float(first["ci_high"])
    assert (first["metric"], first["error"]) == ("macro_f1", "")
    assert first["best_layers"].startswith("topic ")
    assert "seed=1" in second["overrides"]
    assert read_state(sweep / "0").objective == pytest.approx(float(first["objective"]))


def test_sigterm_ends_a_tuning_within_seconds(tmp_path):
    process = start(
        "experiment=layer_by_layer", "backbone=tiny", "logger=csv", "suite.tasks=[topic,sentiment]",
        "suite.max_rows=32", "study.mixture.unseen=[]", "study.mixture.replicate_tasks=0", "tuning.generate_rows=0",
        "tuning.max_steps=100000", "tuning.max_epochs=100000", "tuning.checkpoint_every_n_steps=1", "hydra.run.dir=out",
        cwd=tmp_path,
    )  # fmt: skip
    while not list((tmp_path / "cache/adapters").glob("**/*.ckpt")):
        wait_for(tmp_path, process)
        time.sleep(0.05)
    process.terminate()
    terminated = time.monotonic()
    code, _, errors = finished(process)
    assert code == 128 + signal.SIGTERM
    assert time.monotonic() - terminated < 10
    assert errors.startswith("Interrupted by SIGTERM. What is finished is kept")
    assert errors.count("\n") == 1
    assert read_state(tmp_path / "out").state == "interrupted"


def test_two_runs_started_at_the_same_time_have_folders_of_their_own(tmp_path):
    named = 'hydra.run.dir="outputs/${now:%Y}"'  # the same for a year, as the default is for a second
    runs = [start(*QUICK, f"seed={seed}", named, cwd=tmp_path) for seed in (0, 1)]
    for process in runs:
        code, _, errors = finished(process)
        assert code == 0, errors
    states = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/*/run_state.json")]
    assert sorted(state["overrides"][-1] for state in states) == ["seed=0", "seed=1"]


def test_a_job_that_fails_neither_stops_nor_hides_the_others(tmp_path):
    code, output, errors = command(
        "-m", *QUICK, "backbone.layers=[9],[1]", "hydra.sweep.dir=sweep", "hydra.sweeper.max_batch_size=1", cwd=tmp_path
    )
    assert code == 1
    assert errors == ""
    failed, good = jobs(tmp_path / "sweep")
    assert (failed["state"], good["state"]) == ("failed", "finished")
    assert failed["error"].startswith("Backbone 'tiny-0' has no layer 9.")
    assert output.rstrip().endswith(f"job 0 failed: {failed['error']}")
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("backbone.layers=[77]", "Backbone 'tiny-0' has no layer 77."),
        ("extraction.tokens_per_batch=0", "`extraction.tokens_per_batch` must be at least 1"),
        ("+trainer.devises=2", "Nothing reads `trainer.devises`"),
        ("hydra/launcher=none", "launcher"),
    ],
)
def test_a_mistake_ends_in_its_own_message_alone(tmp_path, mistake, message):
    code, _, errors = command(*QUICK, mistake, cwd=tmp_path)
    assert code == 1
    assert message in errors
    for noise in ("Traceback", "Error executing job", "Error in call to target", "full_key", "HYDRA_FULL_ERROR"):
        assert noise not in errors


def test_an_error_that_nobody_foresaw_and_any_under_debug_show_where_they_were_raised(tmp_path):
    (tmp_path / "mine.py").write_text("def suite(**_):\n    return {}['key']\n")
    code, _, errors = command(*QUICK, "suite._target_=mine.suite", cwd=tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert code == 1
    assert "mine.py" in errors
    assert errors.rstrip().endswith("KeyError: 'key'")
    assert "full_key" not in errors
    code, _, errors = command(*QUICK, "backbone.layers=[77]", "debug=true", cwd=tmp_path)
    assert code == 1
    assert errors.startswith("Traceback")


def test_version_names_ours_and_those_that_decide_numbers(tmp_path):
    code, output, _ = command("--version", cwd=tmp_path)
    assert code == 0
    assert [line.split()[0] for line in output.splitlines()] == ["probes", "torch", "transformers", "lightning"]
