"""FLAN 2021, streamed from its public copy on the Hub or read from a folder that is laid out like it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

import numpy as np

from probes.tasks.build import build_task
from probes.tasks.checks import check_splits, choose_tasks, did_you_mean
from probes.tasks.local import parse_row, task_of_file
from probes.tasks.prompts import prompt_renderer
from probes.tasks.splits import MaxRows, named_generator, row_cap, split_name
from probes.tasks.task import RawTask, Row, Suite, Task
from probes.values import SPLITS

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_log = logging.getLogger(__name__)

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

CLUSTER_OF: Mapping[str, str] = MappingProxyType(
    {task: cluster for cluster, tasks in CLUSTERS.items() for task in tasks}
)
"""Task → its cluster, in the order of `CLUSTERS`."""

UNSEEN = ("cola", "trec", "math_dataset")
"""Kept out of a tuning mixture by default: no other task of FLAN 2021 resembles them."""

MAX_ROWS: Mapping[str, int | None] = MappingProxyType({"train": None, "validation": 1_000, "test": 10_000})
"""Split → the most rows it has by default; `train_rows_per_cluster` limits the training rows."""

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

    Files are streamed, and reading stops as soon as enough rows are drawn: rows come from the head of a file through a
    seeded shuffle buffer, so that at most `max_rows + shuffle_buffer` lines are read, of which `max_rows` are kept, in
    the order of the file. They are therefore not a uniform sample of the whole file. What a smaller cap draws is a
    subset of what a larger one draws. Nothing is stored on disk; to read the suite often, download the dataset and set
    `path` to its folder.

    The kind of a task is inferred from the targets of the training rows drawn (`probes.tasks.labels`). The rows have
    `inputs`, `targets` and `task`, so there is no `raw` prompt.

    Args:
        path: Name of the dataset on the Hub, a local folder, or an address that `fsspec` reads.
        revision: Branch, tag or commit of the dataset on the Hub; `None` for the newest.
        tasks: Names of the tasks to load, in this order; `None` for all of `CLUSTERS` that have files (the copy on the
            Hub has 66 of 69: it lacks newsroom, winogrande and xsum).
        unseen: Tasks, or whole clusters, that are marked as kept out of a tuning mixture.
        max_rows: At most this many rows in each split, or a mapping split → rows.
        train_rows_per_cluster: At most this many training rows in each cluster, divided equally between all its tasks
            in `CLUSTERS`, whether they are in the suite or not; `None` for no such limit.
        shuffle_buffer: How many lines beyond the first `max_rows` a drawn row may come from; 0 takes the first lines.
        prompt: `instruction`; see `probes.tasks.prompts.prompt_renderer`.
        template: A string with `{inputs}` or `{task}` placeholders, used in place of `prompt`.
        seed: Decides which rows are drawn, and the validation split where there is none.
        strict: Raise on prompts that two splits share instead of warning.
        name: Name of the suite.

    Raises:
        FileNotFoundError: A task has no file, or none for train or test.
        ValueError: There is no such dataset or folder, or rows or settings are bad; the message names the key to set.
    """
    sampler = StreamSampler(max_rows, train_rows_per_cluster, shuffle_buffer, seed)
    unseen_tasks = expand_clusters(unseen)
    system, files = _find_files(path, revision)
    built: list[Task] = []
    for task in _choose(tasks, files, path):
        raw = RawTask(
            name=task,
            rows={split: sampler.rows(system, file, task, split) for split, file in files[task].items()},
            cluster=CLUSTER_OF[task],
            unseen=task in unseen_tasks,
            source=path,
            locations={split: f"{file}, rows counted as drawn" for split, file in files[task].items()},
        )
        check_splits(raw)
        render = prompt_renderer(task, raw.rows["train"], prompt=prompt, template=template)
        built.append(build_task(raw, render, seed=seed, strict=strict))
    return Suite(name, tuple(built))


def expand_clusters(names: Sequence[str]) -> set[str]:
    """The tasks named, and all tasks of the clusters named.

    Raises:
        ValueError: There is no task or cluster of that name.

    Example:
        >>> sorted(expand_clusters(["sst2", "coreference"]))
        ['definite_pronoun_resolution', 'sst2', 'winogrande', 'wsc']
    """
    names = [names] if isinstance(names, str) else names
    for name in names:
        if name not in CLUSTER_OF and name not in CLUSTERS:
            raise ValueError(
                f"FLAN 2021 has no task or cluster '{name}'.{did_you_mean(name, [*CLUSTER_OF, *CLUSTERS])} Set "
                f"`suite.unseen` to tasks or to clusters: {', '.join(CLUSTERS)}."
            )
    return {task for name in names for task in CLUSTERS.get(name, (name,))}


@dataclass(frozen=True)
class StreamSampler:
    """Draws rows from the head of a streamed file; `load_flan2021_suite` explains the attributes.

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
                f"`suite.train_rows_per_cluster` must be at least 1, or null; got {self.train_rows_per_cluster}."
            )
        if self.shuffle_buffer < 0:
            raise ValueError(f"`suite.shuffle_buffer` must be at least 0; got {self.shuffle_buffer}.")
        for split in SPLITS:
            row_cap(self.max_rows, split)  # raises on a bad cap before any file is opened

    def cap(self, task: str, split: str) -> int | None:
        """The most rows of a task's split; `None` for no limit."""
        caps = [row_cap(self.max_rows, split)]
        if split == "train" and self.train_rows_per_cluster is not None:
            caps.append(max(1, self.train_rows_per_cluster // len(CLUSTERS[CLUSTER_OF[task]])))
        return min((cap for cap in caps if cap is not None), default=None)

    def rows(self, system: AbstractFileSystem, file: str, task: str, split: str) -> list[Row]:
        """The rows drawn from one file, in the order of the file.

        Raises:
            ValueError: A line that was read is not a row, or not UTF-8.
        """
        with system.open(file, "r", encoding="utf-8-sig", block_size=0) as stream:  # block_size 0: no reading ahead
            lines = _numbered_lines(cast("Iterable[str]", stream), file)
            if (cap := self.cap(task, split)) is not None:
                rng = named_generator(self.seed, task, split, "stream")
                lines = islice(shuffle_in_buffer(lines, self.shuffle_buffer, rng), cap)
            return [parse_row(Path(file), number, line) for number, line in sorted(lines)]


def shuffle_in_buffer(
    lines: Iterator[tuple[int, str]], size: int, rng: np.random.Generator
) -> Iterator[tuple[int, str]]:
    """Numbered lines in a random order, drawn from a buffer of `size` lines that is refilled from the stream.

    No line comes more than `size` places early, and the first n need n + `size` lines to be read.
    """
    buffer = list(islice(lines, size))
    for line in lines:
        if buffer:
            slot = rng.integers(len(buffer))
            line, buffer[slot] = buffer[slot], line
        yield line
    yield from (buffer[slot] for slot in rng.permutation(len(buffer)))


def _numbered_lines(stream: Iterable[str], file: str) -> Iterator[tuple[int, str]]:
    try:
        yield from ((number, line) for number, line in enumerate(stream, start=1) if line.strip())
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error.reason}). Save it as UTF-8.") from error


def _find_files(path: str, revision: str | None) -> tuple[AbstractFileSystem, _Files]:
    from fsspec.core import url_to_fs  # imported here because, like the next, it is slow to import
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]  # from its HTTP library

    files: _Files = {}
    try:
        system, root = url_to_fs(_address(path, revision))
        folders = {split_name(PurePosixPath(folder).name): folder for folder in system.ls(root, detail=False)}
        for split in (split for split in SPLITS if split in folders):
            for file in sorted(system.ls(folders[split], detail=False)):
                if file.endswith(".jsonl"):
                    files.setdefault(task_of_file(PurePosixPath(file).stem), {})[split] = file
    except (OSError, ValueError, HTTPError) as error:
        raise ValueError(
            f"Cannot list '{path}': {type(error).__name__}: {error} Set `suite.path` (and `suite.revision`) to the "
            "dataset on the Hub, or to a folder of split/task.jsonl files."
        ) from error
    return system, files


def _address(path: str, revision: str | None) -> str:
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    if "://" in path:
        return path
    if not _HUB_NAME.fullmatch(path):
        raise FileNotFoundError("there is no such folder, and it is not the name of a dataset (owner/name).")
    return f"hf://datasets/{path}" + ("" if revision is None else f"@{quote(revision, safe='')}")


def _choose(names: Sequence[str] | str | None, files: _Files, path: str) -> tuple[str, ...]:
    """The tasks named, all of which have files for train and test."""
    present = [task for task in CLUSTER_OF if task in files]
    absent = [task for task in CLUSTER_OF if task not in files]
    named = [names] if isinstance(names, str) else names
    named_but_absent = [task for task in named or () if task in absent]
    if named_but_absent or not present:
        raise FileNotFoundError(
            f"'{path}' has no split/task.jsonl for {', '.join(named_but_absent) or 'any task of FLAN 2021'}. It has "
            f"{', '.join(present) or 'none'}. Set `suite.tasks` among these, or `suite.path` to another copy."
        )
    if named is None and absent:
        _log.info("'%s' has %d of the %d tasks of FLAN 2021, not %s.", path, len(present), len(CLUSTER_OF), absent)
    chosen = choose_tasks(named, present)
    if missing := [(split, task) for task in chosen for split in ("train", "test") if split not in files[task]]:
        file_names = ", ".join(f"{split}/{task}_10templates_{split}.jsonl" for split, task in missing)
        raise FileNotFoundError(
            f"'{path}' lacks {file_names} (or the same as split/task.jsonl). Every task needs train and test rows: add "
            f"the files, or leave {', '.join(dict.fromkeys(task for _, task in missing))} out of `suite.tasks`."
        )
    return chosen
