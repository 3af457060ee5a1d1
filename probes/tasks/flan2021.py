"""FLAN 2021, drawn from the heads of its files: the public copy on the Hub, or a folder laid out like it."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from probes.tasks.build import build_task
from probes.tasks.checks import check_splits, choose_tasks
from probes.tasks.flan2021_rows import MAX_ROWS, Draw
from probes.tasks.flan2021_tasks import CLUSTER_OF, UNSEEN, held_out
from probes.tasks.local import FILE_ENDINGS
from probes.tasks.prompts import renderer
from probes.tasks.rows import TaskRows
from probes.tasks.splits import MaxRows, split_name
from probes.tasks.task import SPLITS, Suite, Task

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

log = logging.getLogger(__name__)

Files = dict[str, dict[str, str]]
"""Task → split → path of its file."""

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def load_flan2021_suite(
    path: str = "Muennighoff/flan",
    *,
    revision: str | None = None,
    tasks: Sequence[str] | None = None,
    unseen: Sequence[str] = UNSEEN,
    max_rows: MaxRows = MAX_ROWS,
    train_rows_per_cluster: int | None = 50_000,
    shuffle_buffer: int = 1_000,
    prompt: str = "instruction",
    template: str | None = None,
    seed: int = 0,
    strict: bool = False,
    name: str = "flan2021",
) -> Suite:
    """Read tasks of FLAN 2021 from `split/task_10templates_split.jsonl` (or `split/task.jsonl`).

    Files are streamed and left as soon as enough rows are drawn. The rows come from the head of a file through a
    seeded shuffle buffer: a file is read for at most `max_rows + shuffle_buffer` lines, of which `max_rows` are kept,
    in the order of the file. A smaller cap keeps a part of what a larger one keeps. They are no even draw from a whole
    file. Nothing is kept on disk; to read often, download the copy and set `path` to its folder.

    The kind of a task is inferred from the targets of the training rows drawn (`probes.tasks.labels`). The rows have
    `inputs`, `targets` and `task`, so there is no `raw` prompt.

    Args:
        path: Name of the data set on the Hub, a local folder, or an address that `fsspec` reads.
        revision: Branch, tag or commit of the data set on the Hub.
        tasks: Names of the tasks wanted, in this order; for `None` all of `CLUSTERS` that have files (the copy on the
            Hub has 66 of 69: newsroom, winogrande and xsum are not in it).
        unseen: Tasks, or whole clusters, marked as kept out of a tuning mixture.
        max_rows: Rows at most in each split, or a mapping split → rows.
        train_rows_per_cluster: Training rows at most of a cluster, in equal shares for its tasks in `CLUSTERS`, whether
            they are in the suite or not; `None` for no such cap.
        shuffle_buffer: Lines a drawn row may come from beyond the head of `max_rows` lines; 0 takes the head itself.
        prompt: `instruction`; see `probes.tasks.prompts.renderer`.
        template: A string with `{inputs}` or `{task}` placeholders instead.
        seed: Decides which rows are drawn, and the validation split where there is none.
        strict: Refuse rows that stand in two splits instead of warning.
        name: Name of the suite.

    Raises:
        FileNotFoundError: A task has no file, or none for train or test.
        ValueError: There is no such data set or folder, or bad rows or settings; the message names the key to set.
    """
    draw = Draw(max_rows, train_rows_per_cluster, shuffle_buffer, seed)
    unseen_tasks = held_out(unseen)
    system, files = _find_files(path, revision)
    built: list[Task] = []
    for task in _choose(tasks, files, path):
        table = TaskRows(
            name=task,
            rows={split: draw.rows(system, file, task, split) for split, file in files[task].items()},
            cluster=CLUSTER_OF[task],
            unseen=task in unseen_tasks,
            source=path,
            places={split: f"{file}, rows counted as drawn" for split, file in files[task].items()},
        )
        check_splits(table)
        render = renderer(task, table.rows["train"], prompt=prompt, template=template)
        built.append(build_task(table, render, seed=seed, strict=strict))
    return Suite(name, tuple(built))


def _find_files(path: str, revision: str | None) -> tuple[AbstractFileSystem, Files]:
    from fsspec.core import url_to_fs  # like the next, slow to import: only those who need it wait
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]  # of the library it uses

    files: Files = {}
    try:
        system, root = url_to_fs(_address(path, revision))
        folders = {split_name(PurePosixPath(folder).name): folder for folder in system.ls(root, detail=False)}
        for split in (split for split in SPLITS if split in folders):
            for file in sorted(system.ls(folders[split], detail=False)):
                if file.endswith(".jsonl"):
                    files.setdefault(FILE_ENDINGS.sub("", PurePosixPath(file).stem), {})[split] = file
    except (OSError, ValueError, HTTPError) as error:
        raise ValueError(
            f"Cannot list '{path}': {type(error).__name__}: {error} Set `suite.path` (and `suite.revision`) to the "
            "data set on the Hub, or to a folder of split/task.jsonl files."
        ) from error
    return system, files


def _address(path: str, revision: str | None) -> str:
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    if "://" in path:
        return path
    if not _HUB_NAME.fullmatch(path):
        raise FileNotFoundError("there is no such folder, and it is no name of a data set (owner/name).")
    return f"hf://datasets/{path}" + ("" if revision is None else f"@{quote(revision, safe='')}")


def _choose(tasks: Sequence[str] | str | None, files: Files, path: str) -> tuple[str, ...]:
    """The tasks wanted, all of which have files for train and test."""
    present = [task for task in CLUSTER_OF if task in files]
    absent = [task for task in CLUSTER_OF if task not in files]
    wanted = [tasks] if isinstance(tasks, str) else tasks
    lost = [task for task in wanted or () if task in absent]
    if lost or not present:
        raise FileNotFoundError(
            f"'{path}' has no split/task.jsonl for {', '.join(lost) or 'any task of FLAN 2021'}. It has "
            f"{', '.join(present) or 'none'}. Set `suite.tasks` among these, or `suite.path` to another copy."
        )
    if wanted is None and absent:
        log.info("'%s' has %d of the %d tasks of FLAN 2021, not %s.", path, len(present), len(CLUSTER_OF), absent)
    chosen = choose_tasks(wanted, present)
    if missing := [(split, task) for task in chosen for split in ("train", "test") if split not in files[task]]:
        names = ", ".join(f"{split}/{task}_10templates_{split}.jsonl" for split, task in missing)
        raise FileNotFoundError(
            f"'{path}' lacks {names} (or the same as split/task.jsonl). Every task needs train and test rows: add the "
            f"files, or leave {', '.join(dict.fromkeys(task for _, task in missing))} out of `suite.tasks`."
        )
    return chosen
