"""Pairs of sentences of which the second follows from the first or does not, with the same words in both cases."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from probes.tasks.starter.clauses import ROWS
from probes.tasks.starter.vocabulary import MUTUAL, Vocabulary, vocabulary

ANSWERS = ("no", "yes")
INFERENCE_GROUPS = ("people", "names", "verbs", "intransitives", "adjectives", "comparatives")
"""Groups of the vocabulary that inferences are made of."""


@dataclass(frozen=True)
class Inference:
    """A premise, a hypothesis, and whether the hypothesis follows (1) or not (0)."""

    premise: str
    hypothesis: str
    follows: int

    @property
    def text(self) -> str:
        """Both sentences."""
        return f"{self.premise} {self.hypothesis}"


@lru_cache(maxsize=16)
def inferences(seed: int, split: str) -> tuple[Inference, ...]:
    """The pairs of a split in random order, all different; those of validation differ from those of train.

    In half of the pairs of each pattern the hypothesis follows.
    """
    rng = random.Random(f"{seed}/inferences/{split}")
    words = vocabulary(seed, split)
    in_train = {pair.text for pair in inferences(seed, "train")} if split == "validation" else set()
    pairs: dict[str, Inference] = {}
    for pattern in _PATTERNS * (ROWS[split] // (2 * len(_PATTERNS))):
        twins = _twins(pattern(words, rng))
        while any(twin.text in pairs or twin.text in in_train for twin in twins):
            twins = _twins(pattern(words, rng))
        pairs.update((twin.text, twin) for twin in twins)
    drawn = list(pairs.values())
    rng.shuffle(drawn)
    return tuple(drawn)


_Draft = tuple[tuple[str, str], tuple[str, str]]
"""A premise and a hypothesis that follows from it; a premise and a hypothesis that does not."""


def _twins(draft: _Draft) -> tuple[Inference, Inference]:
    return Inference(*draft[0], follows=1), Inference(*draft[1], follows=0)


def _passive(words: Vocabulary, rng: random.Random) -> _Draft:
    agent, patient = words.pick_distinct(rng, ["people"], 2)
    verb = rng.choice([verb for verb in words["verbs"] if verb.base not in MUTUAL])
    premise = f"The {agent} {verb.past} the {patient}."
    same_roles = f"The {patient} was {verb.participle} by the {agent}."
    swapped_roles = f"The {agent} was {verb.participle} by the {patient}."
    return (premise, same_roles), (premise, swapped_roles)


def _relative_clause(words: Vocabulary, rng: random.Random) -> _Draft:
    agent, patient = words.pick_distinct(rng, ["people"], 2)
    verb, did = words.pick(rng, "verbs"), words.pick(rng, "intransitives")
    premise = f"The {agent} who {verb.past} the {patient} {did}."
    return (premise, f"The {agent} {did}."), (premise, f"The {patient} {did}.")


def _quantifier(words: Vocabulary, rng: random.Random) -> _Draft:
    person, adjective = words.pick(rng, "people"), words.pick(rng, "adjectives")
    did = words.pick(rng, "intransitives")
    quantifier = rng.choice(("Every", "No", "Some", "At least one"))
    wide, narrow = f"{quantifier} {person} {did}.", f"{quantifier} {adjective} {person} {did}."
    downward_monotone = quantifier in {"Every", "No"}  # then what holds of all persons holds of the tall ones
    return ((wide, narrow), (narrow, wide)) if downward_monotone else ((narrow, wide), (wide, narrow))


def _temporal(words: Vocabulary, rng: random.Random) -> _Draft:
    one, other = words.pick_distinct(rng, ["names"], 2)
    first, second = words.pick_distinct(rng, ["intransitives"], 2)
    order, converse = rng.choice((("before", "after"), ("after", "before")))
    premise = f"{one} {first} {order} {other} {second}."
    same_order = f"{other} {second} {converse} {one} {first}."
    reversed_order = f"{one} {first} {converse} {other} {second}."
    return (premise, same_order), (premise, reversed_order)


def _comparative(words: Vocabulary, rng: random.Random) -> _Draft:
    one, other = words.pick_distinct(rng, ["names"], 2)
    more, less = rng.sample(words.pick(rng, "comparatives"), 2)
    premise = f"{one} is {more} than {other}."
    return (premise, f"{other} is {less} than {one}."), (premise, f"{one} is {less} than {other}.")


_PATTERNS: tuple[Callable[[Vocabulary, random.Random], _Draft], ...] = (
    _passive,
    _relative_clause,
    _quantifier,
    _temporal,
    _comparative,
)
