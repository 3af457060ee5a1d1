"""The tasks of the starter suite: what each asks, and its rows."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from probes.tasks.rows import Row
from probes.tasks.starter.clauses import LENGTHS, Sentence, Traits, clauses
from probes.tasks.starter.inferences import ANSWERS, INFERENCE_GROUPS, inferences
from probes.tasks.starter.nouns import WORD_CONTENT
from probes.tasks.starter.opinions import OPINION_GROUPS, SENTIMENTS, TOPIC_NAMES, opinions

CLAUSE_GROUPS = ("people", "animals", "verbs", "adjectives", "adverbs", "places")
_ACCEPTABILITY = ("unacceptable", "acceptable")

Examples = Callable[[int, str], list[tuple[str, int]]]
"""Seed and split → texts with their class indices."""


@dataclass(frozen=True)
class Recipe:
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


RECIPES: dict[str, Recipe] = {
    "subject_number": Recipe(
        "syntax",
        ("singular", "plural"),
        "Is the subject of the main clause singular or plural?",
        _trait(lambda traits: traits.subject_plural),
    ),
    "object_number": Recipe(
        "syntax",
        ("singular", "plural"),
        "Is the object of the main clause singular or plural?",
        _trait(lambda traits: traits.object_plural),
    ),
    "negation_scope": Recipe(
        "syntax",
        ("subordinate", "main"),
        "Which clause is negated, main or subordinate?",
        _trait(lambda traits: traits.main_negated),
    ),
    "word_order": Recipe(
        "syntax",
        _ACCEPTABILITY,
        "Is the order of the words acceptable or unacceptable?",
        _acceptability("word_order", lambda sentence, rng: sentence.with_wrong_order(rng)),
    ),
    "agreement": Recipe(
        "morphology",
        _ACCEPTABILITY,
        "Is the agreement of the verbs with their subjects acceptable or unacceptable?",
        _acceptability("agreement", lambda sentence, _: sentence.with_wrong_agreement()),
    ),
    "tense": Recipe(
        "morphology",
        ("present", "past"),
        "Is the main clause in the present or past tense?",
        _trait(lambda traits: traits.main_past),
    ),
    "sentiment": Recipe(
        "semantics",
        SENTIMENTS,
        "Is this opinion positive or negative?",
        lambda seed, split: [(opinion.text, opinion.sentiment) for opinion in opinions(seed, split)],
        OPINION_GROUPS,
    ),
    "topic": Recipe(
        "semantics",
        TOPIC_NAMES,
        f"Is this about {', '.join(TOPIC_NAMES[:-1])} or {TOPIC_NAMES[-1]}?",
        lambda seed, split: [(opinion.text, opinion.topic) for opinion in opinions(seed, split)],
        OPINION_GROUPS,
    ),
    "entailment": Recipe(
        "semantics",
        ANSWERS,
        "Does the second sentence follow from the first, yes or no?",
        lambda seed, split: [(pair.text, pair.follows) for pair in inferences(seed, split)],
        INFERENCE_GROUPS,
    ),
    "sentence_length": Recipe(
        "surface",
        tuple(f"{fewest}-{most}" for fewest, most in LENGTHS),
        "How many words has the sentence: " + ", ".join(f"{fewest}-{most}" for fewest, most in LENGTHS) + "?",
        _trait(lambda traits: traits.length),
    ),
    "word_content": Recipe(
        "surface",
        WORD_CONTENT,
        f"Which of these does the sentence mention: {', '.join(WORD_CONTENT)}?",
        _trait(lambda traits: traits.word),
    ),
}
"""Task name → recipe."""
