"""A toy suite for layer-by-layer studies of the tiny backbone: short prompts, answers in words."""

from __future__ import annotations

import random
from collections.abc import Mapping

from probes.tasks import Split, Suite, Task
from probes.tuning import TuningSettings

TUNING = TuningSettings(
    learning_rate=1e-2, max_steps=5, batch_size=8, rank=4, dropout=0.1, generate_rows=2, max_new_tokens=2,
    checkpoint_every_n_steps=1,
)  # fmt: skip
_ANSWERS = {"a": ("yes", "no"), "b": ("cat", "dog"), "c": ("up", "down")}


def toy_task(name: str, *, cluster: str = "", unseen: bool = False, sizes: Mapping[str, int] | None = None) -> Task:
    """Whether the number in a prompt is odd, in the task's own words; every prompt ends in another letter."""
    sizes = sizes or {"train": 16, "validation": 6, "test": 12}
    splits = {split: _rows(name, split, number) for split, number in sizes.items()}
    return Task(name, "classification", _ANSWERS[name], splits, cluster, unseen)


def toy_suite(*, unseen: str = "c") -> Suite:
    """Tasks a and b of one cluster, and c of another."""
    clusters = {"a": "near", "b": "near", "c": "far"}
    tasks = (toy_task(name, cluster=cluster, unseen=name in unseen) for name, cluster in clusters.items())
    return Suite("toys", tuple(tasks))


def _rows(name: str, split: str, number: int) -> Split:
    draw = random.Random(f"{name} {split}")
    labels = tuple(i % 2 for i in range(number))
    prompts = tuple(f"{name} {split[:2]} {2 * i + label} {draw.choice('mnopqrst')}" for i, label in enumerate(labels))
    return Split(prompts, labels, tuple(_ANSWERS[name][label] for label in labels))
