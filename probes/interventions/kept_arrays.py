"""Arrays kept on disk by what decided them, so that a run that dies goes on where it was."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from probes.files import digest_of_json
from probes.kept_files import read_resume_point, write_resume_point

_log = logging.getLogger(__name__)

_FORMAT = 2
"""Part of every key; raise it when the same model, data and settings give other arrays."""


class KeptArrays:
    """Results of long computations, each in a sealed file `<digest of its key>.arrays`.

    Args:
        folder: Where they are kept.
        shared: What all keys share, such as the model's fingerprint; versions of libraries are added.
    """

    def __init__(self, folder: Path, shared: Mapping[str, Any]) -> None:
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        self.folder, self.shared = folder, {"format": _FORMAT, **versions, **shared}

    def get(self, key: Mapping[str, Any], compute: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """What is kept under a key; where nothing is, or it is damaged, it is computed, and kept if the folder allows.

        Args:
            key: Everything that decides the arrays besides what all keys share; JSON values.
            compute: Called without arguments.
        """
        digest = digest_of_json({**self.shared, **key})
        path = self.folder / f"{digest}.arrays"
        payload = read_resume_point(path, key=digest, remedy="It is computed again.")
        if payload is None:
            arrays = dict(compute())
            stream = io.BytesIO()
            np.savez(stream, allow_pickle=False, **arrays)
            try:
                write_resume_point(path, stream.getvalue(), key=digest)
            except PermissionError as error:
                _log.warning("%s. The run goes on, and would compute this again if it were resumed.", error)
            return arrays
        with np.load(io.BytesIO(payload), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
