"""FLAN 2021, drawn from the heads of its files: the public copy on the Hub, or a folder laid out like it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import numpy as np

from probes.tasks.local import read_row
from probes.tasks.splits import MaxRows, generator, row_cap
from probes.tasks.task import Row
from probes.values import SPLITS

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
import logging
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from probes.tasks.build import build_task
from probes.tasks.checks import check_splits, choose_tasks
from probes.tasks.local import FILE_ENDINGS
from probes.tasks.prompts import renderer
from probes.tasks.splits import split_name
from probes.tasks.task import RawTask, Suite, Task

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

CLUSTERS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "natural_language_inference": (
        "anli_r1", "anli_r2", "anli_r3", "cb", "mnli_matched", "mnli_mismatched", "qnli", "rte", "snli", "wnli",
    ),
    "reading_comprehension": ("bool_q", "drop", "multirc", "openbookqa", "squad_v1", "squad_v2"),
    "closed_book_qa": ("arc_challenge", "arc_easy", "natural_questions", "trivia_qa"),
    "commonsense": ("copa", "hellaswag", "piqa", "story_cloze"),
    "coreference": ("definite_pronoun_resolution", "winogrande", "wsc"),
    "reading_comprehension_with_commonsense": ("cosmos_qa", "record"),
    "paraphrase": ("glue_mrpc", "glue_qqp", "paws_wiki", "stsb"),
    "sentiment": ("imdb_reviews", "sentiment140", "sst2", "yelp_polarity_reviews"),
    "struct_to_text": ("common_gen", "dart", "e2e_nlg", "web_nlg_en"),
    "summarization": (
        "aeslc", "ag_news_subset", "cnn_dailymail", "gigaword", "multi_news", "newsroom", "opinion_abstracts_idebate",
        "opinion_abstracts_rotten_tomatoes", "samsum", "wiki_lingua_english_en", "xsum",
    ),
    "translation": (
        "para_crawl_enes", "wmt14_enfr", "wmt16_translate_csen", "wmt16_translate_deen", "wmt16_translate_fien",
        "wmt16_translate_roen", "wmt16_translate_ruen", "wmt16_translate_tren",
    ),
    "miscellaneous": (
        "coqa", "cola", "fix_punct", "math_dataset", "quac", "trec", "true_case", "wic", "word_segment",
    ),
})  # fmt: skip
"""Cluster → its tasks (Wei et al. 2022, arXiv:2109.01652)."""

UNSEEN = ("cola", "trec", "math_dataset")
"""Kept out of a tuning mixture by default: no other task of FLAN 2021 is of their kind, so none stands in for them."""

CLUSTER_OF: Mapping[str, str] = MappingProxyType({task: cluster for cluster, own in CLUSTERS.items() for task in own})
"""Task → its cluster, in the order of `CLUSTERS`."""


def held_out(unseen: Sequence[str]) -> set[str]:
    """The tasks that names of tasks and clusters stand for.

    Raises:
        ValueError: There is no task or cluster of a name.
    """
    names = [unseen] if isinstance(unseen, str) else unseen
    for name in names:
        if name not in CLUSTER_OF and name not in CLUSTERS:
            close = difflib.get_close_matches(name, [*CLUSTER_OF, *CLUSTERS], n=1)
            meant = f" Did you mean '{close[0]}'?" if close else ""
            raise ValueError(
                f"FLAN 2021 has no task or cluster '{name}'.{meant} Set `suite.unseen` to tasks or to clusters: "
                f"{', '.join(CLUSTERS)}."
            )
    return {task for name in names for task in CLUSTERS.get(name, (name,))}


MAX_ROWS: Mapping[str, int | None] = MappingProxyType({"train": None, "validation": 1_000, "test": 10_000})
"""Split → rows of it at most by default."""


@dataclass(frozen=True)
class Draw:
    """Which rows of a file are kept; attributes as in `load_flan2021_suite`.

    Raises:
        ValueError: A cap or the buffer is out of range; the message names the key to set.
    """

    max_rows: MaxRows
    train_rows_per_cluster: int | None
    shuffle_buffer: int
    seed: int

    def __post_init__(self) -> None:
        if self.train_rows_per_cluster is not None and self.train_rows_per_cluster < 1:
            raise ValueError(
                "`suite.train_rows_per_cluster` expects a whole number from 1 up, or null; got "
                f"{self.train_rows_per_cluster}."
            )
        if self.shuffle_buffer < 0:
            raise ValueError(f"`suite.shuffle_buffer` expects a whole number from 0 up; got {self.shuffle_buffer}.")
        for split in SPLITS:
            row_cap(self.max_rows, split)  # refuses bad caps before anything is read

    def cap(self, task: str, split: str) -> int | None:
        """Rows at most of a task's split; `None` for all."""
        caps = [row_cap(self.max_rows, split)]
        if split == "train" and self.train_rows_per_cluster is not None:
            caps.append(max(1, self.train_rows_per_cluster // len(CLUSTERS[CLUSTER_OF[task]])))
        return min((cap for cap in caps if cap is not None), default=None)

    def rows(self, system: AbstractFileSystem, file: str, task: str, split: str) -> list[Row]:
        """The rows kept of one file, in its order.

        Raises:
            ValueError: A line that was read is no row, or not UTF-8.
        """
        with system.open(file, "r", encoding="utf-8-sig", block_size=0) as stream:  # 0: no reading ahead
            lines = _numbered_lines(cast("Iterable[str]", stream), file)
            if (cap := self.cap(task, split)) is not None:
                rng = generator(self.seed, task, split, "stream")
                lines = islice(shuffled(lines, self.shuffle_buffer, rng), cap)
            return [read_row(Path(file), number, line) for number, line in sorted(lines)]


def _numbered_lines(stream: Iterable[str], file: str) -> Iterator[tuple[int, str]]:
    try:
        yield from ((number, line) for number, line in enumerate(stream, start=1) if line.strip())
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error.reason}). Save it as UTF-8.") from error


def shuffled(lines: Iterator[tuple[int, str]], size: int, rng: np.random.Generator) -> Iterator[tuple[int, str]]:
    """Lines in a random order in which none comes more than `size` places early; n of them need n + size read."""
    held = list(islice(lines, size))
    for line in lines:
        if held:
            place = rng.integers(len(held))
            line, held[place] = held[place], line
        yield line
    yield from (held[place] for place in rng.permutation(len(held)))


_log = logging.getLogger(__name__)

_Files = dict[str, dict[str, str]]
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

    _Files are streamed and left as soon as enough rows are drawn. The rows come from the head of a file through a
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
        table = RawTask(
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


def _find_files(path: str, revision: str | None) -> tuple[AbstractFileSystem, _Files]:
    from fsspec.core import url_to_fs  # like the next, slow to import: only those who need it wait
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]  # of the library it uses

    files: _Files = {}
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


def _choose(tasks: Sequence[str] | str | None, files: _Files, path: str) -> tuple[str, ...]:
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
        _log.info("'%s' has %d of the %d tasks of FLAN 2021, not %s.", path, len(present), len(CLUSTER_OF), absent)
    chosen = choose_tasks(wanted, present)
    if missing := [(split, task) for task in chosen for split in ("train", "test") if split not in files[task]]:
        names = ", ".join(f"{split}/{task}_10templates_{split}.jsonl" for split, task in missing)
        raise FileNotFoundError(
            f"'{path}' lacks {names} (or the same as split/task.jsonl). Every task needs train and test rows: add the "
            f"files, or leave {', '.join(dict.fromkeys(task for _, task in missing))} out of `suite.tasks`."
        )
    return chosen
