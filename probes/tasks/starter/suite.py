"""The starter suite: eleven tasks with known answers, generated from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from probes.tasks.build import build_task
from probes.tasks.checks import choose_tasks
from probes.tasks.prompts import renderer
from probes.tasks.splits import MaxRows
from probes.tasks.starter.clauses import LENGTHS, Sentence, Traits, clauses
from probes.tasks.starter.inferences import ANSWERS, INFERENCE_GROUPS, inferences
from probes.tasks.starter.opinions import OPINION_GROUPS, SENTIMENTS, TOPIC_NAMES, opinions
from probes.tasks.starter.vocabulary import WORD_CONTENT
from probes.tasks.task import RawTask, Row, Suite, Task
from probes.values import SPLITS

CLAUSE_GROUPS = ("people", "animals", "verbs", "adjectives", "adverbs", "places")
_ACCEPTABILITY = ("unacceptable", "acceptable")

Examples = Callable[[int, str], list[tuple[str, int]]]
"""Seed and split → texts with their class indices."""


@dataclass(frozen=True)
class StarterTask:
    """How a task is made.

    Attributes:
        cluster: Syntax, morphology, semantics or surface.
        labels: Names of the classes; in the instruction form, the answers.
        question: What the instruction asks after the sentence.
        examples: Seed and split → texts with class indices.
        held_out: Groups of words whose held-out third stands in the test split only. The eight nouns of
            `word_content` are in no group: they stand in every split.
    """

    cluster: str
    labels: tuple[str, ...]
    question: str
    examples: Examples
    held_out: tuple[str, ...] = CLAUSE_GROUPS

    def rows(self, seed: int, split: str) -> list[Row]:
        """Rows with `inputs`, `targets`, `text` and `label`."""
        return [
            {"inputs": f"{text}\n{self.question}", "targets": self.labels[label], "text": text, "label": label}
            for text, label in self.examples(seed, split)
        ]


def _trait(value: Callable[[Traits], int]) -> Examples:
    return lambda seed, split: [(sentence.text, value(sentence.traits)) for sentence in clauses(seed, split)]


def _acceptability(name: str, broken: Callable[[Sentence, random.Random], Sentence]) -> Examples:
    """The shorter half of the sentences, each beside its broken twin."""

    def examples(seed: int, split: str) -> list[tuple[str, int]]:
        rng = random.Random(f"{seed}/{name}/{split}")
        short = [sentence for sentence in clauses(seed, split) if sentence.traits.length < len(LENGTHS) // 2]
        rows = [row for sentence in short for row in ((sentence.text, 1), (broken(sentence, rng).text, 0))]
        rng.shuffle(rows)
        return rows

    return examples


STARTER_TASKS: dict[str, StarterTask] = {
    "subject_number": StarterTask(
        "syntax",
        ("singular", "plural"),
        "Is the subject of the main clause singular or plural?",
        _trait(lambda traits: traits.subject_plural),
    ),
    "object_number": StarterTask(
        "syntax",
        ("singular", "plural"),
        "Is the object of the main clause singular or plural?",
        _trait(lambda traits: traits.object_plural),
    ),
    "negation_scope": StarterTask(
        "syntax",
        ("subordinate", "main"),
        "Which clause is negated, main or subordinate?",
        _trait(lambda traits: traits.main_negated),
    ),
    "word_order": StarterTask(
        "syntax",
        _ACCEPTABILITY,
        "Is the order of the words acceptable or unacceptable?",
        _acceptability("word_order", lambda sentence, rng: sentence.with_wrong_order(rng)),
    ),
    "agreement": StarterTask(
        "morphology",
        _ACCEPTABILITY,
        "Is the agreement of the verbs with their subjects acceptable or unacceptable?",
        _acceptability("agreement", lambda sentence, _: sentence.with_wrong_agreement()),
    ),
    "tense": StarterTask(
        "morphology",
        ("present", "past"),
        "Is the main clause in the present or past tense?",
        _trait(lambda traits: traits.main_past),
    ),
    "sentiment": StarterTask(
        "semantics",
        SENTIMENTS,
        "Is this opinion positive or negative?",
        lambda seed, split: [(opinion.text, opinion.sentiment) for opinion in opinions(seed, split)],
        OPINION_GROUPS,
    ),
    "topic": StarterTask(
        "semantics",
        TOPIC_NAMES,
        f"Is this about {', '.join(TOPIC_NAMES[:-1])} or {TOPIC_NAMES[-1]}?",
        lambda seed, split: [(opinion.text, opinion.topic) for opinion in opinions(seed, split)],
        OPINION_GROUPS,
    ),
    "entailment": StarterTask(
        "semantics",
        ANSWERS,
        "Does the second sentence follow from the first, yes or no?",
        lambda seed, split: [(pair.text, pair.follows) for pair in inferences(seed, split)],
        INFERENCE_GROUPS,
    ),
    "sentence_length": StarterTask(
        "surface",
        tuple(f"{fewest}-{most}" for fewest, most in LENGTHS),
        "How many words has the sentence: " + ", ".join(f"{fewest}-{most}" for fewest, most in LENGTHS) + "?",
        _trait(lambda traits: traits.length),
    ),
    "word_content": StarterTask(
        "surface",
        WORD_CONTENT,
        f"Which of these does the sentence mention: {', '.join(WORD_CONTENT)}?",
        _trait(lambda traits: traits.word),
    ),
}
"""Task name → recipe."""


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
    for task in choose_tasks(tasks, tuple(STARTER_TASKS)):
        recipe = STARTER_TASKS[task]
        table = RawTask(
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
