"""Pairs of opinions that say the same in other words, agree in topic and sentiment, in one of both, or in neither."""

from __future__ import annotations

import random
from itertools import product

from probes.tasks.starter.vocabulary import TOPICS, Vocabulary, vocabulary
from probes.tasks.task import RawTask, Row

NAME = "restatements"
"""Name of the task."""
GRADES = ("neither topic nor sentiment", "topic or sentiment", "topic and sentiment", "the same statement")
"""What the gold scores 0 to 3 mean."""
ROWS = 400
"""Test rows, a quarter with each gold score."""

_FORMS = (
    (
        "{name} {verb} the {thing} at the {venue}.",
        "At the {venue}, {name} {verb} the {thing}.",
        "The {thing} at the {venue} was what {name} {verb}.",
    ),
    (
        "{name} found the {thing} at the {venue} {adjective}.",
        "According to {name}, the {thing} at the {venue} was {adjective}.",
        "{name} said that the {thing} at the {venue} was {adjective}.",
    ),
)
"""Two families of forms; those of one can say the same."""


def restatements(seed: int) -> RawTask:
    """Test rows with the texts `first` and `second`, and the gold score 0, 1, 2 or 3 (see `GRADES`).

    Two opinions that are not the same statement share no name, thing, place or word of praise or blame, so that words
    tell a statement from all others, and nothing of topic and sentiment.
    """
    rng = random.Random(f"{seed}/restatements")
    words = vocabulary(seed, "test")
    cells = list(product(range(2), range(len(TOPICS))))
    rows: list[Row] = []
    for number in range(ROWS):
        grade = number % len(GRADES)
        sentiment, topic = rng.choice(cells)
        first = _slots(words, rng, sentiment, topic)
        same = (
            (True, True) if grade >= 2 else (False, False) if grade == 0 else rng.choice([(True, False), (False, True)])
        )
        second = first
        if grade < 3:
            other_topic = topic if same[0] else rng.choice([t for t in range(len(TOPICS)) if t != topic])
            other_sentiment = sentiment if same[1] else 1 - sentiment
            second = _slots(words, rng, other_sentiment, other_topic)
            while set(second.values()) & set(first.values()):
                second = _slots(words, rng, other_sentiment, other_topic)
        family = rng.choice(_FORMS)
        forms = rng.sample(family, 2) if grade == 3 else [rng.choice(family), rng.choice(rng.choice(_FORMS))]
        texts = (form.format(**slots) for form, slots in zip(forms, (first, second), strict=True))
        rows.append(dict(zip(("first", "second"), texts, strict=True)) | {"label": grade})
    rng.shuffle(rows)
    return RawTask(name=NAME, kind="pairs", rows={"test": rows}, cluster="pairs", source="generated")


def _slots(words: Vocabulary, rng: random.Random, sentiment: int, topic: int) -> dict[str, str]:
    polarity = "praise" if sentiment else "blame"
    return {
        "name": words.pick(rng, "names"),
        "verb": words.pick(rng, f"{polarity}_verbs"),
        "adjective": words.pick(rng, f"{polarity}_adjectives"),
        "thing": words.pick(rng, f"{TOPICS[topic]}_things"),
        "venue": words.pick(rng, f"{TOPICS[topic]}_venues"),
    }
