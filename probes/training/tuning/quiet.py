"""A quiet room to tune in: warnings that ask something of the user stay, bars and routine notices go."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as hf_logging

from ..trainer import quiet_lightning


@contextmanager
def quiet_tuning() -> Iterator[None]:
    """Silence what Lightning, transformers and PEFT say of every fit, save and load; settings come back."""
    saving = logging.getLogger("lightning.pytorch.trainer.connectors.checkpoint_connector")
    level, bars = saving.level, hf_logging.is_progress_bar_enabled()
    saving.setLevel(logging.WARNING)
    hf_logging.disable_progress_bar()
    try:
        with quiet_lightning(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Unsupported layer type")  # PEFT need not know sizes of norms
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")  # PEFT asks by the old name
            yield
    finally:
        saving.setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()
