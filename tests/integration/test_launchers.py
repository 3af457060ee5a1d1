"""Sweeps on the launchers of others: each writes the job table that the launcher of Hydra's own writes."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

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
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert not [words for words in commands if b"raylet" in words and str(tmp_path).encode() in words]
