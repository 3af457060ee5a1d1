"""Sweeps on the launchers of others: each writes the job table that the launcher of Hydra's own writes."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hydra_plugins.probes_plugins.ray_launcher import RayLauncher
from probes.runs.job_records import JobRecord, read_records, write_record

ROOT = Path(__file__).parents[2]
SWEEP = ("-m", "experiment=quick", "suite.tasks=[topic]", "analysis=none", "logger=csv", "hydra.sweep.dir=sweep")
LAUNCHERS = {  # joblib is tested in test_submit.py
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", ()),
    "ray": ("ray", ("hydra.launcher.total_cpus=2",)),
}


def swept(cwd: Path, *words: str) -> list[dict[str, str]]:
    """The job table of a sweep over two layers, of which one does not exist."""
    environment = os.environ | {"PROBES_CACHE_DIR": str(cwd / "cache")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *SWEEP, "backbone.layers=[1],[9]", *words], cwd=cwd,
        env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    with (cwd / "sweep/jobs.csv").open() as file:
        return [{key: row[key] for key in row if key not in {"started", "ended"}} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def basic(tmp_path_factory) -> list[dict[str, str]]:
    return swept(tmp_path_factory.mktemp("basic"))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_job_table_is_that_of_the_basic_launcher(tmp_path, basic, launcher):
    package, words = LAUNCHERS[launcher]
    if find_spec(package) is None:
        pytest.skip(f"`hydra/launcher={launcher}` needs the package {package}")
    found = swept(tmp_path, f"hydra/launcher={launcher}", *words)
    assert [job["state"] for job in found] == ["finished", "failed"]
    assert found == basic
    deadline = time.monotonic() + 30
    while left := processes_with(f"PROBES_CACHE_DIR={tmp_path}/cache"):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def processes_with(variable: str) -> list[str]:
    """Commands of the processes that have inherited an environment variable, such as the daemons of a cluster."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{variable}\0".encode() in (place / "environ").read_bytes():
                found.append((place / "cmdline").read_bytes().decode(errors="replace"))
    return found


def test_a_process_that_has_inherited_a_variable_is_found():
    waiting = subprocess.Popen(["sleep", "60"], env=os.environ | {"PROBES_CACHE_DIR": "/of/this/test"})
    assert len(processes_with("PROBES_CACHE_DIR=/of/this/test")) == 1
    waiting.kill()
    waiting.wait()
    assert processes_with("PROBES_CACHE_DIR=/of/this/test") == []


def test_a_job_whose_worker_of_ray_was_killed_has_failed_and_the_others_are_waited_for(tmp_path):
    errors = pytest.importorskip("ray.exceptions")
    launcher = RayLauncher()
    launcher.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    for job in (0, 1):
        write_record(tmp_path, JobRecord(job=job, overrides=["a=1"], folder=str(job), state="running"))

    def killed():
        raise errors.WorkerCrashedError

    outcome = launcher._outcome(killed, 1, ["a=1"])
    assert math.isnan(outcome.return_value)
    other, of_killed = read_records(tmp_path)
    assert (other.state, of_killed.state) == ("running", "failed")
    assert of_killed.error.startswith("WorkerCrashedError: ")
    assert launcher._outcome(lambda: outcome, 0, []) is outcome
