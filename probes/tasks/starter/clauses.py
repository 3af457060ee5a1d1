"""Sentences of two clauses whose number, tense, negation, length and words are balanced independently.

Most tasks of the starter suite ask about these same sentences, so that one forward pass serves them all. No word tells
who is the subject: each sentence has a main and a subordinate clause of *opposite* tense, one of them negated; their
subjects are of opposite number, and so are the object and the fourth noun. A bag of words sees one of each.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

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
LENGTHS = ((12, 13), (14, 15), (16, 17), (18, 19))
"""Fewest and most words of each class of the task `sentence_length`."""

_SHAPES = ("relative", "subordinate first", "subordinate last")
_NP_ROLES = ("subject", "attractor", "object", "fourth")


@dataclass(frozen=True)
class Traits:
    """What is asked about a sentence; every trait is a class index."""

    subject_plural: int
    object_plural: int
    main_past: int
    main_negated: int
    length: int = 0
    word: int = 0


@dataclass(frozen=True)
class Sentence:
    """Words without punctuation, with the places where it can be broken."""

    words: tuple[str, ...]
    traits: Traits
    finite: int
    """Position of the one finite verb in the present tense."""
    finite_flipped: str
    """Its form for the other number."""
    determiners: tuple[int, ...]
    comma_after: int | None = None

    @property
    def text(self) -> str:
        """As written: capital, comma, full stop."""
        words = list(self.words)
        if self.comma_after is not None:
            words[self.comma_after] += ","
        line = " ".join(words)
        return f"{line[0].upper()}{line[1:]}."

    def with_wrong_agreement(self) -> Sentence:
        """The present-tense verb in the other number."""
        words = (*self.words[: self.finite], self.finite_flipped, *self.words[self.finite + 1 :])
        return replace(self, words=words)

    def with_wrong_order(self, rng: random.Random) -> Sentence:
        """One determiner changes places with the word after it: the same words, no English sentence."""
        at = rng.choice(self.determiners)
        return replace(self, words=(*self.words[:at], self.words[at + 1], self.words[at], *self.words[at + 2 :]))


@lru_cache(maxsize=16)
def clauses(seed: int, split: str) -> tuple[Sentence, ...]:
    """The sentences of a split, in random order, all different, and none of validation in train."""
    rng = random.Random(f"{seed}/clauses/{split}")
    words = vocabulary(seed, split)
    taken = {sentence.text for sentence in clauses(seed, "train")} if split == "validation" else set()
    sentences: dict[str, Sentence] = {}
    for traits in _balanced_traits(ROWS[split], rng):
        sentence = _sentence(traits, words, rng)
        while sentence.text in sentences or sentence.text in taken:
            sentence = _sentence(traits, words, rng)
        sentences[sentence.text] = sentence
    return tuple(sentences.values())


def _balanced_traits(rows: int, rng: random.Random) -> list[Traits]:
    """Full factorial of the four binary traits; what is left over is a half-fraction, so all pairs stay balanced."""
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
    shortest = 12 + (shape == "relative") + (negator == "not")
    extra = rng.randint(max(0, fewest - shortest), most - shortest)
    place = extra >= 3 and rng.random() < 0.6
    adverb = extra - 3 * place >= 1 and rng.random() < 0.6
    phrases = _noun_phrases(traits, words, rng, adjectives=extra - 3 * place - adverb)
    main_verb, other_verb = words.pick_distinct(rng, ["verbs"], 2)
    freely = [words.pick(rng, "adverbs")] if adverb else []
    negated = [negator]
    main, finite_main = _verb_group(
        main_verb, traits.main_past, traits.subject_plural, negated if traits.main_negated else [], freely
    )
    other, finite_other = _verb_group(
        other_verb, 1 - traits.main_past, 1 - traits.subject_plural, [] if traits.main_negated else negated, freely
    )
    ending = ["in", "the", words.pick(rng, "places")] if place else []
    line, main_at, other_at, comma = _order(shape, phrases, main, other, ending, rng)
    at = main_at if not traits.main_past else other_at
    offset, flipped = finite_main if not traits.main_past else finite_other
    determiners = tuple(i for i, word in enumerate(line) if word in DETERMINERS)
    return Sentence(tuple(line), traits, at + offset, flipped, determiners, comma)


def _noun_phrases(traits: Traits, words: Vocabulary, rng: random.Random, adjectives: int) -> dict[str, list[str]]:
    plurals = (traits.subject_plural, 1 - traits.subject_plural, traits.object_plural, 1 - traits.object_plural)
    nouns = words.pick_distinct(rng, ["people", "animals"], 4)
    nouns[rng.randrange(4)] = WORD_CONTENT[traits.word]
    room = [role for role in range(4) for _ in range(2)]
    hosts = rng.sample(room, adjectives)
    picked = iter(words.pick_distinct(rng, ["adjectives"], adjectives))
    phrases: dict[str, list[str]] = {}
    for role, (name, noun, is_plural) in enumerate(zip(_NP_ROLES, nouns, plurals, strict=True)):
        own = [next(picked) for _ in range(hosts.count(role))]
        phrases[name] = [rng.choice(DETERMINERS), *own, plural(noun) if is_plural else noun]
    return phrases


def _verb_group(
    verb: Verb, past: int, subject_plural: int, negation: list[str], adverb: list[str]
) -> tuple[list[str], tuple[int, str]]:
    """The verb with its negation, and where in it the finite form stands with that form's other number."""
    if negation == ["not"]:
        forms = ("did", "did") if past else (("do", "does") if subject_plural else ("does", "do"))
        return [forms[0], "not", verb.base], (0, forms[1])
    present = (verb.base, verb.singular) if subject_plural else (verb.singular, verb.base)
    form, flipped = (verb.past, verb.past) if past else present
    before = negation or adverb  # the adverb goes with the clause that is not negated
    return [*before, form], (len(before), flipped)


def _order(
    shape: str, phrases: dict[str, list[str]], main: list[str], other: list[str], ending: list[str], rng: random.Random
) -> tuple[list[str], int, int, int | None]:
    """The words in order, where the two verb groups start, and after which word a comma stands."""
    subject, attractor, object_, fourth = (phrases[role] for role in _NP_ROLES)
    if shape == "relative":
        head = [*subject, "that", *attractor]
        tail = [*object_, rng.choice(PREPOSITIONS), *fourth, *ending]
        return [*head, *other, *main, *tail], len(head) + len(other), len(head), None
    conjunction = rng.choice(CONJUNCTIONS)
    if shape == "subordinate last":
        first = [*subject, *main, *object_, conjunction, *attractor]
        return [*first, *other, *fourth, *ending], len(subject), len(first), None
    first = [conjunction, *attractor, *other, *fourth]
    return [*first, *subject, *main, *object_, *ending], len(first) + len(subject), 1 + len(attractor), len(first) - 1
