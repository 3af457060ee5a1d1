"""Bad input, found before anything expensive runs: empty texts, lost classes, leaks, duplicates, unknown names."""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

from probes.tasks.task import RawTask, Split, Task
from probes.values import SPLITS

_log = logging.getLogger(__name__)


def choose_tasks(wanted: Sequence[str] | str | None, available: Sequence[str]) -> tuple[str, ...]:
    """Names of the tasks wanted, all of them for `None`.

    Raises:
        ValueError: A name is unknown (the message shows the close match and what there is), repeated, or none is left.

    Example:
        >>> choose_tasks(["rte"], ["sst2", "rte"])
        ('rte',)
    """
    if wanted is None:
        return tuple(available)
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if name not in available:
            close = difflib.get_close_matches(name, available, n=1)
            meant = f" Did you mean '{close[0]}'?" if close else ""
            raise ValueError(
                f"No task '{name}'.{meant} There are {', '.join(available)}. Set `suite.tasks` among these."
            )
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated or not names:
        fault = f"names {', '.join(repeated)} twice" if repeated else "is empty"
        raise ValueError(f"`suite.tasks` {fault}. Name each task once, or set `suite.tasks=null` for all.")
    return tuple(names)


def check_splits(table: RawTask) -> None:
    """Refuse a task without training or test rows; a missing validation split is carved from train elsewhere.

    Raises:
        ValueError: A split is missing or empty.
    """
    for split in SPLITS:
        present = split in table.rows
        if (not present and split != "validation") or (present and not table.rows[split]):
            state = "is empty" if present else "is missing"
            there = ", ".join(name for name, rows in table.rows.items() if rows) or "none"
            raise ValueError(
                f"Split '{split}' of task '{table.name}' {state}; splits with rows: {there}. Every task needs train "
                "and test rows. Add the file or map the split, or leave the task out of `suite.tasks`."
            )


def check_texts(table: RawTask, split: str, positions: Sequence[int], prompts: Sequence[str]) -> None:
    """Refuse empty prompts.

    Raises:
        ValueError: A prompt has nothing but white space.
    """
    for position, prompt in zip(positions, prompts, strict=True):
        if not prompt.strip():
            raise ValueError(
                f"The text of {table.place(split, position)} is empty. Fill it or drop the row, or choose another "
                "`suite.prompt`."
            )


def check_classes(task: Task) -> None:
    """Refuse tasks whose training split cannot teach what the other splits ask.

    Raises:
        ValueError: A single class in train, or a class of another split that train has not.
    """
    if task.kind == "multilabel":
        _check_bearers(task)
    if task.kind != "classification":
        return
    seen = {split: {label for label in rows.labels if isinstance(label, int)} for split, rows in task.splits.items()}
    if len(seen["train"]) < 2:
        only = ", ".join(task.labels[index] for index in seen["train"])
        raise ValueError(
            f"Task '{task.name}' has a single class in its training split: {only}. Probing expects two or more; "
            "leave the task out of `suite.tasks`."
        )
    for split, classes in seen.items():
        if missing := sorted(classes - seen["train"]):
            _refuse_absent(task, split, missing, sorted(seen["train"]))
    if idle := sorted(set(range(len(task.labels))) - set().union(*seen.values())):
        _log.warning("Task '%s': no row is labelled %s.", task.name, ", ".join(task.labels[index] for index in idle))


def _check_bearers(task: Task) -> None:
    seen = {
        split: {
            index for label in rows.labels if isinstance(label, tuple) for index, entry in enumerate(label) if entry
        }
        for split, rows in task.splits.items()
    }
    for split, bearers in seen.items():
        if missing := sorted(bearers - seen["train"]):
            _refuse_absent(task, split, missing, sorted(seen["train"]))


def _refuse_absent(task: Task, split: str, missing: Iterable[int], present: Iterable[int]) -> None:
    wanted, known = (", ".join(task.labels[index] for index in indices) for indices in (missing, present))
    raise ValueError(
        f"Split '{split}' of task '{task.name}' asks for {wanted}: absent in train, which has {known}. "
        "Mend the splits, or leave the task out of `suite.tasks`."
    )


def check_leaks(task: Task, *, strict: bool) -> None:
    """Count prompts that two splits share; said in the _log, refused if strict. Repeats within a split are said too.

    Raises:
        ValueError: `strict`, and a prompt stands in two splits.
    """
    distinct = {split: set(rows.prompts) for split, rows in task.splits.items()}
    for one, other in combinations(distinct, 2):
        if shared := distinct[one] & distinct[other]:
            rows = task.splits[other].prompts
            message = (
                f"Leak: {sum(prompt in shared for prompt in rows)} of {len(rows)} rows in split '{other}' of task "
                f"'{task.name}' also stand in '{one}', such as {min(shared)[:80]!r}."
            )
            if strict:
                raise ValueError(f"{message} Drop them, or set `suite.strict=false` to be warned only.")
            _log.warning("%s Scores on it flatter; `suite.strict=true` refuses it.", message)
    for split, rows in task.splits.items():
        _say_repeats(task.name, split, rows)


def _say_repeats(task: str, split: str, rows: Split) -> None:
    repeats = len(rows) - len(set(rows.prompts))
    if repeats:
        answers: dict[str, set[object]] = {}
        for prompt, label, target in zip(rows.prompts, rows.labels, rows.targets, strict=True):
            answers.setdefault(prompt, set()).add(target if label is None else label)
        torn = sum(len(different) > 1 for different in answers.values())
        _log.warning(
            "Duplicates: %d rows in split '%s' of task '%s' repeat an earlier prompt; %d prompts have several answers.",
            repeats, split, task, torn,
        )  # fmt: skip
