"""Tables as they are read: columns of plain Python values from a CSV, TSV, Parquet or JSON lines file, or pandas."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.tasks.checks import did_you_mean
from probes.tasks.local import parse_json

if TYPE_CHECKING:
    from pandas import DataFrame

_FORMATS = (".csv", ".tsv", ".parquet", ".jsonl")
_SPELLINGS = {".ndjson": ".jsonl", ".pq": ".parquet"}
_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")


@dataclass(frozen=True)
class Table:
    """Columns of equal length, with the place they come from for error messages.

    Attributes:
        name: The file's name up to its first dot, or `table`.
        place: The file, or `the data frame`.
        columns: Name → values; a missing value is `None`.
        untyped: Whether all values are strings because the format has no types (CSV and TSV).
    """

    name: str
    place: str
    columns: Mapping[str, list[Any]]
    untyped: bool = False

    def column(self, name: str, key: str) -> list[Any]:
        """The values of a column.

        Args:
            name: Of the column.
            key: The configuration key that names it, for messages.

        Raises:
            ValueError: There is no such column.
        """
        if name not in self.columns:
            raise ValueError(
                f"{self.place} has no column '{name}'.{did_you_mean(name, self.columns)} It has "
                f"{', '.join(self.columns) or 'none'}. Set `{key}` among these."
            )
        return self.columns[name]

    def locate(self, row: int, column: str | None = None) -> str:
        """Describe where a row, counted from 0, or its value in a column is found; the header is no row."""
        return f"{self.place}, row {row + 1}" + ("" if column is None else f", column '{column}'")


def read_table(path: str | Path | DataFrame) -> Table:
    """Read a file by its ending, which may be followed by `.gz`, `.bz2`, `.xz` or `.zst`; or take a data frame.

    In CSV and TSV files only an empty value is missing: `NA` and `null` may be words of a text or names of classes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The ending is unknown, the file cannot be read, or it has no rows.
    """
    if not isinstance(path, str | Path):
        return _as_table("table", "the data frame", path)
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"No file '{file}'. Set `suite.path` to a file that ends in {', '.join(_FORMATS)}.")
    endings = [ending for ending in map(str.lower, file.suffixes) if ending not in _COMPRESSIONS]
    ending = _SPELLINGS.get(endings[-1], endings[-1]) if endings else ""
    if ending not in _FORMATS:
        raise ValueError(
            f"{file} ends in none of {', '.join(_FORMATS)}. Rename or convert it, or pass a pandas DataFrame to "
            "`probes.tasks.table_suite`."
        )
    try:
        return _as_table(file.name.split(".")[0], str(file), _read(file, ending), untyped=ending in {".csv", ".tsv"})
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error


def _read(file: Path, ending: str) -> DataFrame:
    import pandas as pd  # imported here because it takes half a second

    try:
        if ending == ".parquet":
            return pd.read_parquet(file)
        if ending == ".jsonl":
            return _read_json_lines(file)
        separator = "," if ending == ".csv" else "\t"
        frame = pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise
    except (ValueError, OSError) as error:  # pandas' and pyarrow's errors of parsing are ValueErrors
        if str(error).startswith(str(file)):
            raise
        raise ValueError(f"{file} cannot be read as {ending[1:]}: {error}") from error
    if isinstance(frame.index, pd.RangeIndex):
        return frame
    raise ValueError(  # pandas takes surplus fields at the start of each row for the names of rows
        f"{file} has rows with more fields than its header, which has {', '.join(frame.columns)}. Name every column, "
        "or quote texts that contain the separator."
    )


def _read_json_lines(file: Path) -> DataFrame:
    """Rows as they are written: pandas' own reader would turn numbers into dates, and does not name a bad line."""
    import pandas as pd
    from pandas.io.common import get_handle

    with get_handle(file, "r", encoding="utf-8-sig", compression="infer") as handles:
        lines = handles.handle.read().rstrip().split("\n")
    rows = [parse_json(file, number, line) for number, line in enumerate(lines if lines != [""] else [], start=1)]
    for number, row in enumerate(rows, start=1):
        if type(row) is not dict:
            raise ValueError(f"{file}, line {number}: an object of fields was expected; got {type(row).__name__}.")
    return pd.DataFrame(rows, dtype=object)


def _as_table(name: str, place: str, frame: DataFrame, *, untyped: bool = False) -> Table:
    columns = {str(key): [_plain(value) for value in frame.iloc[:, i]] for i, key in enumerate(frame.columns)}
    if len(columns) < len(frame.columns):
        raise ValueError(f"{place} has several columns of one name: {', '.join(map(str, frame.columns))}. Rename them.")
    if not any(columns.values()):
        raise ValueError(f"{place} has no rows.")
    return Table(name, place, columns, untyped)


def _plain(value: Any) -> Any:
    """A cell as a Python value; `None` if it is missing (NaN, `pandas.NA`, NaT, a blank string)."""
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        value = value.tolist()
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return None if type(value).__name__ in {"NAType", "NaTType"} else value
