"""Rows drawn from the head of a file as it streams by, and how many of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import numpy as np

from probes.tasks.flan2021_tasks import CLUSTER_OF, CLUSTERS
from probes.tasks.local import read_row
from probes.tasks.rows import Row
from probes.tasks.splits import MaxRows, generator, row_cap
from probes.tasks.task import SPLITS

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

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
                "`suite.train_rows_per_cluster` wants a whole number from 1 up, or null; got "
                f"{self.train_rows_per_cluster}."
            )
        if self.shuffle_buffer < 0:
            raise ValueError(f"`suite.shuffle_buffer` wants a whole number from 0 up; got {self.shuffle_buffer}.")
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
