"""The rows the experimental model is tuned on: every seen task, no cluster more than its share."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from probes.tasks import Suite, Task
from probes.training.tuning import TuningExamples

TUNING_SPLITS = ("train", "validation", "test")
_CLASHES = 0.01


def task_examples(task: Task) -> dict[str, TuningExamples]:
    """A task's prompts with their answers, by split."""
    return {
        name: TuningExamples(split.prompts, split.targets)
        for name, split in task.splits.items()
        if name in TUNING_SPLITS
    }


def mixture_examples(suite: Suite, *, rows_per_cluster: int, seed: int) -> dict[str, TuningExamples]:
    """Rows of all seen tasks together; of a cluster with more training rows than allowed, a seeded draw.

    Args:
        suite: Its tasks that are not marked unseen are mixed; a task without cluster is a cluster of its own.
        rows_per_cluster: Training rows of one cluster at most; validation and test rows are not drawn from.
        seed: Decides the draw.

    Raises:
        ValueError: No task is seen.
    """
    seen = [task for task in suite.tasks if not task.unseen]
    if not seen:
        raise ValueError(
            f"Suite '{suite.name}' has no seen task to mix: all {len(suite.tasks)} are marked unseen. "
            "Set `study.mixture.unseen` to fewer."
        )
    clusters: dict[str, list[Task]] = {}
    for task in seen:
        clusters.setdefault(task.cluster or task.name, []).append(task)
    drawn = {name: _drawn(tasks, name, rows_per_cluster, seed) for name, tasks in clusters.items()}
    mixed = {"train": _together(list(drawn.values()))}
    for split in ("validation", "test"):
        mixed[split] = _together([task_examples(task)[split] for task in seen if split in task.splits])
    return mixed


def refuse_contradictions(suite: Suite) -> None:
    """Refuse seen tasks that ask alike and want other answers: no model can learn both.

    Raises:
        ValueError: Over 1 % of a task's training prompts stand in another with another answer, as bare sentences do.
    """
    first: dict[str, tuple[Task, str]] = {}
    clashes: Counter[tuple[str, str]] = Counter()
    fewest: dict[tuple[str, str], int] = {}
    for task in suite.tasks:
        train = task.splits["train"]
        for prompt, target in zip(train.prompts, train.targets, strict=True) if not task.unseen else ():
            other, answer = first.setdefault(prompt, (task, target))
            if other is not task and answer != target:
                pair = (other.name, task.name)
                clashes[pair] += 1
                fewest[pair] = min(len(other.splits["train"]), len(train))
    for (one, other), shared in clashes.most_common():
        if shared > _CLASHES * fewest[one, other]:
            raise ValueError(
                f"Tasks '{one}' and '{other}' share {shared} training prompts and want other answers to them. Set "
                "`suite.prompt=instruction`, which says what is asked, or leave one out of `suite.tasks`."
            )


def _drawn(tasks: Sequence[Task], cluster: str, at_most: int, seed: int) -> TuningExamples:
    rows = _together([task_examples(task)["train"] for task in tasks])
    if len(rows) <= at_most:
        return rows
    chosen = np.random.default_rng([seed, zlib.crc32(cluster.encode())]).permutation(len(rows))[:at_most]
    order = sorted(chosen.tolist())
    return TuningExamples(tuple(rows.prompts[i] for i in order), tuple(rows.targets[i] for i in order))


def _together(parts: Sequence[TuningExamples]) -> TuningExamples:
    return TuningExamples(
        tuple(prompt for part in parts for prompt in part.prompts),
        tuple(target for part in parts for target in part.targets),
    )
