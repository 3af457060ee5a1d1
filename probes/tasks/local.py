"""Suites from a folder of JSON lines in the FLAN layout."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probes.tasks.build import build_task
from probes.tasks.checks import check_splits, choose_tasks
from probes.tasks.prompts import renderer
from probes.tasks.splits import MaxRows, split_name
from probes.tasks.task import RawTask, Row, Suite, Task
from probes.values import SPLITS

_Files = dict[str, dict[str, Path]]
"""Task → split → file."""

_LIST = "suite.json"
FILE_ENDINGS = re.compile(r"(_\d+templates)?(_(train|validation|val|valid|dev|test))?$")


def load_local_suite(
    path: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    max_rows: MaxRows = None,
    prompt: str = "instruction",
    template: str | None = None,
    seed: int = 0,
    strict: bool = False,
    name: str | None = None,
) -> Suite:
    """Read a folder laid out `task/split.jsonl` or `split/task.jsonl`.

    A line is one row: `inputs` (the instruction), `targets` (the answer), `text` (the bare input), `label` and named
    parts such as `options`. `suite.json`, if there, lists the tasks with `name`, `kind`, `labels`, `cluster`,
    `unseen`, `source`; whatever it leaves open is inferred (`probes.tasks.labels`). Splits may be called `val`,
    `valid` or `dev`; the endings `_10templates` and `_train` of file names are no part of a task's name.

    Args:
        path: The folder.
        tasks: Names of the tasks wanted, in this order; all of them for `None`.
        max_rows: Rows at most in each split (or a mapping split → rows), drawn by `seed` so that no class vanishes.
        prompt: `instruction` or `raw`; see `probes.tasks.prompts.renderer`.
        template: A string with `{field}` placeholders instead.
        seed: Decides which rows are drawn.
        strict: Refuse rows that stand in two splits instead of warning.
        name: Name of the suite; that in `suite.json`, or the folder's, for `None`.

    Raises:
        FileNotFoundError: No such folder, or a task listed in `suite.json` has no files.
        ValueError: Bad rows or settings; the message names task, split, file and line.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder '{folder}'. Set `suite.path` to a folder of task/split.jsonl files.")
    files = _find_files(folder)
    listing = _read_listing(folder / _LIST)
    entries = {str(entry["name"]): entry for entry in listing.get("tasks", [])} or {task: {} for task in files}
    built: list[Task] = []
    for task in choose_tasks(tasks, tuple(entries)):
        table = _read_task(task, files, entries[task], folder)
        check_splits(table)
        render = renderer(task, table.rows["train"], prompt=prompt, template=template)
        built.append(build_task(table, render, max_rows=max_rows, seed=seed, strict=strict))
    return Suite(name or str(listing.get("name", folder.resolve().name)), tuple(built))


def _find_files(folder: Path) -> _Files:
    files: _Files = {}
    for file in sorted(folder.glob("*/*.jsonl")):
        outer, inner = split_name(file.parent.name), split_name(file.stem)
        if outer in SPLITS:
            files.setdefault(FILE_ENDINGS.sub("", file.stem), {})[outer] = file
        elif inner in SPLITS:
            files.setdefault(file.parent.name, {})[inner] = file
    if not files:
        raise FileNotFoundError(
            f"Folder '{folder}' holds neither task/split.jsonl nor split/task.jsonl (splits: {', '.join(SPLITS)}). "
            "Set `suite.path` to the folder above these."
        )
    return files


def _read_listing(file: Path) -> Mapping[str, Any]:
    if not file.exists():
        return {}
    try:
        listing = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}, line {error.lineno}: not JSON ({error.msg}).") from error
    if not (isinstance(listing, dict) and all(isinstance(e, dict) and "name" in e for e in listing.get("tasks", []))):
        raise ValueError(f"{file} should be an object with `tasks`: a list of objects with at least `name`.")
    return listing


def _read_task(task: str, files: _Files, entry: Mapping[str, Any], folder: Path) -> RawTask:
    if task not in files:
        raise FileNotFoundError(
            f"Task '{task}' stands in {folder / _LIST} but has no files under '{folder}'. There are "
            f"{', '.join(files)}. Add its folder, or leave it out of `suite.tasks`."
        )
    labels = entry.get("labels")
    return RawTask(
        name=task,
        rows={split: _read_rows(files[task][split]) for split in SPLITS if split in files[task]},
        kind=entry.get("kind"),
        labels=None if labels is None else tuple(str(label) for label in labels),
        cluster=str(entry.get("cluster", "")),
        unseen=bool(entry.get("unseen", False)),
        source=str(entry.get("source", folder)),
        places={split: f"{file}, one row a line" for split, file in files[task].items()},
    )


def _read_rows(file: Path) -> list[Row]:
    try:
        lines = file.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    return [read_row(file, number, line) for number, line in enumerate(lines if lines != [""] else [], start=1)]


def read_row(file: Path, number: int, line: str) -> Row:
    """One line of a JSON lines file as a row; errors name the file and the line's number."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}, line {number}: not JSON ({error.msg} at column {error.colno}).") from error
    if isinstance(row, dict) and row.keys() & {"targets", "label"}:
        return row
    found = (
        f"the row has {', '.join(row) or 'none'}" if isinstance(row, dict) else f"the line is a {type(row).__name__}"
    )
    raise ValueError(
        f"{file}, line {number}: no column `targets` or `label`; {found}. Write one object of fields a line."
    )
