"""`hydra/launcher=ray`: the jobs of a sweep as tasks of Ray, on this machine or on a cluster that is running."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from probes.runs.job_records import read_records, write_record

_log = logging.getLogger(__name__)


class RayLauncher(Launcher):
    """Runs each job of a sweep in a worker process of its own; Ray decides where, by the resources that it needs.

    Args:
        address: Of a running cluster, such as `auto` or `ray://host:10001`; `None` starts one on this machine, without
            a dashboard and on loopback alone, and stops it when the sweep has ended.
        cpus: Cores that a job takes.
        gpus: GPUs that a job takes.
        total_cpus: Cores of the cluster that is started; `None`: those of the machine.
        object_store_mb: Shared memory of the cluster that is started, in MB; jobs exchange files, not objects.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus: float = 1,
        gpus: float = 0,
        total_cpus: int | None = None,
        object_store_mb: int = 128,
    ) -> None:
        self.address, self.cpus, self.gpus = address, cpus, gpus
        self.total_cpus, self.object_store_mb = total_cpus, object_store_mb
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what the jobs need."""
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and wait for all of them.

        Raises:
            ImportError: Ray is not installed.
        """
        assert self.config is not None
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Drivers of GPUs are hidden from tasks that ask for none; torch is told so by an empty list as well.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError as error:
            raise ImportError("`hydra/launcher=ray` needs Ray. Install it by `pip install -e '.[ray]'`.") from error
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            _log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
        ray.init(**self._options())
        try:
            # A worker that has run one job is not used again: a run changes much of a process that Ray does not know.
            task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_calls=1, max_retries=0)(_run_one)
            place, state = (str(Path.cwd()), list(sys.path)), Singleton.get_state()
            given = (place, self.hydra_context, self.config, self.task_function, state)
            jobs = [
                task.remote(number, list(overrides), *given)
                for number, overrides in enumerate(job_overrides, start=initial_job_idx)
            ]
            numbered = enumerate(zip(jobs, job_overrides, strict=True), start=initial_job_idx)
            return [self._outcome(partial(ray.get, job), number, overrides) for number, (job, overrides) in numbered]
        finally:
            ray.shutdown()

    def _outcome(self, get: Callable[[], JobReturn], number: int, overrides: Sequence[str]) -> JobReturn:
        """What a job returned; of a job whose process was killed nothing, and its record says that it has failed."""
        from ray.exceptions import RayError

        assert self.config is not None
        try:
            return get()
        except RayError as error:
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            _log.error("Job %d has ended without a word: %s", number, reason)
            sweep = Path(self.config.hydra.sweep.dir)
            for record in read_records(sweep):
                if record.job == number:
                    write_record(sweep, replace(record, state="failed", error=reason))
            return JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED, _return_value=math.nan)

    def _options(self) -> dict[str, Any]:
        common = {"logging_level": logging.WARNING, "log_to_driver": True, "ignore_reinit_error": False}
        if self.address is not None:
            return common | {"address": self.address}
        return common | {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": self.total_cpus,
            "object_store_memory": self.object_store_mb * 10**6,
            "_node_ip_address": "127.0.0.1",
        }


def _run_one(
    number: int,
    overrides: list[str],
    place: tuple[str, list[str]],
    hydra_context: HydraContext,
    config: DictConfig,
    task_function: TaskFunction,
    singletons: dict[Any, Any],
) -> JobReturn:
    """Run one job in the folder where the command was given, which every machine of a cluster has to see."""
    folder, paths = place
    sys.path[:] = [*paths, *(path for path in sys.path if path not in paths)]
    os.chdir(folder)
    setup_globals()
    Singleton.set_state(singletons)
    job_config = hydra_context.config_loader.load_sweep_config(config, overrides)
    with open_dict(job_config):
        job_config.hydra.job.id = f"{job_config.hydra.job.name}_{number}"
        job_config.hydra.job.num = number
    HydraConfig.instance().set_config(job_config)
    return run_job(
        hydra_context=hydra_context,
        config=job_config,
        task_function=task_function,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
