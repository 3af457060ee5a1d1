"""Hydra's callback: a folder of its own for each run, and what became of each job."""

from __future__ import annotations

import logging
import math
import os
import re
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, flag_override

from probes.commands.errors import explanation
from probes.runs.job_records import JobRecord, forget_records, write_record
from probes.runs.run_folder import new_numbered_folder

_log = logging.getLogger(__name__)

_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


class Command:
    """What this process has been told to do, once Hydra has composed it; there is one command in a process.

    Attributes:
        key: The config key of the folder: `hydra.run.dir` or `hydra.sweep.dir`; empty before.
        folder: The folder.
        debug: Whether all errors are shown with the place where they were raised.
        error: The exception that ended the job of a single run.
    """

    key: str = ""
    folder: str = ""
    debug: bool = False
    error: Exception | None = None


class JobFolders(Callback):
    """Makes folders named by the clock exclusively, and takes the errors of jobs from Hydra, to report them itself."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Give a single run its folder."""
        _choose_folder(config, "run")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Give a sweep its folder, and forget the jobs of an earlier start in it."""
        _choose_folder(config, "sweep")
        if is_first_process():
            forget_records(Path(Command.folder))

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Note that a sweep's job has begun."""
        _record(config, "running")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Note how a job has ended. Hydra never sees an error: a job of a sweep that failed returns NaN."""
        if job_return.status != JobStatus.FAILED:
            _record(config, "finished")
            return
        error: Exception = job_return._return_value  # the property would print a line and raise it
        job_return.status = JobStatus.COMPLETED
        job_return.return_value = math.nan
        if config.hydra.mode != RunMode.MULTIRUN:
            Command.error = error
            return
        message = explanation(error)
        _record(config, "failed", message or f"{type(error).__name__}: {error}")
        shown = error if message is None or config.get("debug") else None
        _log.error("Job %s failed: %s", config.hydra.job.num, message or error, exc_info=shown)


def override(key: str, value: str) -> str:
    """An override that sets a key to a text, in Hydra's grammar.

    >>> override("hydra.run.dir", "my runs")
    "hydra.run.dir='my runs'"
    """
    if re.fullmatch(r"[\w./@%+\-:]+", value):
        return f"{key}={value}"
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


def is_first_process() -> bool:
    """Whether this is the only process of a run, or the first of several, which alone has a folder."""
    return all(os.environ.get(name, "0") == "0" for name in _RANK_VARIABLES)


def _choose_folder(config: DictConfig, kind: str) -> None:
    """Note the folder of a run or a sweep, and where a clock names it, make one that nobody else has."""
    node, key = config.hydra[kind], f"hydra.{kind}.dir"
    if "${now:" in str(node._get_node("dir")._value()) and is_first_process():
        folder = str(new_numbered_folder(Path(node.dir)))
        with flag_override(config, ["readonly", "struct"], False), flag_override(node, "readonly", False):
            node.dir = folder
        with flag_override(config.hydra.overrides, ["readonly", "struct"], False):
            config.hydra.overrides.hydra.append(override(key, folder))  # the jobs of a sweep are composed anew
    Command.key, Command.folder, Command.debug = key, str(node.dir), bool(config.get("debug"))


def _record(config: DictConfig, state: str, error: str = "") -> None:
    hydra = config.hydra
    if hydra.mode != RunMode.MULTIRUN or not is_first_process():
        return
    number, overrides, folder = int(hydra.job.num), list(hydra.overrides.task), str(hydra.sweep.subdir)
    record = JobRecord(job=number, overrides=overrides, folder=folder, state=state, error=error)
    write_record(Path(hydra.sweep.dir), record)
