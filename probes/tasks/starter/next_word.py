"""Beginnings of sentences whose next word shows what a model has understood: number, time and gender of the subject.

A small language model that answers no question about grammar still chooses between *was* and *were*. Each task has two
labels, which are such words, so that studies of answers ask a model in its own terms. Labels are balanced, and the
noun that stands between the subject and its verb has a number of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from probes.tasks.build import build_task
from probes.tasks.checks import choose_tasks
from probes.tasks.prompts import prompt_renderer
from probes.tasks.splits import MaxRows
from probes.tasks.starter.vocabulary import PREPOSITIONS, Vocabulary, plural, vocabulary
from probes.tasks.task import RawTask, Row, Suite
from probes.values import SPLITS

ROWS = {"train": 400, "validation": 100, "test": 200}
"""Split → rows of every task."""
INSTRUCTION = "Continue the sentence."

TIMES = (
    ("yesterday", "last week", "last month", "last year", "two days ago", "a year ago"),
    ("tomorrow", "next week", "next month", "next year", "two days from now", "a year from now"),
)
"""When something was, and when something will be."""

_Beginning = Callable[[int, Vocabulary, random.Random], str]
"""Writes a beginning whose next word is the label of this number."""


def next_word_suite(
    tasks: Sequence[str] | None = None,
    max_rows: MaxRows = None,
    prompt: str = "instruction",
    template: str | None = None,
    *,
    seed: int = 0,
    strict: bool = False,
    name: str = "next_word",
) -> Suite:
    """Generate tasks whose label is the next word of a sentence: 400 training, 100 validation and 200 test rows each.

    `verb_number`: *was* after a singular subject, *were* after a plural one, with another noun in between whose number
    is independent. `verb_time`: *was* or *will*, by a time at the beginning. `pronoun`: *he* or *she*, by the subject.
    A third of the nouns and adjectives that a task uses occur in its test rows only; times occur in all splits.

    Args:
        tasks: Names of the tasks to generate, in this order; `None` for all.
        max_rows: At most this many rows in each split, or a mapping split → rows, drawn so that no class vanishes.
        prompt: `instruction`: "Continue the sentence.", and the beginning on a line of its own; `raw`: the beginning.
        template: A string with the placeholders `{text}` or `{inputs}`, used in place of `prompt`.
        seed: Decides the sentences, the held-out words and which rows are drawn.
        strict: Raise on prompts that two splits share instead of warning; the full prompts share none.
        name: Name of the suite.

    Raises:
        ValueError: A task, prompt or placeholder is unknown, or `max_rows` is out of range.

    Example:
        >>> task = next_word_suite(["verb_number"], max_rows=4).tasks[0]
        >>> task.labels, len(task.splits["test"])
        (('was', 'were'), 4)
    """
    built = []
    for task in choose_tasks(tasks, tuple(_TASKS)):
        labels, begin = _TASKS[task]
        raw = RawTask(
            name=task,
            rows=_rows(task, labels, begin, seed),
            kind="classification",
            labels=labels,
            cluster="next word",
            source="generated",
        )
        render = prompt_renderer(task, raw.rows["train"], prompt=prompt, template=template)
        built.append(build_task(raw, render, max_rows=max_rows, seed=seed, strict=strict))
    return Suite(name, tuple(built))


def _rows(task: str, labels: tuple[str, str], begin: _Beginning, seed: int) -> dict[str, list[Row]]:
    """All different rows of each split, with equally many of both labels."""
    drawn: set[str] = set()
    rows: dict[str, list[Row]] = {}
    for split in SPLITS:
        rng = random.Random(f"{seed}/{task}/{split}")
        words, of_split = vocabulary(seed, split), []
        for number in range(ROWS[split]):
            label = number % 2
            text = begin(label, words, rng)
            while text in drawn:
                text = begin(label, words, rng)
            drawn.add(text)
            of_split.append(
                {"inputs": f"{INSTRUCTION}\n{text}", "targets": labels[label], "text": text, "label": label}
            )
        rng.shuffle(of_split)
        rows[split] = of_split
    return rows


def _verb_number(label: int, words: Vocabulary, rng: random.Random) -> str:
    subject, place = words.pick(rng, "people"), words.pick(rng, "places")
    return f"The {_numbered(subject, label)} {rng.choice(PREPOSITIONS)} the {_numbered(place, rng.randrange(2))}"


def _verb_time(label: int, words: Vocabulary, rng: random.Random) -> str:
    time, place = rng.choice(TIMES[label]), words.pick(rng, "places")
    where = f"{rng.choice(PREPOSITIONS)} the {_numbered(place, rng.randrange(2))}"
    return f"{time.capitalize()}, the {words.pick(rng, 'people')} {where}"


def _pronoun(label: int, words: Vocabulary, rng: random.Random) -> str:
    subject = words.pick(rng, "relatives")[label]
    where = f"{rng.choice(PREPOSITIONS)} the {words.pick(rng, 'places')}"
    return f"The {subject} {where} was {words.pick(rng, 'adjectives')}, because"


def _numbered(noun: str, is_plural: int) -> str:
    return plural(noun) if is_plural else noun


_TASKS: Mapping[str, tuple[tuple[str, str], _Beginning]] = {
    "verb_number": (("was", "were"), _verb_number),
    "verb_time": (("was", "will"), _verb_time),
    "pronoun": (("he", "she"), _pronoun),
}
