"""Under SLURM, Lightning neither leaves nor finds a checkpoint of its own in the working folder."""

from __future__ import annotations

import os
import pathlib
import signal
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning import Trainer
from tuning_samples import toy_splits

from probes.backbones import tiny_backbone
from probes.cli import CONFIG_DIR
from probes.trainers import default_trainer, root_of_trainers
from probes.tuning import InstructionTuner, TuningSettings, tune

SETTINGS = TuningSettings(learning_rate=1e-2, max_steps=3, batch_size=8, rank=2, generate_rows=0)
VARIABLES = {
    "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "sweep", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "1",
}  # fmt: skip


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """A job of SLURM in whose working folder another fit has left a checkpoint."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    root_of_trainers.cache_clear()
    folder = tmp_path / "working"
    folder.mkdir()
    monkeypatch.chdir(folder)
    torch.save({"state_dict": {}}, folder / "hpc_ckpt_1.ckpt")
    yield folder
    root_of_trainers.cache_clear()


def from_config(**overrides) -> Trainer:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return instantiate(compose("train").trainer)(**overrides)


def tuned(cache, factory):
    return tune("toy", tiny_backbone(), toy_splits(24), SETTINGS, trainer=factory, seed=0, cache_dir=cache)


@pytest.mark.parametrize("factory", [default_trainer, from_config])
def test_a_tuning_does_not_resume_from_a_checkpoint_in_the_working_folder(slurm, tmp_path, factory):
    control = default_trainer(default_root_dir=str(slurm))._checkpoint_connector._hpc_resume_path
    assert str(control).endswith("hpc_ckpt_1.ckpt")  # a trainer without these settings would take it
    model = tuned(tmp_path / "slurm", factory)
    pathlib.Path(slurm / "hpc_ckpt_1.ckpt").unlink()
    for name in VARIABLES:
        os.environ.pop(name)
    root_of_trainers.cache_clear()
    assert model.tuned == tuned(tmp_path / "plain", default_trainer).tuned


@pytest.mark.parametrize("factory", [default_trainer, from_config])
def test_the_signal_before_a_time_limit_leaves_no_checkpoint_in_the_working_folder(
    slurm, tmp_path, monkeypatch, factory
):
    received, step = [], InstructionTuner.training_step
    previous = signal.signal(signal.SIGUSR1, lambda *_: received.append(1))

    def signalled(self, batch):
        os.kill(os.getpid(), signal.SIGUSR1)
        return step(self, batch)

    monkeypatch.setattr(InstructionTuner, "training_step", signalled)
    try:
        tuned(tmp_path / "cache", factory)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert len(received) == 3
    assert [path.name for path in slurm.iterdir()] == ["hpc_ckpt_1.ckpt"]


def test_outside_slurm_trainers_keep_lightnings_defaults():
    assert default_trainer().default_root_dir == str(Path.cwd())
