"""Suites from a folder of JSON lines in the FLAN layout."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probes.tasks.build import build_task
from probes.tasks.checks import check_splits, choose_tasks
from probes.tasks.groups import Alignment, aligned, with_separate_groups
from probes.tasks.pairs import build_pairs
from probes.tasks.prompts import prompt_renderer
from probes.tasks.splits import MaxRows, split_name
from probes.tasks.task import RawTask, Row, Suite, Task
from probes.values import SPLITS

_log = logging.getLogger(__name__)

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
    nuisances: Sequence[str] = (),
    group: str | None = None,
    align: Alignment | None = None,
    seed: int = 0,
    strict: bool = False,
    name: str | None = None,
) -> Suite:
    """Read a folder laid out as `task/split.jsonl` or `split/task.jsonl`.

    A line is one row: `inputs` (the instruction), `targets` (the answer), `text` (the bare input), `label`, and named
    fields such as `options`. An optional `suite.json` lists the tasks with `name`, `kind`, `labels`, `ordered`
    (whether these classes are in order), `cluster`, `unseen` and `source`; what it omits is inferred
    (`probes.tasks.labels`). Splits may be called `val`, `valid` or `dev`; the endings `_10templates` and `_train` of
    file names are not part of a task's name. Rows of a task of `kind` pairs have the texts `first` and `second` and
    their gold score in `label`; only test rows are read.

    Args:
        path: The folder.
        tasks: Names of the tasks to load, in this order; `None` for all.
        max_rows: At most this many rows in each split, or a mapping split → rows, drawn so that no class vanishes.
        prompt: `instruction` or `raw`; see `probes.tasks.prompts.prompt_renderer`.
        template: A string with `{field}` placeholders, used in place of `prompt`.
        nuisances: Fields of every row that may explain the label, such as its source, for an audit.
        group: Field of the rows, such as a domain or a template, whose values are never in two splits: all rows are
            then divided anew. `None` for the splits as they are.
        align: Task → label → common label, so that probes of one task can be tried on another; see `aligned`.
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
        if raw.kind == "pairs":
            built.append(build_pairs(raw, max_rows=max_rows, seed=seed))
            continue
        check_splits(raw)
        raw = with_separate_groups(raw, group, seed=seed)
        render = prompt_renderer(task, raw.rows["train"], prompt=prompt, template=template)
        built.append(
            build_task(raw, render, max_rows=max_rows, seed=seed, strict=strict, columns=nuisances, group=group)
        )
    return aligned(Suite(name or str(listing.get("name", folder.resolve().name)), tuple(built)), align)


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
        ValueError: The line is not a JSON object with an answer in `targets` or `label`, names a field twice, or holds
            what is no text; the message names the file and the line by its number.
    """
    where, row = f"{file}, line {number}", parse_json(file, number, line)
    if not isinstance(row, dict):
        found = f"the line is of type {type(row).__name__}"
    elif row.get("targets") is None and row.get("label") is None:
        null = [f"`{key}` is null" for key in ("targets", "label") if key in row]
        found = f"the row has {' and '.join(null) or ', '.join(row) or 'no fields'}"
    elif isinstance(row.get("targets"), dict | list | bool):
        kind = type(row["targets"]).__name__
        raise ValueError(f"{where}: `targets` must be the answer in words; got {kind}. Put classes into `label`.")
    else:
        return row
    raise ValueError(
        f"{where}: no field `targets` or `label`; {found}. Write one JSON object of fields per line, with an answer."
    )


def parse_json(file: Path, number: int, line: str) -> Any:
    """One line of a JSON lines file.

    Raises:
        ValueError: The line is not JSON, names a field twice, or holds what is no text; the message names the file and
            the line by its number.
    """
    where = f"{file}, line {number}"
    try:
        row = json.loads(line, object_pairs_hook=_without_repeated_keys, parse_constant=_refuse_constant)
        _refuse_half_pairs(line, row)
    except json.JSONDecodeError as error:
        found = f"not JSON ({error.msg} at column {error.colno})" if line.strip() else "not JSON but empty"
        raise ValueError(f"{where}: {found}. Write one JSON object of fields per line.") from error
    except RecursionError as error:
        raise ValueError(f"{where}: nested too deeply. Write one JSON object of fields per line.") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return row


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(key for position, (key, _) in enumerate(pairs) if key in dict(pairs[:position]))
        raise ValueError(f"the field `{twice}` stands there twice. Keep one of them.")
    return row


def _refuse_half_pairs(text: str, read: Any) -> None:
    """Refuse strings that cannot be written as UTF-8; only the escapes of surrogates lead to them."""
    if "\\ud" in text.lower():
        try:
            json.dumps(read, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            raise ValueError(f"{half} is half of a surrogate pair, which is no character. Correct it.") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON. Write null, or leave the row out.")


def _find_files(folder: Path) -> _Files:
    files: _Files = {}
    unread: list[str] = []
    for file in sorted(folder.glob("*/*.jsonl")):
        outer, inner = split_name(file.parent.name), split_name(file.stem)
        if outer in SPLITS:
            task, split = task_of_file(file.stem), outer
        elif inner in SPLITS:
            task, split = file.parent.name, inner
        else:
            unread.append(str(file.relative_to(folder)))
            continue
        if (other := files.setdefault(task, {}).get(split)) is not None:
            raise ValueError(
                f"Split '{split}' of task '{task}' has two files: {other} and {file}. Remove one or join them."
            )
        files[task][split] = file
    if not files:
        raise FileNotFoundError(
            f"Folder '{folder}' has neither task/split.jsonl nor split/task.jsonl (splits: {', '.join(SPLITS)}). "
            "Set `suite.path` to the folder above these."
        )
    if unread:
        _log.warning(
            "Not read, because neither file nor folder is named after a split (%s): %s.",
            ", ".join(SPLITS), ", ".join(unread),
        )  # fmt: skip
    return files


def _read_listing(file: Path) -> Mapping[str, Any]:
    if not file.exists():
        return {}
    try:
        text = _read_text(file)
        listing = json.loads(text, object_pairs_hook=_without_repeated_keys)
        _refuse_half_pairs(text, listing)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}, line {error.lineno}: not JSON ({error.msg}).") from error
    except RecursionError as error:
        raise ValueError(f"{file}: nested too deeply.") from error
    except ValueError as error:
        raise error if str(error).startswith(str(file)) else ValueError(f"{file}: {error}") from error
    tasks = listing.get("tasks", []) if isinstance(listing, dict) else None
    if not (isinstance(tasks, list) and all(isinstance(e, dict) and isinstance(e.get("name"), str) for e in tasks)):
        raise ValueError(f"{file} must be an object with `tasks`: a list of objects with at least `name`, a text.")
    for name, count in Counter(entry["name"] for entry in tasks).items():
        if count > 1:
            raise ValueError(f"{file} lists task '{name}' {count} times. List each task once.")
    for entry in tasks:
        labels = entry.get("labels")
        if labels is not None and not (
            isinstance(labels, list) and labels and len(set(map(str, labels))) == len(labels)
        ):
            raise ValueError(
                f"{file}: `labels` of task '{entry['name']}' must be a list of different names; got {labels!r}."
            )
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
    """The rows of a file; only its end may be blank, so that a row's number is that of its line."""
    lines = _read_text(file).rstrip().split("\n")  # not splitlines: it splits at U+2028 too
    return [parse_row(file, number, line) for number, line in enumerate(lines if lines != [""] else [], start=1)]


def _read_text(file: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        ValueError: It cannot be read, or is not UTF-8; the message names the file and the line.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}. Mend or remove it.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{file} is not UTF-8 text (line {line}, byte {error.start}). Save it as UTF-8.") from error
