"""Results and layer × task matrices as CSV files that read back as the same numbers."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from probes.files import file_name, replaced_file, write_json
from probes.runs.run_folder import STATE_FILE, read_state
from probes.values import RESULT_COLUMNS, BestLayers, Layer, LayerByLayer, LayerByTask, Reading, Result

if TYPE_CHECKING:
    from probes.probe_measures import TaskTable
    from probes.report.figures.task_maps import TaskMap

_log = logging.getLogger(__name__)

BEST_LAYER_COLUMNS = ("task", "best_layer", "best_layers", "metric", "validation_score", "n", "level")
"""Of `best_layers.csv`; `best_layers` is a text such as `12–17, 19`."""


def write_results(results: Iterable[Result], path: Path) -> Path:
    """Write `results.csv` with one row per result and the columns `RESULT_COLUMNS`.

    Floats keep all their digits (`repr`), NaN is `nan`, `None` an empty field. The file appears as a whole or not at
    all.

    Args:
        results: The rows.
        path: The file to write; an existing file is replaced.

    Returns:
        `path`.
    """
    rows = ([_field(getattr(result, column)) for column in RESULT_COLUMNS] for result in results)
    return write_table(path, RESULT_COLUMNS, rows)


def write_best_layers(best_layers: Iterable[BestLayers], path: Path) -> Path:
    """Write `best_layers.csv` with one row per task and the columns `BEST_LAYER_COLUMNS`.

    Args:
        best_layers: The rows; `best_layers` is left empty where the layers are unknown.
        path: The file to write; an existing file is replaced.

    Returns:
        `path`.
    """
    rows = (
        [_field(value) for value in (best.task, best.layer, best.text, best.metric, best.score, best.n, best.level)]
        for best in best_layers
    )
    return write_table(path, BEST_LAYER_COLUMNS, rows)


def read_best_layers(path: Path) -> list[BestLayers]:
    """Read what `write_best_layers` wrote.

    Raises:
        ValueError: The columns are not `BEST_LAYER_COLUMNS`, or a field cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != BEST_LAYER_COLUMNS:
            raise ValueError(f"{path} must have the columns {', '.join(BEST_LAYER_COLUMNS)}.")
        return [
            BestLayers(
                task=row["task"],
                layer=_read_layer(row["best_layer"]),
                layers=_read_layers(row["best_layers"]),
                metric=row["metric"],
                score=float(row["validation_score"]),
                n=int(row["n"]),
                level=float(row["level"]),
            )
            for row in reader
        ]


def read_layer_by_layer(path: Path) -> LayerByLayer:
    """Read what `write_layer_by_layer` wrote.

    Args:
        path: The CSV file, with a JSON file of the same name beside it.

    Raises:
        ValueError: There is no such JSON file, as in runs of earlier versions, or it cannot be read.
    """
    beside = path.with_suffix(".json")
    try:
        facts = json.loads(beside.read_text(encoding="utf-8"))
        facts["reading"] = Reading(**facts["reading"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read without {beside.name}, which names its quantity, models and reading: {error}. Run "
            "the study again; what is in the cache is not computed again."
        ) from error
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return LayerByLayer(
        x_layers=tuple(_read_layer(row[0]) for row in rows),
        y_layers=tuple(map(_read_layer, header[1:])),
        values=np.array([[float(value) for value in row[1:]] for row in rows]).reshape(len(rows), len(header) - 1),
        **facts,
    )


def read_results(path: Path) -> list[Result]:
    """Read what `write_results` wrote; every number is the same to the bit, every `None` is `None`.

    The results of a run that has not finished are read with a warning: some may be missing.

    Raises:
        ValueError: The columns are not `RESULT_COLUMNS`, or a field that must be a number is not one; the message
            names the line.
    """
    state = read_state(path.parent)
    if state is not None and state.state not in {"finished", "running"}:
        _log.warning("'%s' may be incomplete: its run is %s (%s).", path, state.state, STATE_FILE)
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = tuple(next(reader, ()))
        if header != RESULT_COLUMNS:
            raise ValueError(
                f"{path} must have the columns {', '.join(RESULT_COLUMNS)}; got {', '.join(header) or 'none'}."
            )
        return [_result(row, f"{path}, line {reader.line_num}") for row in reader]


def write_layer_by_task(matrix: LayerByTask, folder: Path, *, primary: bool = True) -> Path:
    """Write a matrix as `<folder>/<file_stem>.csv`: one row per layer, whose name comes first, one column per task.

    Args:
        matrix: Its values are written with all their digits, cells without a value as `nan`.
        folder: Usually `<output folder>/layer_by_task`.
        primary: Whether the matrix has the run's first reading; other readings are part of the file's name.

    Returns:
        The file written.
    """
    rows = ([str(layer), *map(_field, values)] for layer, values in zip(matrix.layers, matrix.values, strict=True))
    return write_table(folder / f"{file_stem(matrix, primary=primary)}.csv", ("layer", *matrix.tasks), rows)


def write_layer_by_layer(matrix: LayerByLayer, folder: Path) -> Path:
    """Write a matrix as `<folder>/<file_name(task)>.csv`: a row for each x layer, its name first, a column per y layer.

    What the CSV file does not hold is written beside it as `<file_name(task)>.json`.

    Args:
        matrix: Its values are written with all their digits, cells without a value as `nan`.
        folder: Usually `<output folder>/layer_by_layer/<quantity>`.

    Returns:
        The file written.
    """
    path = folder / f"{file_name(matrix.task)}.csv"
    texts = {name: getattr(matrix, name) for name in ("quantity", "unit", "task", "x_name", "y_name")}
    write_json(path.with_suffix(".json"), {**texts, "reading": asdict(matrix.reading), "n": int(matrix.n)})
    rows = ([str(layer), *map(_field, values)] for layer, values in zip(matrix.x_layers, matrix.values, strict=True))
    return write_table(path, ("layer", *map(str, matrix.y_layers)), rows)


def write_task_maps(maps: Sequence[TaskMap], path: Path) -> Path:
    """Write the maps of one model as a CSV file: a row for each point, with its layer, task and coordinates.

    Returns:
        `path`.
    """
    rows = (
        [str(own.layer), _field(own.silhouette), task, _field(x), _field(y)]
        for own in maps
        for task, (x, y) in zip(own.tasks, own.points.tolist(), strict=True)
    )
    return write_table(path, ("layer", "silhouette", "task", "x", "y"), rows)


def read_task_maps(path: Path) -> list[TaskMap]:
    """Read what `write_task_maps` wrote."""
    from probes.report.figures.task_maps import TaskMap  # loads matplotlib

    layers: dict[tuple[str, str], list[tuple[str, float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            points = layers.setdefault((row["layer"], row["silhouette"]), [])
            points.append((row["task"], float(row["x"]), float(row["y"])))
    return [
        TaskMap(
            _read_layer(layer),
            np.array([point[1:] for point in points], dtype=np.float64),
            tuple(point[0] for point in points),
            float(silhouette),
        )
        for (layer, silhouette), points in layers.items()
    ]


def file_stem(matrix: LayerByTask, *, primary: bool = True) -> str:
    """File name of a matrix without suffix: its quantity without `probe/`, and its reading unless that is primary.

    A `/` in a quantity becomes `_`; `probes.files.file_name` does the rest.

    Example:
        >>> import numpy as np
        >>> from probes.values import LayerByTask, Reading
        >>> empty, mean = np.empty((0, 0)), Reading("decoder", "residual", "mean")
        >>> matrix = LayerByTask("probe/accuracy", "share of rows", (), (), empty, empty, empty, empty, mean)
        >>> file_stem(matrix), file_stem(matrix, primary=False)
        ('accuracy', 'accuracy@decoder.residual.mean')
    """
    stem = file_name(matrix.quantity.removeprefix("probe/").replace("/", "_"))
    return stem if primary else f"{stem}@{matrix.reading}"


def write_task_table(table: TaskTable, folder: Path, *, stem: str) -> Path:
    """Write a table of one task as `<folder>/<name>/<stem>.csv`.

    Args:
        table: Its numbers are written with all their digits.
        folder: Usually `<output folder>/tables`.
        stem: Names the task, and its reading if that is not the run's first.
    """
    rows = zip(*(map(_field, column) for column in table.columns.values()), strict=True)
    return write_table(folder / file_name(table.name) / f"{stem}.csv", tuple(table.columns), rows)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
    """Write a CSV file as a whole, and return its path."""
    with replaced_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path


def _field(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):  # np.float64 is a float too, but its repr is "np.float64(…)"
        return repr(float(value))
    return str(value)


def _read_layer(text: str) -> Layer:
    return "final" if text == "final" else int(text)


def _read_layers(text: str) -> tuple[Layer, ...] | None:
    """The layers of a text as `BestLayers.text` writes it; `None` where they are unknown."""
    layers: list[Layer] = []
    for part in filter(None, text.split(", ")):
        first, _, last = part.partition("–")
        layers += range(int(first), int(last) + 1) if last else [_read_layer(first)]
    return tuple(layers) or None


def _optional(read: Callable[[str], object]) -> Callable[[str], object]:
    return lambda text: None if text == "" else read(text)


_READERS: dict[str, Callable[[str], object]] = {  # by annotation in `Result`; one without a reader fails at import
    "str": str,
    "float": float,
    "float | None": _optional(float),
    "int | None": _optional(int),
    "Layer | None": _optional(_read_layer),
}
_COLUMN_READERS = {f.name: _READERS[str(f.type)] for f in fields(Result)}


def _result(row: Sequence[str], where: str) -> Result:
    if len(row) != len(RESULT_COLUMNS):
        raise ValueError(f"{where} must have {len(RESULT_COLUMNS)} fields; got {len(row)}.")
    try:
        values = {column: _COLUMN_READERS[column](text) for column, text in zip(RESULT_COLUMNS, row, strict=True)}
    except ValueError as error:
        raise ValueError(f"{where}: {error}.") from error
    return Result(**values)  # type: ignore[arg-type]  # each reader returns its column's type
