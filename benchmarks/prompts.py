"""Prompts as multi-task data come: those of all tasks, shuffled together."""

from __future__ import annotations

import random
from pathlib import Path

from probes.tasks import load_local_suite, starter_suite

FLAN_MINI = Path(__file__).resolve().parents[2] / "shared/data/flan_mini"


def mixture(folder: Path = FLAN_MINI) -> list[str]:
    """The distinct training prompts of every task of a folder, shuffled; of the starter suite where it is absent."""
    suite = load_local_suite(folder) if folder.is_dir() else starter_suite(prompt="instruction")
    texts = sorted({text for task in suite.tasks for text in task.splits["train"].prompts})
    return random.Random(0).sample(texts, len(texts))


def every_nth(batches: list, count: int) -> list:
    """About `count` batches, evenly from the first to the last: the longest prompts are in it and the shortest."""
    return batches[:: max(1, len(batches) // count)]
