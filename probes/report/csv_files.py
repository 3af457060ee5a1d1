"""Results and layer × task matrices as CSV files that read back as the same numbers."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from probes.files import replaced_file
from probes.values import RESULT_COLUMNS, Layer, LayerByLayer, LayerByTask, Result


def write_results(results: Iterable[Result], path: Path) -> Path:
    """Write `results.csv`, one row a result, columns `RESULT_COLUMNS`.

    Floats carry all their digits (`repr`), NaN is `nan`, `None` an empty field. The file appears whole or not at all.

    Args:
        results: The rows.
        path: The file to write; one that is there is replaced.

    Returns:
        `path`.
    """
    rows = ([_field(getattr(result, column)) for column in RESULT_COLUMNS] for result in results)
    return _write(path, RESULT_COLUMNS, rows)


def read_results(path: Path) -> list[Result]:
    """Read what `write_results` wrote; every number comes back bit by bit, every `None` as `None`.

    Raises:
        ValueError: The columns are not `RESULT_COLUMNS`, or a field is no number where one is wanted (the line is
            named).
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = tuple(next(reader, ()))
        if header != RESULT_COLUMNS:
            raise ValueError(
                f"{path} expects the columns {', '.join(RESULT_COLUMNS)}; got {', '.join(header) or 'none'}."
            )
        return [_result(row, f"{path}, line {reader.line_num}") for row in reader]


def write_layer_by_task(matrix: LayerByTask, folder: Path, *, primary: bool = True) -> Path:
    """Write a matrix as `<folder>/<file_stem>.csv`: a row a layer, a column a task, the first column names the layer.

    Args:
        matrix: Its values are written with all their digits; cells without a value as `nan`.
        folder: Usually `<output folder>/layer_by_task`.
        primary: Whether the reading is the run's first; others carry theirs in the file's name.

    Returns:
        The file written.
    """
    rows = ([str(layer), *map(_field, values)] for layer, values in zip(matrix.layers, matrix.values, strict=True))
    return _write(folder / f"{file_stem(matrix, primary=primary)}.csv", ("layer", *matrix.tasks), rows)


def write_layer_by_layer(matrix: LayerByLayer, folder: Path) -> Path:
    """Write a matrix as `<folder>/<task>.csv`: a row a layer of x, whose name comes first, a column a layer of y."""
    rows = ([str(layer), *map(_field, values)] for layer, values in zip(matrix.x_layers, matrix.values, strict=True))
    return _write(folder / f"{matrix.task}.csv", ("layer", *map(str, matrix.y_layers)), rows)


def file_stem(matrix: LayerByTask, *, primary: bool = True) -> str:
    """Name of a matrix as a file: its quantity without `probe/`, `/` as `_`, and its reading unless that is primary.

    Example:
        >>> import numpy as np
        >>> from probes.values import LayerByTask, Reading
        >>> empty, mean = np.empty((0, 0)), Reading("decoder", "residual", "mean")
        >>> matrix = LayerByTask("probe/accuracy", "share of rows", (), (), empty, empty, empty, empty, mean)
        >>> file_stem(matrix), file_stem(matrix, primary=False)
        ('accuracy', 'accuracy@decoder.residual.mean')
    """
    stem = matrix.quantity.removeprefix("probe/").replace("/", "_")
    return stem if primary else f"{stem}@{matrix.reading}"


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
    with replaced_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path


def _field(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):  # NumPy's float64 is one, but its own repr is "np.float64(…)"
        return repr(float(value))
    return str(value)


def _layer(text: str) -> Layer:
    return "final" if text == "final" else int(text)


def _or_none(read: Callable[[str], object]) -> Callable[[str], object]:
    return lambda text: None if text == "" else read(text)


_READERS: dict[str, Callable[[str], object]] = {  # by the annotation in `Result`; a new one fails here, at import
    "str": str,
    "float": float,
    "float | None": _or_none(float),
    "int | None": _or_none(int),
    "Layer | None": _or_none(_layer),
}
_COLUMN_READERS = {f.name: _READERS[str(f.type)] for f in fields(Result)}


def _result(row: Sequence[str], where: str) -> Result:
    if len(row) != len(RESULT_COLUMNS):
        raise ValueError(f"{where}: expects {len(RESULT_COLUMNS)} fields; got {len(row)}.")
    try:
        values = {column: _COLUMN_READERS[column](text) for column, text in zip(RESULT_COLUMNS, row, strict=True)}
    except ValueError as error:
        raise ValueError(f"{where}: {error}.") from error
    return Result(**values)  # type: ignore[arg-type]  # each reader returns its column's type
