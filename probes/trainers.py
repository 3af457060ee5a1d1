"""Where Lightning trainers come from: the interface of the config's factories, and a default for plain Python."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

import torch.distributed as dist
from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer.connectors.signal_connector")
_SRUN_HINT = "The `srun` command is available"


class TrainerFactory(Protocol):
    """Makes a new trainer for each fit; `conf/trainer/*.yaml` are partials of `lightning.Trainer`."""

    def __call__(self, **overrides: object) -> Trainer:
        """Make a trainer with these arguments of `lightning.Trainer`, which take precedence over the factory's."""
        ...


def default_trainer(**overrides: Any) -> Trainer:
    """Make a trainer that runs on one CPU process and writes nothing to disk, as `conf/trainer/cpu.yaml` does.

    Args:
        **overrides: Arguments of `lightning.Trainer`, which take precedence.
    """
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": root_of_trainers(),
        "plugins": cluster_plugins(),
    }
    return Trainer(**{**defaults, **overrides})


def cluster_plugins() -> list[Any]:
    """Under SLURM, Lightning's description of the cluster with requeueing switched off; elsewhere nothing.

    Lightning would answer SIGUSR1 by saving a checkpoint `hpc_ckpt_1.ckpt` in the working folder, from which the next
    fit started there resumes, whatever model it trains. A study resumes by itself.
    """
    return [SLURMEnvironment(auto_requeue=False)] if _is_under_slurm() else []


@cache
def root_of_trainers() -> str | None:
    """Under SLURM, an empty folder in which Lightning finds no `hpc_ckpt_*.ckpt` of another fit; else its default."""
    if not _is_under_slurm():
        return None
    folder = tempfile.mkdtemp(prefix="probes-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def leave_process_group_at_exit() -> None:
    """Have this process leave its process group, if it is in one by then, before the interpreter ends.

    Threads of gloo that still run when the interpreter ends abort the process now and then, although its work is done,
    and its launcher then ends the other processes. Lightning does the same for NCCL alone.
    """
    atexit.register(_leave_process_group)


def _leave_process_group() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _is_under_slurm() -> bool:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_SRUN_HINT)
        return SLURMEnvironment.detect()


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's announcements of hardware, signals and stopping reasons, which each of many fits repeats.

    Lightning's warnings are still shown, except for one about torch's tree utilities that Lightning itself causes, and
    its hint to use `srun`, which every trainer gives wherever SLURM is installed.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*LeafSpec.*is deprecated")
            warnings.filterwarnings("ignore", message=_SRUN_HINT)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
