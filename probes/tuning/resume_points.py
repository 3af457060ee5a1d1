"""How Lightning saves the state of an unfinished tuning: whole or not at all, bound to the key of the model."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from typing_extensions import override

from probes.kept_files import read_resume_point, write_resume_point


class ResumePoints(TorchCheckpointIO):
    """Reads and writes checkpoints as resume points of one model.

    A checkpoint is written beside its final place and renamed, so that a killed run leaves the old one or the new one,
    also where temporary files lie on another disk. It is read without executing any code from it.

    Args:
        key: The key of the tuned model.
    """

    def __init__(self, key: str) -> None:
        self.key = key

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint as a whole."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_resume_point(Path(path), buffer.getvalue(), key=self.key)

    @override
    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            ValueError: It is damaged, belongs to another model, or holds objects other than tensors and plain values.
        """
        payload = read_resume_point(Path(path), key=self.key, remedy="Start the run again.")
        if payload is None:
            raise ValueError(
                f"The checkpoint '{path}' was damaged after it had been found whole. It is set aside: start the run "
                "again, and the model is tuned from the beginning."
            )
        return torch.load(io.BytesIO(payload), map_location=map_location, weights_only=True)
