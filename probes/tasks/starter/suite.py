"""The embedded suite: eleven tasks with known answers, made on the spot from a seed."""

from __future__ import annotations

from collections.abc import Sequence

from probes.tasks.build import build_task
from probes.tasks.checks import choose_tasks
from probes.tasks.prompts import renderer
from probes.tasks.rows import TaskRows
from probes.tasks.splits import MaxRows
from probes.tasks.starter.catalog import RECIPES
from probes.tasks.task import SPLITS, Suite, Task


def starter_suite(
    tasks: Sequence[str] | None = None,
    max_rows: MaxRows = None,
    prompt: str = "raw",
    template: str | None = None,
    *,
    seed: int = 0,
    strict: bool = False,
    name: str = "starter",
) -> Suite:
    """Make the starter suite: 800 training, 200 validation and 400 test rows a task, every class equally often.

    Content words of the test rows are held out of train and validation (`held_out_words`), but for the eight nouns
    `word_content` asks for. With `raw`, tasks share their sentences, so a text is encoded once for all of them. A
    task's rows depend on the seed alone, neither on the other tasks asked for nor on global random state.

    Args:
        tasks: Names of the tasks wanted, in this order; all of them for `None`.
        max_rows: Rows at most in each split (or a mapping split → rows), drawn by `seed` so that no class vanishes.
        prompt: `raw`, the bare sentence, or `instruction`, the sentence and a question.
        template: A string with the placeholders `{text}` or `{inputs}` instead.
        seed: Decides words, sentences and held-out words.
        strict: Refuse rows that stand in two splits instead of warning; there are none.
        name: Name of the suite.

    Raises:
        ValueError: An unknown task, prompt or placeholder, or a bad `max_rows`.

    Example:
        >>> task = starter_suite(["tense"], max_rows=8).tasks[0]
        >>> task.labels, len(task.splits["test"])
        (('present', 'past'), 8)
    """
    built: list[Task] = []
    for task in choose_tasks(tasks, tuple(RECIPES)):
        recipe = RECIPES[task]
        table = TaskRows(
            name=task,
            rows={split: recipe.rows(seed, split) for split in SPLITS},
            kind="classification",
            labels=recipe.labels,
            cluster=recipe.cluster,
            source="generated",
        )
        render = renderer(task, table.rows["train"], prompt=prompt, template=template)
        built.append(build_task(table, render, max_rows=max_rows, seed=seed, strict=strict))
    return Suite(name, tuple(built))
