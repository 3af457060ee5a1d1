"""Where Lightning trainers come from: the interface of the config's factories, and a default for plain Python."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from lightning import Trainer


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
    }
    return Trainer(**{**defaults, **overrides})


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's announcements of hardware and stopping reasons, which each of a study's many fits repeats.

    Lightning's warnings are still shown, except for one about torch's tree utilities that Lightning itself causes.
    """
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*LeafSpec.*is deprecated")
            yield
    finally:
        logger.setLevel(level)
