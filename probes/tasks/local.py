"""Suites from a folder of JSON lines in the FLAN layout."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probes.tasks.build import build_task
from probes.tasks.checks import check_splits, choose_tasks
from probes.tasks.prompts import prompt_renderer
from probes.tasks.splits import MaxRows, split_name
from probes.tasks.task import RawTask, Row, Suite, Task
from probes.values import SPLITS

_Files = dict[str, dict[str, Path]]
"""Task → split → file."""

_LISTING = "suite.json"
_FILE_ENDINGS = re.compile(r"(_\d+templates)?(_(train|validation|val|valid|dev|test))?$")


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
    """Read a folder laid out as `task/split.jsonl` or `split/task.jsonl`.

    A line is one row: `inputs` (the instruction), `targets` (the answer), `text` (the bare input), `label`, and named
    fields such as `options`. An optional `suite.json` lists the tasks with `name`, `kind`, `labels`, `ordered`
    (whether these classes are in order), `cluster`, `unseen` and `source`; what it omits is inferred
    (`probes.tasks.labels`). Splits may be called `val`, `valid` or `dev`; the endings `_10templates` and `_train` of
    file names are not part of a task's name.

    Args:
        path: The folder.
        tasks: Names of the tasks to load, in this order; `None` for all.
        max_rows: At most this many rows in each split, or a mapping split → rows, drawn so that no class vanishes.
        prompt: `instruction` or `raw`; see `probes.tasks.prompts.prompt_renderer`.
        template: A string with `{field}` placeholders, used in place of `prompt`.
        seed: Decides which rows are drawn, and the validation split where there is none.
        strict: Raise on prompts that two splits share instead of warning.
        name: Name of the suite; `None` for that in `suite.json`, or else the folder's.

    Raises:
        FileNotFoundError: There is no such folder, or a task listed in `suite.json` has no files.
        ValueError: Bad rows or settings; the message names the task, split, file and line.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder '{folder}'. Set `suite.path` to a folder of task/split.jsonl files.")
    files = _find_files(folder)
    listing = _read_listing(folder / _LISTING)
    entries = {str(entry["name"]): entry for entry in listing.get("tasks", [])} or {task: {} for task in files}
    built: list[Task] = []
    for task in choose_tasks(tasks, tuple(entries)):
        raw = _read_task(task, files, entries[task], folder)
        check_splits(raw)
        render = prompt_renderer(task, raw.rows["train"], prompt=prompt, template=template)
        built.append(build_task(raw, render, max_rows=max_rows, seed=seed, strict=strict))
    return Suite(name or str(listing.get("name", folder.resolve().name)), tuple(built))


def task_of_file(stem: str) -> str:
    """The task that a file `split/task.jsonl` holds.

    Example:
        >>> task_of_file("rte_10templates_train"), task_of_file("rte")
        ('rte', 'rte')
    """
    return _FILE_ENDINGS.sub("", stem)


def parse_row(file: Path, number: int, line: str) -> Row:
    """One line of a JSON lines file as a row.

    Raises:
        ValueError: The line is not a JSON object with `targets` or `label`; the message names the file and the line by
            its number.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}, line {number}: not JSON ({error.msg} at column {error.colno}).") from error
    if isinstance(row, dict) and row.keys() & {"targets", "label"}:
        return row
    if isinstance(row, dict):
        found = f"the row has {', '.join(row) or 'no fields'}"
    else:
        found = f"the line is of type {type(row).__name__}"
    raise ValueError(
        f"{file}, line {number}: no field `targets` or `label`; {found}. Write one JSON object of fields per line."
    )


def _find_files(folder: Path) -> _Files:
    files: _Files = {}
    for file in sorted(folder.glob("*/*.jsonl")):
        outer, inner = split_name(file.parent.name), split_name(file.stem)
        if outer in SPLITS:
            files.setdefault(task_of_file(file.stem), {})[outer] = file
        elif inner in SPLITS:
            files.setdefault(file.parent.name, {})[inner] = file
    if not files:
        raise FileNotFoundError(
            f"Folder '{folder}' has neither task/split.jsonl nor split/task.jsonl (splits: {', '.join(SPLITS)}). "
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
        raise ValueError(f"{file} must be an object with `tasks`: a list of objects with at least `name`.")
    return listing


def _read_task(task: str, files: _Files, entry: Mapping[str, Any], folder: Path) -> RawTask:
    if task not in files:
        raise FileNotFoundError(
            f"Task '{task}' is listed in {folder / _LISTING} but has no files under '{folder}'. There are "
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
        ordered=bool(entry.get("ordered", False)),
        locations={split: f"{file}, one row per line" for split, file in files[task].items()},
    )


def _read_rows(file: Path) -> list[Row]:
    try:
        lines = file.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")  # not splitlines: it splits at U+2028 too
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    return [parse_row(file, number, line) for number, line in enumerate(lines if lines != [""] else [], start=1)]
