"""A layer-by-layer study as a graph of jobs: the files of one process, each model tuned once, and what a failure leaves."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUDY = (
    "experiment=layer_by_layer", "backbone=tiny", "logger=csv", "suite.tasks=[sentiment,tense]", "suite.max_rows=32",
    "study.mixture.unseen=[]", "study.mixture.replicate_tasks=1", "study.similarity_rows=30", "~study.similarity.pwcca",
    "~study.similarity.rsa", "study.maps.layers=0", "~analysis.between.between_share", "probe.penalties=[0.1]",
    "tuning.max_steps=3", "tuning.generate_rows=2", "tuning.max_new_tokens=2",
)  # fmt: skip
TUNED = ["mixture:0", "sentiment:0", "sentiment:1", "tense:0"]


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PROBES_CACHE_DIR": str(cwd / "cache")}
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words], cwd=cwd, env=environment, capture_output=True, text=True,
        check=False, timeout=600,
    )  # fmt: skip


def jobs(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "jobs.csv").open() as file:
        return list(csv.DictReader(file))


def tables(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.csv"))}


@pytest.fixture(scope="module")
def submitted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("submitted")
    done = command("submit", *STUDY, "hydra.sweep.dir=sweep", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
                   cwd=folder)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_jobs_leave_the_tables_of_one_process(submitted, tmp_path):
    done = command(*STUDY, "hydra.run.dir=alone", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tables(submitted / "sweep/9") == tables(tmp_path / "alone")
    assert len(tables(tmp_path / "alone")) > 3


def test_the_job_table_has_every_job_with_its_stage_and_model(submitted):
    found = jobs(submitted / "sweep")
    assert {job["state"] for job in found} == {"finished"}
    own = [[word for word in job["overrides"].split() if word not in STUDY] for job in found]
    stages = [["tune", model] for model in TUNED] + [["read", model] for model in ("base", *TUNED)]
    assert own == [[f"study.only_models=['{model}']", f"study.stop_after={stage}"] for stage, model in stages] + [[]]


def test_each_model_is_tuned_by_its_own_job_alone(submitted):
    facts = {path.parent.name: json.loads(path.read_text()) for path in (submitted / "sweep").glob("*/provenance.json")}
    tuned = {job: [not model["reused"] for model in facts[str(job)]["tuned_models"]] for job in range(10)}
    assert tuned == {job: [True] for job in range(4)} | {4: []} | {job: [False] for job in range(5, 9)} | {
        9: [False] * 4
    }
    assert facts["9"]["forward_passes"] == 0
    assert len(list((submitted / "cache/adapters").glob("*-*/tuning.json"))) == 4


def test_the_same_command_goes_on_and_computes_nothing_again(submitted):
    before = tables(submitted / "sweep")
    done = command("submit", *STUDY, "hydra.sweep.dir=sweep", cwd=submitted)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("nothing is computed again") == 10
    assert tables(submitted / "sweep").keys() == before.keys()


def test_after_a_failed_job_later_stages_wait(tmp_path):
    done = command("submit", *STUDY, "hydra.sweep.dir=sweep", "backbone.layers=[9]", cwd=tmp_path)
    assert done.returncode == 1
    assert [job["state"] for job in jobs(tmp_path / "sweep")] == ["failed"] * 4 + ["waiting"] * 6
    assert "Stage tune: 4 of 4 jobs have not finished" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment=quick"], "`probes submit` divides study=layer_by_layer into jobs"),
        ([*STUDY, "study.stop_after=tune"], "Leave both at null"),
        ([*STUDY, "seed=0,1"], "`seed=0,1` describes several"),
    ],
)
def test_what_is_no_whole_study_is_refused(tmp_path, words, message):
    done = command("submit", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
