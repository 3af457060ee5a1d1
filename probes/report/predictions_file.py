"""Predictions of a task's test rows as one compressed file of a run's folder, a few kilobytes for 31 layers."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from probes.files import replaced_file
from probes.metrics import Predictions
from probes.values import Reading

_FORMAT = "predictions/1"
_ARRAYS = ("predicted", "targets", "training_errors")
_OF_GROUPS = ("sentences", "group_numbers")
"""Arrays that only predictions for rows in groups have."""


def write_predictions(predictions: Predictions, path: Path) -> Path:
    """Write predictions as `.npz`: arrays, and a JSON text with everything else.

    Args:
        predictions: What to write.
        path: The file; an existing one is replaced.

    Returns:
        `path`.
    """
    header = {name: value for name, value in vars(predictions).items() if name not in (*_ARRAYS, *_OF_GROUPS)}
    header |= {"format": _FORMAT, "reading": vars(predictions.reading)}
    arrays = {name: getattr(predictions, name) for name in _ARRAYS}
    arrays |= {name: numbers for name in _OF_GROUPS if len(numbers := getattr(predictions, name))}
    with replaced_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, header=np.array(json.dumps(header)), allow_pickle=False, **arrays)
    return path


def read_predictions(path: Path) -> Predictions:
    """Read what `write_predictions` wrote.

    Raises:
        ValueError: The file is damaged or holds something else.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            header: dict[str, Any] = json.loads(str(file["header"]))
            arrays = {name: file[name] for name in (*_ARRAYS, *_OF_GROUPS) if name in _ARRAYS or name in file}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as predictions: {error}. Run the study again.") from error
    if header.pop("format", None) != _FORMAT:
        raise ValueError(f"{path} does not hold predictions in the format {_FORMAT}. Run the study again.")
    for name in ("labels", "layers", "row_ids"):
        header[name] = tuple(header[name])
    return Predictions(**{**header, **arrays, "reading": Reading(**header["reading"])})
