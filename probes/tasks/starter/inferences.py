"""Pairs of sentences where the second follows from the first, or does not; both sorts use the same words."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from probes.tasks.starter.clauses import ROWS
from probes.tasks.starter.vocabulary import MUTUAL, Vocabulary, vocabulary

ANSWERS = ("no", "yes")
INFERENCE_GROUPS = ("people", "names", "verbs", "intransitives", "adjectives", "comparatives")

Draft = tuple[tuple[str, str], tuple[str, str]]
"""Premise and hypothesis that follows; premise and hypothesis that does not."""


@dataclass(frozen=True)
class Inference:
    """A premise, a hypothesis, and whether the second follows (1) or not (0)."""

    premise: str
    hypothesis: str
    follows: int

    @property
    def text(self) -> str:
        """Both sentences."""
        return f"{self.premise} {self.hypothesis}"


def _passive(words: Vocabulary, rng: random.Random) -> Draft:
    agent, patient = words.pick_distinct(rng, ["people"], 2)
    verb = rng.choice([verb for verb in words["verbs"] if verb.base not in MUTUAL])
    premise = f"The {agent} {verb.past} the {patient}."
    first = (premise, f"The {patient} was {verb.participle} by the {agent}.")
    return first, (premise, f"The {agent} was {verb.participle} by the {patient}.")


def _relative(words: Vocabulary, rng: random.Random) -> Draft:
    agent, patient = words.pick_distinct(rng, ["people"], 2)
    verb, did = words.pick(rng, "verbs"), words.pick(rng, "intransitives")
    premise = f"The {agent} who {verb.past} the {patient} {did}."
    return (premise, f"The {agent} {did}."), (premise, f"The {patient} {did}.")


def _quantifier(words: Vocabulary, rng: random.Random) -> Draft:
    person, adjective = words.pick(rng, "people"), words.pick(rng, "adjectives")
    did = words.pick(rng, "intransitives")
    quantifier = rng.choice(("Every", "No", "Some", "At least one"))
    wide, narrow = f"{quantifier} {person} {did}.", f"{quantifier} {adjective} {person} {did}."
    downward = quantifier in {"Every", "No"}
    return ((wide, narrow), (narrow, wide)) if downward else ((narrow, wide), (wide, narrow))


def _temporal(words: Vocabulary, rng: random.Random) -> Draft:
    one, other = words.pick_distinct(rng, ["names"], 2)
    first, second = words.pick_distinct(rng, ["intransitives"], 2)
    order, converse = rng.choice((("before", "after"), ("after", "before")))
    premise = f"{one} {first} {order} {other} {second}."
    return (premise, f"{other} {second} {converse} {one} {first}."), (
        premise,
        f"{one} {first} {converse} {other} {second}.",
    )


def _comparative(words: Vocabulary, rng: random.Random) -> Draft:
    one, other = words.pick_distinct(rng, ["names"], 2)
    more, less = rng.sample(words.pick(rng, "comparatives"), 2)
    premise = f"{one} is {more} than {other}."
    return (premise, f"{other} is {less} than {one}."), (premise, f"{one} is {less} than {other}.")


_PATTERNS: tuple[Callable[[Vocabulary, random.Random], Draft], ...] = (
    _passive,
    _relative,
    _quantifier,
    _temporal,
    _comparative,
)


@lru_cache(maxsize=16)
def inferences(seed: int, split: str) -> tuple[Inference, ...]:
    """Pairs of a split, in random order, all different, none of validation in train; half of each pattern follow."""
    rng = random.Random(f"{seed}/inferences/{split}")
    words = vocabulary(seed, split)
    taken = {pair.text for pair in inferences(seed, "train")} if split == "validation" else set()
    found: dict[str, Inference] = {}
    for pattern in _PATTERNS * (ROWS[split] // (2 * len(_PATTERNS))):
        twins = _twins(pattern(words, rng))
        while any(twin.text in found or twin.text in taken for twin in twins):
            twins = _twins(pattern(words, rng))
        found.update((twin.text, twin) for twin in twins)
    drawn = list(found.values())
    rng.shuffle(drawn)
    return tuple(drawn)


def _twins(draft: Draft) -> tuple[Inference, Inference]:
    return Inference(*draft[0], follows=1), Inference(*draft[1], follows=0)
