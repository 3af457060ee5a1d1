"""`probes submit OVERRIDES`: a layer-by-layer study as a graph of jobs, given to any launcher of Hydra.

    probes submit experiment=layer_by_layer hydra/launcher=joblib hydra.launcher.n_jobs=2
    probes submit experiment=layer_by_layer_paper hydra/launcher=slurm --dry-run

Each model is tuned by one job, then read by one job, and a last job compares all of them. Each is a run in a folder of
the sweep; the jobs meet in the cache alone. A command that is given again goes on: jobs that have finished say so.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.utils import instantiate
from omegaconf import DictConfig

from probes.runs.job_records import JobRecord, read_records, write_record

if TYPE_CHECKING:
    from probes.studies.layer_by_layer.job_graph import StudyJob

_log = logging.getLogger(__name__)

SWEEPER = "hydra/sweeper=stages"
_SECONDS_UNTIL_SEEN = 60.0
WAITING = "waiting"
"""State of a job whose stage has not begun."""


def main(arguments: Sequence[str]) -> None:
    """Explain the command, or with `--dry-run` list the jobs and their costs; without, `probes.cli` starts a sweep."""
    parser = argparse.ArgumentParser(
        prog="probes submit", description="Run a layer-by-layer study as a graph of jobs: tune, read, compare."
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="as for a run; hydra/launcher=… chooses where"
    )
    parser.add_argument("--dry-run", action="store_true", help="list every job with its cost, and run none")
    from probes.commands.plan import main as plan

    plan([*parser.parse_args(arguments).overrides, "--dry-run"])


def as_sweep(arguments: Sequence[str]) -> list[str]:
    """The arguments of `probes submit` as those of a sweep.

    Raises:
        ValueError: An override has several values, or does not parse.
    """
    words = [word for word in arguments if "=" in word and not word.startswith("--")]
    try:
        parsed = OverridesParser.create().parse_overrides(words)
    except HydraException as error:
        raise ValueError(f"An override cannot be read: {error}") from error
    several = [override.input_line for override in parsed if override.is_sweep_override()]
    if several:
        raise ValueError(
            f"`probes submit` runs one study, and `{several[0]}` describes several. Give one command for each value."
        )
    return ["-m", *arguments, SWEEPER]


def jobs_of(cfg: DictConfig) -> list[StudyJob]:
    """The jobs of the study that a config describes; the suite is loaded, for the names of its tasks.

    Raises:
        TypeError: It is no layer-by-layer study.
        ValueError: It does a part of the work only.
    """
    from probes.studies import LayerByLayerStudy
    from probes.studies.layer_by_layer.job_graph import jobs_of_study

    study = instantiate(cfg.study)
    if not isinstance(study, LayerByLayerStudy):
        raise TypeError(
            f"`probes submit` divides study=layer_by_layer into jobs; got {cfg.study._target_}. Set `study`, or give "
            "jobs of your own to a launcher: `python train.py -m probe=linear,mlp hydra/launcher=…`."
        )
    if study.only_models is not None or study.stop_after is not None:
        raise ValueError(
            "`probes submit` sets `study.only_models` and `study.stop_after` for each of its jobs. Leave both at null."
        )
    return jobs_of_study([task.name for task in instantiate(cfg.suite).tasks], study.mixture)


def run_stages(launcher: Launcher, cfg: DictConfig, arguments: Sequence[str]) -> list[float]:
    """Give the jobs of a study to a launcher, stage by stage, and note in their records which are waiting.

    Args:
        launcher: Runs the jobs of one stage.
        cfg: The study's config, with Hydra's.
        arguments: The overrides that all jobs share.

    Returns:
        What each job that was run returned.

    Raises:
        TypeError: As in `jobs_of`.
        ValueError: As in `jobs_of`.
    """
    sweep, jobs = Path(cfg.hydra.sweep.dir), jobs_of(cfg)
    words = [[*arguments, *job.overrides()] for job in jobs]
    for number, overrides in enumerate(words):
        write_record(sweep, JobRecord(job=number, overrides=overrides, folder=str(number), state=WAITING))
    objectives: list[float] = []
    for stage, numbered in groupby(enumerate(jobs), key=lambda pair: pair[1].stage):
        numbers = [number for number, _ in numbered]
        _log.info("Stage %s: %d jobs.", stage.value, len(numbers))
        returned = launcher.launch([words[number] for number in numbers], initial_job_idx=numbers[0])
        objectives += [_number(job.return_value) for job in returned]
        failed = [number for number, state in _ended(sweep, numbers).items() if state != "finished"]
        if failed:
            _log.error(
                "Stage %s: %d of %d jobs have not finished, so that later stages wait. Mend the cause and give the "
                "command again with `hydra.sweep.dir=%s`.", stage.value, len(failed), len(numbers), sweep,
            )  # fmt: skip
            break
    return objectives


def _ended(sweep: Path, numbers: Sequence[int]) -> dict[int, str]:
    """The states of jobs that have ended; a file that another machine has written may be seen only after a while."""
    deadline = time.monotonic() + _SECONDS_UNTIL_SEEN
    while True:
        states = {record.job: record.state for record in read_records(sweep) if record.job in numbers}
        if time.monotonic() > deadline or not {"running", WAITING}.intersection(states.values()):
            return states
        time.sleep(1)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
