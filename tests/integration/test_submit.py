"""A layer-by-layer study as a graph of jobs: tables of one process, each model tuned once, what a failure leaves."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from probes.cli import CONFIG_DIR
from probes.commands.submit import as_sweep, jobs_of

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
    assert [tuned[job] for job in range(4)] == [[True]] * 4
    assert [tuned[job] for job in range(4, 10)] == [[], *[[False]] * 4, [False] * 4]
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
    ("overrides", "error", "message"),
    [
        (["experiment=quick"], TypeError, "`probes submit` divides study=layer_by_layer into jobs"),
        ([*STUDY, "study.stop_after=tune"], ValueError, "Leave both at null"),
    ],
)
def test_what_is_no_whole_study_is_refused(overrides, error, message):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"), pytest.raises(error, match=message):
        jobs_of(compose("train", overrides=overrides))


def test_several_studies_at_once_are_refused():
    with pytest.raises(ValueError, match="`seed=0,1` describes several"):
        as_sweep(["experiment=layer_by_layer", "seed=0,1"])
    assert as_sweep(["seed=0"]) == ["-m", "seed=0", "hydra/sweeper=stages"]


def test_two_jobs_that_want_one_model_tune_it_once(tmp_path):
    one = "study.only_models=[tense]"
    words = ["-m", *STUDY, one, "study.stop_after=tune,read", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = command(*words, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = [json.loads((tmp_path / f"sweep/{job}/provenance.json").read_text()) for job in (0, 1)]
    assert sorted(model["reused"] for fact in facts for model in fact["tuned_models"]) == [False, True]
