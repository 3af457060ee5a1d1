"""`hydra/sweeper=stages`: a layer-by-layer study as jobs, one stage after the other; `probes submit` chooses it."""

from __future__ import annotations

import logging

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from probes.commands.submit import run_stages

_log = logging.getLogger(__name__)


class StageSweeper(Sweeper):
    """Gives the jobs of a study to the launcher, stage by stage; a stage with a failed job is the last."""

    def __init__(self) -> None:
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what the jobs need, and make the launcher."""
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> list[float]:
        """Run all jobs of the study that these overrides describe.

        Raises:
            TypeError: They describe another study.
            ValueError: They describe a part of the study.
        """
        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, arguments)
        return run_stages(self.launcher, composed, arguments)
