"""From sentences to tasks: words with a tag, pairs of words with a relation, sentences with a tree."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from probes.tasks.checks import check_leaks, check_prompts, choose_tasks
from probes.tasks.splits import MaxRows, carve_validation, named_generator, row_cap
from probes.tasks.task import RawTask, Split, Suite, Task
from probes.tasks.words.sentence import Sentence, WordRows, rows_of_words
from probes.values import SPLITS

_log = logging.getLogger(__name__)

Sentences = Mapping[str, Sequence[Sentence]]
"""Split → its sentences."""

_WORD_TASKS = {"upos": "upos", "xpos": "xpos", "relation": "relations", "entities": "entities"}
"""Task of single words → the column of its tags; `feats.NAME` are others."""


class _Labelled(NamedTuple):
    rows: WordRows
    tags: tuple[str, ...]


def word_suite(
    name: str,
    sentences: Sentences,
    *,
    tasks: Sequence[str] | str | None = None,
    max_rows: MaxRows = None,
    subtypes: bool = False,
    seed: int = 0,
    strict: bool = False,
    source: str = "",
) -> Suite:
    """Make the tasks of annotated sentences. All tasks share the sentences, so that each is read once for all of them.

    Tasks of words: `upos`, `xpos`, `relation` (of a word to its head, from the word alone), `entities` (begin, inside,
    outside), and `feats.NAME`, of the words that have this feature. `edge` has pairs of a word and its head, with their
    relation. `trees` has the sentences with their trees.

    Words whose tag no training word has are left out of validation and test, and counted in a warning; where tags are
    those of entities (`B-…`, `I-…`, `O`), which depend on each other, their whole sentences.

    Args:
        name: Name of the suite.
        sentences: Of each split; without validation, a part of the training sentences serves as such.
        tasks: Names of the tasks, in this order; `None` for all that the sentences are annotated for, except features.
        max_rows: At most this many sentences in each split, or a mapping split → sentences, drawn by `seed`.
        subtypes: Whether relations keep what follows a colon, as in `nsubj:pass`.
        seed: Decides which sentences are drawn, and the carved validation split.
        strict: Raise on sentences that two splits share instead of warning.
        source: Where the sentences come from.

    Raises:
        ValueError: A split is missing or empty, a task is unknown or has a single class, or two splits share sentences
            and `strict`.
    """
    chosen = {split: tuple(some) for split, some in _drawn(name, sentences, max_rows, seed).items()}
    _check_sentences(name, chosen, strict=strict)
    available = _available(chosen["train"])
    wanted = choose_tasks(tasks, available) if tasks is not None else tuple(_not_features(available))
    built = [_task(task, chosen, subtypes=subtypes, source=source) for task in wanted]
    return Suite(name, tuple(built))


def _drawn(name: str, sentences: Sentences, max_rows: MaxRows, seed: int) -> dict[str, list[Sentence]]:
    whole = {split: list(sentences[split]) for split in SPLITS if split in sentences}
    for split in ("train", "test"):
        if not whole.get(split):
            raise ValueError(
                f"Suite '{name}' has no {split} sentences; there are {', '.join(whole) or 'none'}. Add the file, or "
                "set `suite.path` to a folder that has it."
            )
    if not whole.get("validation"):
        texts = [sentence.text for sentence in whole["train"]]
        carved = carve_validation(texts, [None] * len(texts), seed=seed, task=name)
        whole["validation"] = [s for s, is_carved in zip(whole["train"], carved.tolist(), strict=True) if is_carved]
        whole["train"] = [s for s, is_carved in zip(whole["train"], carved.tolist(), strict=True) if not is_carved]
        _log.warning(
            "Suite '%s' has no validation split: %d of its training sentences serve as one, drawn by `suite.seed`=%d.",
            name, len(whole["validation"]), seed,
        )  # fmt: skip
    drawn = {}
    for split in SPLITS:
        cap, some = row_cap(max_rows, split), whole[split]
        if cap is not None and cap < len(some):
            order = named_generator(seed, name, split, "sentences").permutation(len(some))[:cap]
            some = [some[i] for i in sorted(order.tolist())]
        drawn[split] = some
    return drawn


def _check_sentences(name: str, sentences: Mapping[str, tuple[Sentence, ...]], *, strict: bool) -> None:
    splits = {}
    for split, some in sentences.items():
        texts = tuple(sentence.text for sentence in some)
        check_prompts(RawTask(name=name, rows={}), split, range(len(texts)), texts)
        splits[split] = Split(texts, (None,) * len(texts), ("",) * len(texts))
    check_leaks(Task(name, "generation", (), splits), strict=strict)


def _available(sentences: Sequence[Sentence]) -> tuple[str, ...]:
    """The tasks that sentences are annotated for."""
    words = [task for task, column in _WORD_TASKS.items() if any(sentence.tags(column) for sentence in sentences)]
    features = sorted({name for sentence in sentences for feats in sentence.feats for name in feats})
    has_trees = any(sentence.heads for sentence in sentences)
    edges = [task for task in ("edge", "trees") if has_trees and (task == "trees" or "relation" in words)]
    return (*words, *edges, *(f"feats.{name}" for name in features))


def _not_features(tasks: Sequence[str]) -> list[str]:
    return [task for task in tasks if not task.startswith("feats.")]


def _task(task: str, sentences: Mapping[str, tuple[Sentence, ...]], *, subtypes: bool, source: str) -> Task:
    if task == "trees":
        return Task(
            task, "trees", (), {split: _trees(some) for split, some in sentences.items()}, "trees", source=source
        )
    labelled = {split: _labelled(task, some, subtypes=subtypes) for split, some in sentences.items()}
    names = tuple(sorted(set(labelled["train"].tags)))
    if len(names) < 2:
        raise ValueError(
            f"Task '{task}' has {len(names)} tags in its training sentences: {', '.join(names) or 'none'}. Probing "
            "needs two or more; leave the task out of `suite.tasks`, or raise `suite.max_rows`."
        )
    index = {tag: i for i, tag in enumerate(names)}
    splits = {split: _split(task, split, some, index) for split, some in labelled.items()}
    cluster = {"edge": "pairs"}.get(task, "words")
    return Task(task, "classification", names, splits, cluster=cluster, source=source)


def _trees(sentences: tuple[Sentence, ...]) -> Split:
    kept = [i for i, sentence in enumerate(sentences) if sentence.heads and len(sentence) > 1]
    spans = np.array([[[0, len(sentences[i])]] for i in kept], dtype=np.int64).reshape(-1, 1, 2)
    rows = WordRows(sentences, np.array(kept, dtype=np.int64), spans)
    return Split(tuple(sentences[i].text for i in kept), (None,) * len(kept), ("",) * len(kept), rows)


def _labelled(task: str, sentences: tuple[Sentence, ...], *, subtypes: bool) -> _Labelled:
    """The words or pairs that have a tag, with their tags."""
    places, tags = [], []
    column = "relations" if task == "edge" else _WORD_TASKS.get(task, task)
    for number, sentence in enumerate(sentences):
        for word, tag in enumerate(sentence.tags(column)):
            if tag and (task != "edge" or sentence.heads[word] > 0):
                places.append((number, word))
                tags.append(tag if subtypes or column != "relations" else tag.partition(":")[0])
    rows = rows_of_words(sentences, places)
    if task == "edge":
        heads = np.array([sentences[number].heads[word] - 1 for number, word in places], dtype=np.int64)
        of_heads = np.stack([heads, heads + 1], axis=1)[:, None]
        rows = WordRows(rows.sentences, rows.sentence, np.concatenate([rows.spans, of_heads], axis=1))
    return _Labelled(rows, tuple(tags))


def _split(task: str, split: str, labelled: _Labelled, index: Mapping[str, int]) -> Split:
    rows, tags = labelled
    known = np.array([tag in index for tag in tags], dtype=bool)
    if not known.all():
        unknown = Counter(tag for tag in tags if tag not in index)
        listed = ", ".join(f"{tag} ({count})" for tag, count in unknown.most_common(5))
        what = f"{int((~known).sum())} words"
        if all(tag == "O" or tag[:2] in {"B-", "I-"} for tag in index):
            known = ~np.isin(rows.sentence, rows.sentence[~known])
            what = f"the sentences of {what}"
        _log.warning(
            "Task '%s', split '%s': %s are left out, whose tag no training word has: %s%s.",
            task, split, what, listed, ", …" if len(unknown) > 5 else "",
        )  # fmt: skip
    kept = np.flatnonzero(known)
    if len(kept) == 0:
        raise ValueError(
            f"Task '{task}' has no row in split '{split}'. Leave it out of `suite.tasks`, or raise `suite.max_rows`."
        )
    rows = rows.at(kept)
    prompts = tuple(rows.sentences[i].text for i in rows.sentence.tolist())
    kept_tags = tuple(tags[i] for i in kept.tolist())
    return Split(prompts, tuple(index[tag] for tag in kept_tags), kept_tags, rows)
