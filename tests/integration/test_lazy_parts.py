"""Only what a study asks for is built, so that probing does not import what only tuning needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from probes.cli import CONFIG_DIR
from probes.run import run

ROOT = Path(__file__).parents[2]


def test_the_quick_experiment_imports_neither_tuning_nor_peft_nor_wandb(tmp_path):
    code = (
        "import sys\n"
        f"sys.argv = ['train.py', 'experiment=quick', 'hydra.run.dir={tmp_path}/out',\n"
        f"            'paths.cache_dir={tmp_path}/cache']\n"
        "from probes.cli import main\n"
        "main()\n"
        "loaded = [name for name in ('peft', 'probes.tuning.tuning_job', 'wandb') if name in sys.modules]\n"
        "print('LOADED', loaded, 'probes.training' in sys.modules)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.splitlines()[-1] == "LOADED [] True"


def test_a_study_that_asks_for_a_part_the_config_lacks_is_told_which_there_are(tmp_path, monkeypatch):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", overrides=["experiment=quick", f"paths.output_dir={tmp_path}"])

    def asks_too_much(self: object, context: object, *, crystal_ball: object) -> float:
        raise AssertionError

    monkeypatch.setattr("probes.studies.probe.ProbeStudy.run", asks_too_much)
    with pytest.raises(ValueError, match=r"asks for a part 'crystal_ball'\. The config has .*backbone"):
        run(cfg)
