"""A generated treebank: sentences of a small grammar, whose trees, tags and noun phrases are known exactly."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from probes.tasks.splits import MaxRows
from probes.tasks.starter.vocabulary import CONJUNCTIONS, DETERMINERS, PREPOSITIONS, Vocabulary, plural, vocabulary
from probes.tasks.task import Suite
from probes.tasks.words.build import word_suite
from probes.tasks.words.sentence import Sentence
from probes.values import SPLITS

SENTENCES = {"train": 300, "validation": 100, "test": 200}
"""Sentences of each split."""
_KINDS = {"people": "person", "animals": "animal", "places": "place"}
"""Group of a noun → type of its noun phrase."""


def treebank_suite(
    tasks: Sequence[str] | None = None,
    max_rows: MaxRows = None,
    *,
    held_out_words: bool = False,
    seed: int = 0,
    strict: bool = False,
    name: str = "treebank",
) -> Suite:
    """Generate a treebank in the words of the starter suite: 300 training, 100 validation and 200 test sentences.

    Sentences have one or two clauses, relative clauses, adjectives, adverbs, and prepositional phrases of a noun or a
    verb; dependencies follow Universal Dependencies. `entities` are the noun phrases without what follows the noun:
    people, animals and places.

    Args:
        tasks: As in `load_conllu_suite`, and `entities`.
        max_rows: At most this many sentences in each split, or a mapping split → sentences.
        held_out_words: Whether a third of the nouns, verbs, adjectives and adverbs occur in test sentences only, and
            the others not there; else all splits have the same words.
        seed: Decides the sentences.
        strict: Raise on sentences that two splits share; they share none.
        name: Name of the suite.

    Raises:
        ValueError: A task is unknown, or `max_rows` is out of range.

    Example:
        >>> task = treebank_suite(["upos"], max_rows=8).tasks[0]
        >>> task.labels, len(task.splits["test"].words.sentences)
        (('ADJ', 'ADP', 'ADV', 'DET', 'NOUN', 'PRON', 'PUNCT', 'SCONJ', 'VERB'), 8)
    """
    seen: set[str] = set()
    sentences = {}
    for split in SPLITS:
        rng = random.Random(f"{seed}/treebank/{split}")
        words = vocabulary(seed, split if held_out_words else "train")
        sentences[split] = _distinct(
            lambda rng=rng, words=words: generated_sentence(rng, words), SENTENCES[split], seen
        )
    options = {"tasks": tasks, "max_rows": max_rows, "seed": seed, "strict": strict}
    return word_suite(name, sentences, source="generated", **options)


def generated_sentence(rng: random.Random, words: Vocabulary) -> Sentence:
    """One sentence with its tree.

    Args:
        rng: Decides it.
        words: What its words are taken from.
    """
    root = _clause(rng, words, relation="root", may_add_clause=True)
    root.after.append(_Node(".", "PUNCT", ".", "punct"))
    nodes: list[_Node] = []
    heads: dict[int, _Node | None] = {}
    _in_order(root, None, nodes, heads)
    nodes[0].form = nodes[0].form.capitalize()
    number = {id(node): i for i, node in enumerate(nodes, start=1)}
    text, ranges = "", []
    for node in nodes:
        text += "" if node.upos == "PUNCT" or not text else " "
        ranges.append((len(text), len(text) + len(node.form)))
        text += node.form
    return Sentence(
        text,
        tuple(node.form for node in nodes),
        tuple(ranges),
        upos=tuple(node.upos for node in nodes),
        xpos=tuple(node.xpos for node in nodes),
        feats=tuple(node.feats for node in nodes),
        heads=tuple(0 if (head := heads[id(node)]) is None else number[id(head)] for node in nodes),
        relations=tuple(node.relation for node in nodes),
        entities=tuple(node.entity for node in nodes),
    )


@dataclass
class _Node:
    """A word with its dependents before and after it."""

    form: str
    upos: str
    xpos: str
    relation: str
    feats: dict[str, str] = field(default_factory=dict)
    entity: str = "O"
    before: list[_Node] = field(default_factory=list)
    after: list[_Node] = field(default_factory=list)


def _distinct(make: Callable[[], Sentence], count: int, seen: set[str]) -> list[Sentence]:
    sentences: list[Sentence] = []
    while len(sentences) < count:
        sentence = make()
        if sentence.text not in seen:
            seen.add(sentence.text)
            sentences.append(sentence)
    return sentences


def _in_order(node: _Node, head: _Node | None, nodes: list[_Node], heads: dict[int, _Node | None]) -> None:
    heads[id(node)] = head
    for one in node.before:
        _in_order(one, node, nodes, heads)
    nodes.append(node)
    for one in node.after:
        _in_order(one, node, nodes, heads)


def _clause(rng: random.Random, words: Vocabulary, *, relation: str, may_add_clause: bool) -> _Node:
    is_plural, past = rng.random() < 0.5, rng.random() < 0.5
    verb = _verb(rng, words, relation, is_plural=is_plural, past=past)
    subject = _noun_phrase(rng, words, "nsubj", is_plural=is_plural, depth=0)
    if may_add_clause and rng.random() < 0.25:
        subject.after.append(_relative_clause(rng, words, is_plural=is_plural))
    verb.before.append(subject)
    if rng.random() < 0.4:
        verb.before.append(_Node(words.pick(rng, "adverbs"), "ADV", "RB", "advmod"))
    verb.after.append(_noun_phrase(rng, words, "obj", is_plural=rng.random() < 0.5, depth=0))
    if rng.random() < 0.3:
        verb.after.append(_prepositional_phrase(rng, words, "obl", depth=1))
    if may_add_clause and rng.random() < 0.3:
        clause = _clause(rng, words, relation="advcl", may_add_clause=False)
        clause.before.insert(0, _Node(rng.choice(CONJUNCTIONS), "SCONJ", "IN", "mark"))
        verb.after.append(clause)
    return verb


def _relative_clause(rng: random.Random, words: Vocabulary, *, is_plural: bool) -> _Node:
    verb = _verb(rng, words, "acl", is_plural=is_plural, past=rng.random() < 0.5)
    verb.before.append(_Node("that", "PRON", "WDT", "nsubj"))
    verb.after.append(_noun_phrase(rng, words, "obj", is_plural=rng.random() < 0.5, depth=1))
    return verb


def _verb(rng: random.Random, words: Vocabulary, relation: str, *, is_plural: bool, past: bool) -> _Node:
    verb = words.pick(rng, "verbs")
    feats = {"Tense": "Past" if past else "Pres"}
    if past:
        return _Node(verb.past, "VERB", "VBD", relation, feats)
    feats["Number"] = "Plur" if is_plural else "Sing"
    return _Node(verb.base if is_plural else verb.singular, "VERB", "VBP" if is_plural else "VBZ", relation, feats)


def _noun_phrase(rng: random.Random, words: Vocabulary, relation: str, *, is_plural: bool, depth: int) -> _Node:
    group = rng.choice(("people", "animals")) if relation in {"nsubj", "obj"} else rng.choice(tuple(_KINDS))
    noun = words.pick(rng, group)
    form, tag = (plural(noun), "NNS") if is_plural else (noun, "NN")
    kind = _KINDS[group]
    head = _Node(form, "NOUN", tag, relation, {"Number": "Plur" if is_plural else "Sing"}, f"I-{kind}")
    head.before.append(_Node(rng.choice(DETERMINERS), "DET", "DT", "det", entity=f"B-{kind}"))
    adjectives = words.pick_distinct(rng, ["adjectives"], rng.choice((0, 0, 1, 1, 2)))
    head.before += [_Node(word, "ADJ", "JJ", "amod", entity=f"I-{kind}") for word in adjectives]
    if depth < 2 and rng.random() < 0.25:
        head.after.append(_prepositional_phrase(rng, words, "nmod", depth=depth + 1))
    return head


def _prepositional_phrase(rng: random.Random, words: Vocabulary, relation: str, *, depth: int) -> _Node:
    noun = _noun_phrase(rng, words, relation, is_plural=rng.random() < 0.5, depth=depth)
    noun.before.insert(0, _Node(rng.choice(PREPOSITIONS), "ADP", "IN", "case"))
    return noun
