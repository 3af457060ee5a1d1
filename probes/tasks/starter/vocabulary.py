"""Which words of the lexicon train and validation may use, and which are held out for the test split."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from probes.tasks.starter.appraisals import (
    BLAME_ADJECTIVES,
    BLAME_VERBS,
    PRAISE_ADJECTIVES,
    PRAISE_VERBS,
    TOPICS,
    things,
    venues,
)
from probes.tasks.starter.modifiers import ADJECTIVES, ADVERBS, COMPARATIVES
from probes.tasks.starter.nouns import ANIMALS, NAMES, PEOPLE, PLACES, plural
from probes.tasks.starter.verbs import INTRANSITIVE_PAST, TRANSITIVE, Verb

HELD_OUT_SHARE = 1 / 3
T = TypeVar("T")

_WORDS: dict[str, tuple[Any, ...]] = {
    "people": PEOPLE,
    "animals": ANIMALS,
    "names": NAMES,
    "places": PLACES,
    "verbs": TRANSITIVE,
    "intransitives": INTRANSITIVE_PAST,
    "adjectives": ADJECTIVES,
    "adverbs": ADVERBS,
    "comparatives": COMPARATIVES,
    "praise_adjectives": PRAISE_ADJECTIVES,
    "praise_verbs": PRAISE_VERBS,
    "blame_adjectives": BLAME_ADJECTIVES,
    "blame_verbs": BLAME_VERBS,
    **{f"{topic}_things": things(topic) for topic in TOPICS},
    **{f"{topic}_venues": venues(topic) for topic in TOPICS},
}
GROUPS = tuple(_WORDS)
"""Groups of words; a third of each is held out."""


@dataclass(frozen=True)
class Vocabulary:
    """The words one split may use."""

    groups: dict[str, tuple[Any, ...]]

    def __getitem__(self, group: str) -> tuple[Any, ...]:
        return self.groups[group]

    def pick(self, rng: random.Random, group: str) -> Any:
        """One word of a group."""
        return rng.choice(self.groups[group])

    def pick_distinct(self, rng: random.Random, groups: Sequence[str], count: int) -> list[Any]:
        """Distinct words out of several groups taken together."""
        return rng.sample([word for group in groups for word in self.groups[group]], count)


@lru_cache(maxsize=16)
def vocabulary(seed: int, split: str) -> Vocabulary:
    """Words of a split: the held-out third of each group for `test`, the other two thirds for train and validation."""
    return Vocabulary({group: _share(group, seed, held_out=split == "test") for group in GROUPS})


def held_out_words(groups: Iterable[str], seed: int = 0) -> frozenset[str]:
    """Every form of the words of some groups that only test rows use.

    Args:
        groups: Names among `GROUPS`.
        seed: The suite's seed.
    """
    words = [word for group in groups for word in vocabulary(seed, "test")[group]]
    return frozenset(form for word in words for form in _forms(word))


def _share(group: str, seed: int, *, held_out: bool) -> tuple[Any, ...]:
    words = list(_WORDS[group])
    random.Random(f"{seed}/vocabulary/{group}").shuffle(words)
    cut = round(HELD_OUT_SHARE * len(words))
    return tuple(words[:cut] if held_out else words[cut:])


def _forms(word: Any) -> tuple[str, ...]:
    if isinstance(word, Verb):
        return (word.base, word.singular, word.past, word.participle)
    if isinstance(word, tuple):
        return word
    return (word, plural(word)) if word in PEOPLE or word in ANIMALS else (word,)
