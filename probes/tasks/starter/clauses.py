"""Sentences of two clauses whose number, tense, negation, length and words are balanced independently.

Most tasks of the starter suite ask about these same sentences, so that one forward pass serves them all. Each sentence
has a main and a subordinate clause of *opposite* tense, one of them negated; their subjects differ in number, and so do
the object of the main clause and the fourth noun. A bag of words therefore sees both values of each trait and cannot
tell which of them belongs to the main clause.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from probes.tasks.starter.vocabulary import (
    CONJUNCTIONS,
    DETERMINERS,
    PREPOSITIONS,
    WORD_CONTENT,
    Verb,
    Vocabulary,
    plural,
    vocabulary,
)

ROWS = {"train": 800, "validation": 200, "test": 400}
"""Split → rows of every task of the starter suite."""
LENGTHS = ((12, 13), (14, 15), (16, 17), (18, 19))
"""The fewest and the most words of each class of the task `sentence_length`."""

_SHAPES = ("relative", "subordinate first", "subordinate last")
_ROLES = ("subject", "attractor", "object", "fourth")
"""Noun phrases: the subject of the main clause, the subject of the subordinate clause, the object of the main clause,
and one that is the object of the subordinate clause or of a preposition."""


@dataclass(frozen=True)
class Traits:
    """The labels of a sentence; each is a class index, 0 or 1 in the first four."""

    subject_plural: int
    object_plural: int
    main_past: int
    main_negated: int
    length: int = 0
    word: int = 0


@dataclass(frozen=True)
class Sentence:
    """A grammatical sentence, with what is needed to make ungrammatical ones from it.

    Attributes:
        words: Without punctuation or capital.
        traits: The labels.
        present_verb: Position of the one finite verb in the present tense.
        present_verb_flipped: The form of that verb for the other number.
        determiners: Positions of the determiners.
        comma_after: Position of the word that a comma follows, if there is one.
    """

    words: tuple[str, ...]
    traits: Traits
    present_verb: int
    present_verb_flipped: str
    determiners: tuple[int, ...]
    comma_after: int | None = None

    @property
    def text(self) -> str:
        """The sentence with its capital, comma and full stop."""
        words = list(self.words)
        if self.comma_after is not None:
            words[self.comma_after] += ","
        line = " ".join(words)
        return f"{line[0].upper()}{line[1:]}."

    def with_wrong_agreement(self) -> Sentence:
        """A copy whose verb in the present tense does not agree with its subject."""
        at = self.present_verb
        return replace(self, words=(*self.words[:at], self.present_verb_flipped, *self.words[at + 1 :]))

    def with_wrong_order(self, rng: random.Random) -> Sentence:
        """A copy in which a random determiner and the word after it change places."""
        at = rng.choice(self.determiners)
        return replace(self, words=(*self.words[:at], self.words[at + 1], self.words[at], *self.words[at + 2 :]))


@lru_cache(maxsize=16)
def clauses(seed: int, split: str) -> tuple[Sentence, ...]:
    """The sentences of a split in random order, all different; those of validation differ from those of train."""
    rng = random.Random(f"{seed}/clauses/{split}")
    words = vocabulary(seed, split)
    in_train = {sentence.text for sentence in clauses(seed, "train")} if split == "validation" else set()
    sentences: dict[str, Sentence] = {}
    for traits in _balanced_traits(ROWS[split], rng):
        sentence = _sentence(traits, words, rng)
        while sentence.text in sentences or sentence.text in in_train:
            sentence = _sentence(traits, words, rng)
        sentences[sentence.text] = sentence
    return tuple(sentences.values())


def _balanced_traits(rows: int, rng: random.Random) -> list[Traits]:
    """Traits of as many sentences: full factorials of the four binary traits, and length and word independent of these.

    Where the rows are no multiple of 16, the last eight are a half-fraction, which keeps every pair of traits balanced.
    """
    cells = list(product((0, 1), repeat=4))
    half = [cell for cell in cells if sum(cell) % 2 == 0]
    binary = cells * (rows // 16) + half * (rows % 16 // 8)
    words = [i % len(WORD_CONTENT) for i in range(rows)]
    rng.shuffle(words)
    traits = [
        Traits(*cell, length=i % len(LENGTHS), word=word)
        for i, (cell, word) in enumerate(zip(sorted(binary), words, strict=True))
    ]
    rng.shuffle(traits)
    return traits


def _sentence(traits: Traits, words: Vocabulary, rng: random.Random) -> Sentence:
    shape = rng.choice(_SHAPES)
    fewest, most = LENGTHS[traits.length]
    negator = "never" if shape == "relative" and traits.length == 0 else rng.choice(("never", "not"))
    shortest = 12 + (shape == "relative") + (negator == "not")  # `that` is one word more, and so is `does not`
    extra = rng.randint(max(0, fewest - shortest), most - shortest)
    has_place = extra >= 3 and rng.random() < 0.6  # three words: in the kitchen
    has_adverb = extra - 3 * has_place >= 1 and rng.random() < 0.6
    phrases = _noun_phrases(traits, words, rng, adjectives=extra - 3 * has_place - has_adverb)
    main_verb, other_verb = words.pick_distinct(rng, ["verbs"], 2)
    adverb = [words.pick(rng, "adverbs")] if has_adverb else []
    # the adverb goes to the clause that is not negated, so that each clause has at most one word before its verb
    before_main, before_other = ([negator], adverb) if traits.main_negated else (adverb, [negator])
    main = _verb_group(main_verb, traits.main_past, traits.subject_plural, before_main)
    other = _verb_group(other_verb, 1 - traits.main_past, 1 - traits.subject_plural, before_other)
    phrases["place"] = ["in", "the", words.pick(rng, "places")] if has_place else []
    order = _order(shape, phrases, main.words, other.words, rng)
    in_present, starts_at = (other, order.other_at) if traits.main_past else (main, order.main_at)
    return Sentence(
        tuple(order.words),
        traits,
        present_verb=starts_at + in_present.finite_at,
        present_verb_flipped=in_present.finite_flipped,
        determiners=tuple(i for i, word in enumerate(order.words) if word in DETERMINERS),
        comma_after=order.comma_after,
    )


def _noun_phrases(traits: Traits, words: Vocabulary, rng: random.Random, adjectives: int) -> dict[str, list[str]]:
    """Role → determiner, at most two adjectives, noun; one random noun is that of the trait `word`."""
    plurals = (traits.subject_plural, 1 - traits.subject_plural, traits.object_plural, 1 - traits.object_plural)
    nouns = words.pick_distinct(rng, ["people", "animals"], 4)
    nouns[rng.randrange(4)] = WORD_CONTENT[traits.word]
    slots = [position for position in range(len(_ROLES)) for _ in range(2)]
    used = rng.sample(slots, adjectives)
    picked = iter(words.pick_distinct(rng, ["adjectives"], adjectives))
    phrases: dict[str, list[str]] = {}
    for position, (role, noun, is_plural) in enumerate(zip(_ROLES, nouns, plurals, strict=True)):
        modifiers = [next(picked) for _ in range(used.count(position))]
        phrases[role] = [rng.choice(DETERMINERS), *modifiers, plural(noun) if is_plural else noun]
    return phrases


class _VerbGroup(NamedTuple):
    words: list[str]
    finite_at: int
    """Position of the finite form in `words`."""
    finite_flipped: str
    """The finite form for the other number; in the past tense the same form."""


def _verb_group(verb: Verb, past: int, subject_plural: int, before: list[str]) -> _VerbGroup:
    """The verb after its adverb or negation (`before`); `not` needs a form of `do`, which is then the finite form."""
    if before == ["not"]:
        form, flipped = ("did", "did") if past else (("do", "does") if subject_plural else ("does", "do"))
        return _VerbGroup([form, "not", verb.base], 0, flipped)
    present = (verb.base, verb.singular) if subject_plural else (verb.singular, verb.base)
    form, flipped = (verb.past, verb.past) if past else present
    return _VerbGroup([*before, form], len(before), flipped)


class _Order(NamedTuple):
    words: list[str]
    main_at: int
    """Where the verb group of the main clause starts."""
    other_at: int
    """Where the verb group of the subordinate clause starts."""
    comma_after: int | None


def _order(shape: str, phrases: dict[str, list[str]], main: list[str], other: list[str], rng: random.Random) -> _Order:
    """Put noun phrases and verb groups in the order of a shape, with the function words it needs."""
    subject, attractor, object_, fourth = (phrases[role] for role in _ROLES)
    ending = phrases["place"]
    if shape == "relative":
        head = [*subject, "that", *attractor]
        tail = [*object_, rng.choice(PREPOSITIONS), *fourth, *ending]
        return _Order([*head, *other, *main, *tail], len(head) + len(other), len(head), None)
    conjunction = rng.choice(CONJUNCTIONS)
    if shape == "subordinate last":
        head = [*subject, *main, *object_, conjunction, *attractor]
        return _Order([*head, *other, *fourth, *ending], len(subject), len(head), None)
    head = [conjunction, *attractor, *other, *fourth]
    words = [*head, *subject, *main, *object_, *ending]
    return _Order(words, len(head) + len(subject), 1 + len(attractor), len(head) - 1)
