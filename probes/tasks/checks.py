"""Checks of the input, before anything expensive runs: unknown names, missing splits and classes, leaks, duplicates."""

from __future__ import annotations

import difflib
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

from probes.tasks.task import Label, RawTask, Split, Task
from probes.values import SPLITS

_log = logging.getLogger(__name__)


def choose_tasks(names: Sequence[str] | str | None, available: Sequence[str]) -> tuple[str, ...]:
    """The tasks named, in that order; all that are available for `None`.

    Raises:
        ValueError: There is no task of that name (the message suggests the closest one and lists all), a name is given
            twice, or none is given.

    Example:
        >>> choose_tasks(["rte"], ["sst2", "rte"])
        ('rte',)
    """
    if names is None:
        return tuple(available)
    chosen = [names] if isinstance(names, str) else list(names)
    for name in chosen:
        if name not in available:
            raise ValueError(
                f"No task '{name}'.{did_you_mean(name, available)} There are {', '.join(available)}. Set `suite.tasks` "
                "among these."
            )
    repeated = [name for name, count in Counter(chosen).items() if count > 1]
    if repeated or not chosen:
        fault = f"names {', '.join(repeated)} twice" if repeated else "is empty"
        raise ValueError(f"`suite.tasks` {fault}. Name each task once, or set `suite.tasks=null` for all.")
    return tuple(chosen)


def did_you_mean(name: str, available: Iterable[str]) -> str:
    """A question for an error message, with a space before it; `""` if no available name is close.

    Example:
        >>> did_you_mean("ste2", ["rte", "sst2"])
        " Did you mean 'sst2'?"
    """
    close = difflib.get_close_matches(name, list(available), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def check_splits(raw: RawTask) -> None:
    """Refuse a task without training or test rows; a missing validation split is allowed, an empty one is not.

    Raises:
        ValueError: A split is missing or empty.
    """
    for split in SPLITS:
        present = split in raw.rows
        if (not present and split != "validation") or (present and not raw.rows[split]):
            state = "is empty" if present else "is missing"
            with_rows = ", ".join(name for name, rows in raw.rows.items() if rows) or "none"
            raise ValueError(
                f"Split '{split}' of task '{raw.name}' {state}; splits with rows: {with_rows}{_place(raw, split)}. "
                "Every task needs train and test rows. Add the file or map the split, or leave the task out of "
                "`suite.tasks`."
            )


def _place(raw: RawTask, split: str) -> str:
    return f"; the rows should be in {raw.locations[split]}" if split in raw.locations else ""


def check_prompts(raw: RawTask, split: str, positions: Sequence[int], prompts: Sequence[str]) -> None:
    """Refuse prompts that are empty or only white space, or that hold half of a surrogate pair.

    Args:
        raw: The task the prompts were rendered from.
        split: Its split.
        positions: Of each prompt's row in that split, counted from 0.
        prompts: As rendered.

    Raises:
        ValueError: A prompt is empty, or no text.
    """
    for position, prompt in zip(positions, prompts, strict=True):
        if not prompt.strip():
            raise ValueError(
                f"The text of {raw.locate(split, position)} is empty. Fill it in or drop the row, or choose another "
                "`suite.prompt`."
            )
        if half := re.search("[\ud800-\udfff]", prompt):
            raise ValueError(
                f"The text of {raw.locate(split, position)} holds half of a surrogate pair, {half[0]!r} at character "
                f"{half.start() + 1}, which is no character. Correct the row."
            )


def check_classes(task: Task) -> None:
    """Refuse a task whose training split lacks classes; warn of classes without any row.

    Raises:
        ValueError: The training split has a single class (classification), or lacks a class that another split has
            (classification, multi-label).
    """
    if task.kind not in {"classification", "multilabel"}:
        return
    classes = {split: _classes_in(rows.labels) for split, rows in task.splits.items()}
    in_train = classes["train"]
    if task.kind == "classification" and len(in_train) < 2:
        raise ValueError(
            f"Task '{task.name}' has a single class in its training split: {_class_names(task, in_train)}. Probing "
            "needs two or more; leave the task out of `suite.tasks`."
        )
    for split, in_split in classes.items():
        if absent := in_split - in_train:
            raise ValueError(
                f"Split '{split}' of task '{task.name}' has rows of class {_class_names(task, absent)}, which train "
                f"lacks; train has {_class_names(task, in_train)}. Correct the splits, or leave the task out of "
                "`suite.tasks`."
            )
    unused = set(range(len(task.labels))) - set().union(*classes.values())
    if task.kind == "classification" and unused:
        _log.warning("Task '%s': no row has the label %s.", task.name, _class_names(task, unused))


def check_leaks(task: Task, *, strict: bool) -> None:
    """Warn of prompts that two splits share (raise if `strict`), of prompts repeated within a split, and of groups.

    Raises:
        ValueError: `strict`, and two splits share a prompt.
    """
    distinct = {split: set(rows.prompts) for split, rows in task.splits.items()}
    for first, second in combinations(distinct, 2):
        if shared := distinct[first] & distinct[second]:
            prompts = task.splits[second].prompts
            message = (
                f"Leak: {sum(prompt in shared for prompt in prompts)} of {len(prompts)} rows in split '{second}' of "
                f"task '{task.name}' are also in '{first}', for example {min(shared)[:80]!r}."
            )
            if strict:
                raise ValueError(f"{message} Drop them, or set `suite.strict=false` to get a warning instead.")
            _log.warning("%s Scores on them are too optimistic; `suite.strict=true` makes this an error.", message)
    for split, rows in task.splits.items():
        _warn_of_duplicates(task.name, split, rows)
    test = task.splits["test"].groups
    if len(set(test)) < len(test):
        _log.warning(
            "The %d test rows of task '%s' have %d values of `suite.group`. Scores, their differences, transfer and "
            "audits resample these values; other measures treat rows as independent, so that their intervals are too "
            "narrow as far as rows of one value are alike.",
            len(test), task.name, len(set(test)),
        )  # fmt: skip


def _classes_in(labels: Iterable[Label]) -> set[int]:
    """The class indices that occur in rows of a classification or a multi-label task."""
    classes: set[int] = set()
    for label in labels:
        if isinstance(label, tuple):
            classes.update(index for index, entry in enumerate(label) if entry)
        elif isinstance(label, int):
            classes.add(label)
    return classes


def _class_names(task: Task, indices: Iterable[int]) -> str:
    return ", ".join(task.labels[index] for index in sorted(indices))


def _warn_of_duplicates(task: str, split: str, rows: Split) -> None:
    duplicates = len(rows) - len(set(rows.prompts))
    if not duplicates:
        return
    answers: defaultdict[str, set[Label | str]] = defaultdict(set)
    for prompt, label, target in zip(rows.prompts, rows.labels, rows.targets, strict=True):
        answers[prompt].add(target if label is None else label)
    ambiguous = sum(len(distinct) > 1 for distinct in answers.values())
    _log.warning(
        "Duplicates: %d rows in split '%s' of task '%s' repeat an earlier prompt; %d prompts have several answers.",
        duplicates, split, task, ambiguous,
    )  # fmt: skip
