"""What models are tuned on: each task's answers, and the mixture of all seen tasks, no cluster more than its share."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from probes.backbones import FrozenBackbone
from probes.callbacks import LiveRows
from probes.studies.suite_activations import labels_of_test_rows
from probes.tasks import Suite, Task
from probes.tuning import TuningExamples
from probes.values import SPLITS

WATCHED_ROWS = 64
"""Test rows of each seen task whose layers are measured while the experimental model is tuned."""
MIN_TEST_ROWS = 5
"""CKA needs four rows, and the jackknife leaves one out."""
_CONTRADICTIONS = 0.01
"""Share of a task's training prompts that may have another answer in another task."""


@dataclass(frozen=True, kw_only=True)
class MixtureSettings:
    """How the experimental model is made, and which controls are tuned again.

    Attributes:
        experimental: `tuned` on the mixture of all seen tasks, or `merged` from their controls by adding them up.
        merge_coefficient: What the sum of the controls' changes is multiplied by (merged only).
        rows_per_cluster: Training rows of one cluster in the mixture at most.
        replicate_tasks: How many tasks, the first of the suite, have their controls tuned with other seeds too.
        replicate_seeds: How many other seeds.
        experimental_seeds: How many experimental models are tuned on the same rows, with different seeds (tuned only).
        unseen: Tasks kept out of the mixture, by name or cluster; `None`: those the suite marks.
    """

    experimental: str = "tuned"
    merge_coefficient: float = 0.4
    rows_per_cluster: int = 50_000
    replicate_tasks: int = 2
    replicate_seeds: int = 1
    experimental_seeds: int = 1
    unseen: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.experimental not in {"tuned", "merged"}:
            raise ValueError(
                f"Unknown experimental model '{self.experimental}'. Set `study.mixture.experimental` to tuned or "
                "merged."
            )
        least_values = {"rows_per_cluster": 1, "replicate_tasks": 0, "replicate_seeds": 0, "experimental_seeds": 1}
        for key, least in least_values.items():
            if getattr(self, key) < least:
                raise ValueError(
                    f"`study.mixture.{key}` expects a whole number from {least} up; got {getattr(self, key)}."
                )
        if self.experimental == "merged" and self.experimental_seeds > 1:
            raise ValueError(
                f"A merged model has no seed of its own; got {self.experimental_seeds} experimental models. Set "
                "`study.mixture.experimental_seeds=1`, or `study.mixture.experimental=tuned`."
            )


def mark_unseen(suite: Suite, unseen: Sequence[str] | None) -> Suite:
    """The suite with other tasks marked as kept out of the mixture.

    Raises:
        ValueError: A name is neither a task nor a cluster.
    """
    if unseen is None:
        return suite
    clusters = dict.fromkeys(task.cluster for task in suite.tasks if task.cluster)
    unknown = sorted(set(unseen) - {task.name for task in suite.tasks} - set(clusters))
    if unknown:
        raise ValueError(
            f"Suite '{suite.name}' has no task or cluster {', '.join(unknown)}. Set `study.mixture.unseen` among "
            f"{', '.join(task.name for task in suite.tasks)} and {', '.join(clusters)}."
        )
    marked = [replace(task, unseen=task.name in unseen or task.cluster in unseen) for task in suite.tasks]
    return Suite(suite.name, tuple(marked))


def task_examples(task: Task) -> dict[str, TuningExamples]:
    """A task's prompts with their answers, by split."""
    return {name: TuningExamples(split.prompts, split.targets) for name, split in task.splits.items() if name in SPLITS}


def mixture_examples(suite: Suite, *, rows_per_cluster: int, seed: int) -> dict[str, TuningExamples]:
    """Rows of all seen tasks together; a cluster with more training rows than allowed gives a seeded sample of them.

    Args:
        suite: Its tasks that are not marked unseen are mixed; a task without cluster is a cluster of its own.
        rows_per_cluster: Training rows of one cluster at most; validation and test rows are all kept.
        seed: Decides the sample.

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
    mixed = {"train": _joined(list(drawn.values()))}
    for split in ("validation", "test"):
        mixed[split] = _joined([task_examples(task)[split] for task in seen if split in task.splits])
    return mixed


def refuse_contradictions(suite: Suite) -> None:
    """Refuse seen tasks that give different answers to the same prompts: no model can learn both.

    Raises:
        ValueError: Over 1 % of a task's training prompts have another answer in another task, as bare sentences may.
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
        if shared > _CONTRADICTIONS * fewest[one, other]:
            raise ValueError(
                f"Tasks '{one}' and '{other}' share {shared} training prompts but give different answers to them. Set "
                "`suite.prompt=instruction`, which says what is asked, or leave one out of `suite.tasks`."
            )


def _drawn(tasks: Sequence[Task], cluster: str, at_most: int, seed: int) -> TuningExamples:
    rows = _joined([task_examples(task)["train"] for task in tasks])
    if len(rows) <= at_most:
        return rows
    chosen = np.random.default_rng([seed, zlib.crc32(cluster.encode())]).permutation(len(rows))[:at_most]
    order = sorted(chosen.tolist())
    return TuningExamples(tuple(rows.prompts[i] for i in order), tuple(rows.targets[i] for i in order))


def _joined(parts: Sequence[TuningExamples]) -> TuningExamples:
    return TuningExamples(
        tuple(prompt for part in parts for prompt in part.prompts),
        tuple(target for part in parts for target in part.targets),
    )


def with_answers(suite: Suite) -> Suite:
    """The suite, after checking that every task has what tuning needs.

    Raises:
        ValueError: No tasks; a task without training rows, with too few test rows, or with rows without answer.
    """
    for task in suite.tasks:
        for split, least in (("train", 1), ("test", MIN_TEST_ROWS)):
            rows = len(task.splits[split]) if split in task.splits else 0
            if rows < least:
                raise ValueError(
                    f"Task '{task.name}' has {rows} {split} rows; a layer-by-layer study needs {least} or more. "
                    "Mend the data, set `suite.max_rows` higher, or leave the task out of `suite.tasks`."
                )
        empty = sum(not target.strip() for split in task.splits.values() for target in split.targets)
        if empty:
            raise ValueError(
                f"Task '{task.name}' has {empty} rows without an answer in words to tune on. Set "
                "`suite.prompt=instruction`, or leave the task out of `suite.tasks`."
            )
    if not suite.tasks:
        raise ValueError(f"Suite '{suite.name}' has no tasks. Set `suite.tasks`.")
    return suite


def watched_rows(base: FrozenBackbone, suite: Suite) -> LiveRows:
    """The first test rows of every seen task, whose layers can be measured while the experimental model is tuned."""
    texts, labels = {}, {}
    for task in suite.tasks:
        if not task.unseen:
            texts[task.name] = task.splits["test"].prompts[:WATCHED_ROWS]
            of_task = labels_of_test_rows(task)
            if of_task is not None:
                labels[task.name] = of_task[:WATCHED_ROWS]
    return LiveRows(base, texts, labels)
