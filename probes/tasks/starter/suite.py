"""The starter suite: eleven tasks with known answers, generated from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from probes.tasks.build import build_task
from probes.tasks.checks import choose_tasks
from probes.tasks.pairs import build_pairs
from probes.tasks.prompts import prompt_renderer
from probes.tasks.splits import MaxRows
from probes.tasks.starter.clauses import LENGTHS, Sentence, Traits, clauses
from probes.tasks.starter.inferences import ANSWERS, INFERENCE_GROUPS, inferences
from probes.tasks.starter.opinions import OPINION_GROUPS, SENTIMENTS, opinions
from probes.tasks.starter.restatements import restatements
from probes.tasks.starter.vocabulary import TOPICS, WORD_CONTENT
from probes.tasks.task import RawTask, Row, Suite, Task
from probes.values import SPLITS

CLAUSE_GROUPS = ("people", "animals", "verbs", "adjectives", "adverbs", "places")
"""Groups of the vocabulary that the sentences of two clauses are made of."""

_ACCEPTABILITY = ("unacceptable", "acceptable")
_Examples = Callable[[int, str], list[tuple[str, int]]]
"""Generates texts with their class indices from a seed, for a split."""


def starter_suite(
    tasks: Sequence[str] | None = None,
    max_rows: MaxRows = None,
    prompt: str = "raw",
    template: str | None = None,
    *,
    seed: int = 0,
    strict: bool = False,
    pairs: bool = False,
    name: str = "starter",
) -> Suite:
    """Generate the starter suite: 800 training, 200 validation and 400 test rows per task, with balanced classes.

    The content words of the test rows do not occur in train or validation (see `held_out_words`), except for the eight
    nouns that `word_content` asks for. With the `raw` prompt, tasks share their sentences, so that each text is encoded
    once for all of them. The rows of a task depend only on the seed, not on the other tasks of the suite or on global
    random state.

    Args:
        tasks: Names of the tasks to generate, in this order; `None` for all.
        max_rows: At most this many rows in each split, or a mapping split → rows, drawn so that no class vanishes.
        prompt: `raw`, the bare sentence, or `instruction`, the sentence and a question.
        template: A string with the placeholders `{text}` or `{inputs}`, used in place of `prompt`.
        seed: Decides the sentences, the held-out words and which rows are drawn.
        strict: Raise on prompts that two splits share instead of warning; the full prompts share none.
        pairs: Whether to add `restatements`, pairs of texts for similarity and retrieval by layer, without probes.
        name: Name of the suite.

    Raises:
        ValueError: A task, prompt or placeholder is unknown, or `max_rows` is out of range.

    Example:
        >>> task = starter_suite(["tense"], max_rows=8).tasks[0]
        >>> task.labels, len(task.splits["test"])
        (('present', 'past'), 8)
    """
    built: list[Task] = []
    for task in choose_tasks(tasks, tuple(STARTER_TASKS)):
        definition = STARTER_TASKS[task]
        raw = RawTask(
            name=task,
            rows={split: definition.rows(seed, split) for split in SPLITS},
            kind="classification",
            labels=definition.labels,
            cluster=definition.cluster,
            source="generated",
            ordered=definition.ordered,
            asks_for=definition.asks_for,
        )
        render = prompt_renderer(task, raw.rows["train"], prompt=prompt, template=template)
        built.append(build_task(raw, render, max_rows=max_rows, seed=seed, strict=strict))
    if pairs:
        built.append(build_pairs(restatements(seed), max_rows=max_rows, seed=seed))
    return Suite(name, tuple(built))


@dataclass(frozen=True)
class StarterTask:
    """How one task of the starter suite is generated.

    Attributes:
        cluster: Syntax, morphology, semantics or surface.
        labels: Names of the classes, and the answers to the question.
        question: What the instruction asks after the text.
        examples: Generates texts with their class indices from a seed, for a split.
        held_out: Groups of the vocabulary, a third of whose words occur in the test split only. The eight nouns of
            `word_content` are in none of the groups; they occur in every split.
        ordered: Whether the classes are in order.
        asks_for: Nuisances that the task asks for, so that its score says nothing of what lies behind them.
    """

    cluster: str
    labels: tuple[str, ...]
    question: str
    examples: _Examples
    held_out: tuple[str, ...] = CLAUSE_GROUPS
    ordered: bool = False
    asks_for: tuple[str, ...] = ()

    def rows(self, seed: int, split: str) -> list[Row]:
        """Rows with `inputs`, `targets`, `text` and `label`."""
        return [
            {"inputs": f"{text}\n{self.question}", "targets": self.labels[label], "text": text, "label": label}
            for text, label in self.examples(seed, split)
        ]


def _trait_examples(trait: Callable[[Traits], int]) -> _Examples:
    return lambda seed, split: [(sentence.text, trait(sentence.traits)) for sentence in clauses(seed, split)]


def _acceptability_examples(name: str, corrupt: Callable[[Sentence, random.Random], Sentence]) -> _Examples:
    """The shorter half of the sentences, each with its corrupted version."""

    def examples(seed: int, split: str) -> list[tuple[str, int]]:
        rng = random.Random(f"{seed}/{name}/{split}")
        short = [sentence for sentence in clauses(seed, split) if sentence.traits.length < len(LENGTHS) // 2]
        rows = [row for sentence in short for row in ((sentence.text, 1), (corrupt(sentence, rng).text, 0))]
        rng.shuffle(rows)
        return rows

    return examples


STARTER_TASKS: dict[str, StarterTask] = {
    "subject_number": StarterTask(
        "syntax",
        ("singular", "plural"),
        "Is the subject of the main clause singular or plural?",
        _trait_examples(lambda traits: traits.subject_plural),
    ),
    "object_number": StarterTask(
        "syntax",
        ("singular", "plural"),
        "Is the object of the main clause singular or plural?",
        _trait_examples(lambda traits: traits.object_plural),
    ),
    "negation_scope": StarterTask(
        "syntax",
        ("subordinate", "main"),
        "Which clause is negated, main or subordinate?",
        _trait_examples(lambda traits: traits.main_negated),
    ),
    "word_order": StarterTask(
        "syntax",
        _ACCEPTABILITY,
        "Is the order of the words acceptable or unacceptable?",
        _acceptability_examples("word_order", lambda sentence, rng: sentence.with_wrong_order(rng)),
    ),
    "agreement": StarterTask(
        "morphology",
        _ACCEPTABILITY,
        "Is the agreement of the verbs with their subjects acceptable or unacceptable?",
        _acceptability_examples("agreement", lambda sentence, _: sentence.with_wrong_agreement()),
    ),
    "tense": StarterTask(
        "morphology",
        ("present", "past"),
        "Is the main clause in the present or past tense?",
        _trait_examples(lambda traits: traits.main_past),
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
        TOPICS,
        f"Is this about {', '.join(TOPICS[:-1])} or {TOPICS[-1]}?",
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
        _trait_examples(lambda traits: traits.length),
        ordered=True,
        asks_for=("length",),
    ),
    "word_content": StarterTask(
        "surface",
        WORD_CONTENT,
        f"Which of these does the sentence mention: {', '.join(WORD_CONTENT)}?",
        _trait_examples(lambda traits: traits.word),
        asks_for=("words",),
    ),
}
"""Task name → how the task is generated."""
