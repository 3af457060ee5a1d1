"""What a study expects of a logger, what all loggers log, and the logger that leaves everything to the files."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from probes.files import file_name
from probes.values import LayerByLayer, LayerByTask

TABLE_COLUMNS = ("layer", "task", "value", "ci_low", "ci_high", "null_mean", "p", "p_cell", "note")
PAIR_COLUMNS = ("task", "x_layer", "y_layer", "value")

_PLAIN_PART = re.compile(r"[A-Za-z0-9_@][A-Za-z0-9_@.:\- ]{0,99}")

Cell = str | float | None


class RunLogger(Protocol):
    """Where results are logged besides files. All methods but `run` are called inside the block that `run` opens."""

    def run(self, config: Mapping[str, Any], output_dir: Path) -> AbstractContextManager[object]:
        """Open a run for one study job; leaving the block ends the run, as failed if an exception is raised."""
        ...

    def log_matrix(self, matrix: LayerByTask, heatmap: Path, *, primary: bool) -> None:
        """Log one quantity: its numbers and its heatmap; `primary` if it has the run's first reading."""
        ...

    def log_layer_by_layer(self, name: str, matrices: Sequence[LayerByLayer], picture: Path) -> None:
        """Log one quantity between the layers of two backbones: one matrix per task, and one picture of all."""
        ...

    def log_picture(self, name: str, picture: Path) -> None:
        """Log a picture that belongs to no matrix."""
        ...

    def summarize(self, scalars: Mapping[str, float | int | str]) -> None:
        """Set summary values; they replace earlier values of the same name."""
        ...

    def log_artifacts(self, paths: Iterable[Path]) -> None:
        """Offer files and folders for upload; the logger decides whether to upload them."""
        ...


class FilesOnly:
    """The logger of `logger=csv`: it logs nothing, since the output folder has everything."""

    def run(self, config: Mapping[str, Any], output_dir: Path) -> AbstractContextManager[object]:  # noqa: ARG002
        """Open nothing."""
        return nullcontext()

    def log_matrix(self, matrix: LayerByTask, heatmap: Path, *, primary: bool) -> None:
        """Do nothing."""

    def log_layer_by_layer(self, name: str, matrices: Sequence[LayerByLayer], picture: Path) -> None:
        """Do nothing."""

    def log_picture(self, name: str, picture: Path) -> None:
        """Do nothing."""

    def summarize(self, scalars: Mapping[str, float | int | str]) -> None:
        """Do nothing."""

    def log_artifacts(self, paths: Iterable[Path]) -> None:
        """Do nothing."""


def logged_name(matrix: LayerByTask, *, primary: bool) -> str:
    """The name of a quantity in a logger, with `@<reading>` if the reading is not the run's first."""
    return plain_path(matrix.quantity if primary else f"{matrix.quantity}@{matrix.reading}")


def plain_path(name: str) -> str:
    """A name that a logger makes a path of; a part of it that is no plain name becomes one.

    Example:
        >>> plain_path("macro_f1/Sentence length"), plain_path("macro_f1/../x")
        ('macro_f1/Sentence length', 'macro_f1/name-5ec1f7e700f3/x')
    """
    parts = name.split("/")
    return "/".join(part if _PLAIN_PART.fullmatch(part) else file_name(part) for part in parts)


def table_rows(matrix: LayerByTask) -> list[list[Cell]]:
    """Rows with the columns `TABLE_COLUMNS`: layer by layer, and task by task within a layer; NaN is `None`."""
    arrays = (matrix.values, matrix.ci_low, matrix.ci_high, matrix.null_mean, matrix.p, matrix.p_cell)
    return [
        [str(layer), task, *(_without_nan(array[row, column]) for array in arrays), matrix.notes.get((layer, task), "")]
        for row, layer in enumerate(matrix.layers)
        for column, task in enumerate(matrix.tasks)
    ]


def pair_rows(matrices: Sequence[LayerByLayer]) -> list[list[Cell]]:
    """Rows with the columns `PAIR_COLUMNS`, one for each task and pair of layers; NaN is `None`."""
    return [
        [matrix.task, str(x_layer), str(y_layer), _without_nan(matrix.values[i, j])]
        for matrix in matrices
        for i, x_layer in enumerate(matrix.x_layers)
        for j, y_layer in enumerate(matrix.y_layers)
    ]


def layer_curves(matrix: LayerByTask) -> dict[str, list[tuple[int, float]]]:
    """Each task's values over layers, `(layer, value)`, without NaN; `final` is the number after the last layer's.

    Example:
        >>> import numpy as np
        >>> from probes.values import Reading
        >>> values = np.array([[0.5], [np.nan], [0.75]])
        >>> unknown = np.full_like(values, np.nan)
        >>> reading = Reading("decoder", "residual", "last")
        >>> layers = (0, 4, "final")
        >>> matrix = LayerByTask("accuracy", "", layers, ("tense",), values, unknown, unknown, unknown, reading)
        >>> layer_curves(matrix)
        {'tense': [(0, 0.5), (5, 0.75)]}
    """
    after_last = 1 + max((layer for layer in matrix.layers if isinstance(layer, int)), default=-1)
    steps = [layer if isinstance(layer, int) else after_last for layer in matrix.layers]
    return {
        task: [(step, float(value)) for step, value in zip(steps, column, strict=True) if not math.isnan(value)]
        for task, column in zip(matrix.tasks, matrix.values.T, strict=True)
    }


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config as dotted keys; a list stays one value.

    Example:
        >>> flat_config({"seed": 0, "suite": {"tasks": ["tense"], "splits": {}}})
        {'seed': 0, 'suite.tasks': ['tense'], 'suite.splits': {}}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping) and value
        flat |= flat_config(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def require_packages(what: str, extra: str, modules: Iterable[str]) -> None:
    """Refuse what needs packages that are missing, before any work begins.

    Args:
        what: Needs them, as a user writes it, such as `logger=mlflow`.
        extra: Name of the extra that installs them.
        modules: That it imports.

    Raises:
        ModuleNotFoundError: One cannot be found.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"`{what}` needs {', '.join(missing)}. Install it with `pip install -e '.[{extra}]'`.",
            name=missing[0],
        )


def _without_nan(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
