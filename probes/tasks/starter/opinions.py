"""Short opinions on four topics; the tasks `sentiment` and `topic` use the same sentences, balanced in both."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from probes.tasks.starter.clauses import ROWS
from probes.tasks.starter.vocabulary import TOPICS, Vocabulary, vocabulary

SENTIMENTS = ("negative", "positive")
OPINION_GROUPS = (
    "names", "praise_adjectives", "praise_verbs", "blame_adjectives", "blame_verbs",
    *(f"{topic}_{kind}" for topic in TOPICS for kind in ("things", "venues")),
)  # fmt: skip
"""Groups of the vocabulary that opinions are made of."""

_FORMS = (
    "{name} {verb} the {thing} at the {venue}.",
    "The {thing} at the {venue} was {adjective}.",
    "{name} found the {thing} at the {venue} {adjective}.",
    "According to {name}, the {thing} was {adjective}.",
    "At the {venue}, {name} {verb} the {thing}.",
    "{name} and {other} {verb} the {thing}.",
    "{name} told {other} that the {thing} was {adjective}.",
    "The {thing} that {name} {verb} was {adjective}.",
)


@dataclass(frozen=True)
class Opinion:
    """A sentence with the indices of its sentiment (in `SENTIMENTS`) and its topic (in `TOPICS`)."""

    text: str
    sentiment: int
    topic: int


@lru_cache(maxsize=16)
def opinions(seed: int, split: str) -> tuple[Opinion, ...]:
    """The opinions of a split in random order, all different; those of validation differ from those of train."""
    rng = random.Random(f"{seed}/opinions/{split}")
    words = vocabulary(seed, split)
    cells = list(product(range(len(SENTIMENTS)), range(len(TOPICS))))
    cells *= ROWS[split] // len(cells)
    rng.shuffle(cells)
    in_train = {opinion.text for opinion in opinions(seed, "train")} if split == "validation" else set()
    drawn: dict[str, Opinion] = {}
    for sentiment, topic in cells:
        text = _text(sentiment, topic, words, rng)
        while text in drawn or text in in_train:
            text = _text(sentiment, topic, words, rng)
        drawn[text] = Opinion(text, sentiment, topic)
    return tuple(drawn.values())


def _text(sentiment: int, topic: int, words: Vocabulary, rng: random.Random) -> str:
    polarity = "praise" if sentiment else "blame"
    name, other = words.pick_distinct(rng, ["names"], 2)
    return rng.choice(_FORMS).format(
        name=name,
        other=other,
        verb=words.pick(rng, f"{polarity}_verbs"),
        adjective=words.pick(rng, f"{polarity}_adjectives"),
        thing=words.pick(rng, f"{TOPICS[topic]}_things"),
        venue=words.pick(rng, f"{TOPICS[topic]}_venues"),
    )
