"""Trainers for plain Python, and a quiet room for any trainer to work in."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from lightning import Trainer


class TrainerFactory(Protocol):
    """Makes a trainer for each fit; `conf/trainer/*.yaml` are partials of `lightning.Trainer`."""

    def __call__(self, **overrides: object) -> Trainer:
        """Make a trainer with these arguments over its own."""
        ...


def default_trainer(**overrides: Any) -> Trainer:
    """Make a trainer on one CPU process that writes nothing to disk, as `conf/trainer/cpu.yaml` does."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**{**quiet, **overrides})


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning from announcing hardware and stopping reasons at each of a study's many fits.

    Its warnings stay, but for one about torch's tree utilities that it causes itself.
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
