"""What may explain a label besides what a task asks for: length, template, first and last word, words, columns.

Each nuisance is a block of features. Blocks are centred and scaled by the training rows, so that the mean squared norm
of a row is `BLOCK_NORM`: one penalty then means about the same for one length and for a thousand words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.tasks import Split, Task
from probes.values import SPLITS

BLOCK_NORM = 100.0
"""Mean squared norm of a training row of a block."""
NUISANCES = ("length", "template", "first word", "last word", "words", "word", "spelling", "position")
"""Names of all nuisances but columns: those of texts, then further ones of words."""
MAX_WORDS = 1000
"""The most words of a bag of words, those in most training rows."""
_MAX_CATEGORIES = 200
_LEAST_ROWS = 3
"""Training rows that a value must have to be a category of its own; all others share one."""
_TEMPLATE_WORDS = 3
"""Words at the beginning and at the end of a prompt by which its template is recognised."""
_TEMPLATE_SHARE = 0.02
"""Share of the training rows that such a beginning or end must have to belong to a template."""
_WORD = re.compile(r"\w+|[^\w\s]")

Values = Mapping[str, Sequence[Any]]
"""Split → a value for each row."""


@dataclass(frozen=True)
class NuisanceGroup:
    """One nuisance as features of the rows of each split.

    Attributes:
        name: Its name in results and verdicts, such as `length`.
        features: Split → float32 `(rows, features)`, centred and scaled by the training rows.
        is_large: Whether it has so many features that regressing it out needs a penalty, as a bag of words does.
    """

    name: str
    features: Mapping[str, Tensor]
    is_large: bool = False


def nuisances_of(
    task: Task, token_counts: Mapping[str, Sequence[int]] | None = None, *, max_words: int = MAX_WORDS
) -> tuple[NuisanceGroup, ...]:
    """The nuisances of a task that vary over its training rows.

    - `length`: characters, words and tokens, each as a piecewise linear function with knots at the training quartiles;
    - `template`: the first and last three words of a prompt, where 2 % of the training rows share them;
    - `first word` and `last word`, with the punctuation mark after the latter;
    - `words`: a bag of words, TF-IDF;
    - every column of `Split.columns`, numbers as lengths are, anything else as categories.

    Of tasks whose rows are words, the first five are replaced by `word`, the word itself, its `spelling` (length, last
    three letters, capital), its `position` in the sentence, and the sentence's `length`.

    Args:
        task: Its prompts and columns.
        token_counts: Split → number of tokens of each row; `None` if not known.
        max_words: The most words in the bag of words, those in most training rows.

    Example:
        >>> rows = Split(("[a] yes", "[b] no", "[a] oh", "[b] well yes") * 3, (0, 1, 0, 1) * 3, ("",) * 12)
        >>> task = Task("demo", "classification", ("no", "yes"), dict.fromkeys(SPLITS, rows))
        >>> [group.name for group in nuisances_of(task)]
        ['length', 'template', 'first word', 'last word', 'words']
    """
    splits = {split: task.splits[split] for split in SPLITS}
    blocks = _of_words(splits) if task.of_words else _of_texts(splits, token_counts, max_words)
    for name in splits["train"].columns:
        values = _map(splits, lambda rows, name=name: rows.columns[name])
        numeric = all(isinstance(value, int | float) for own in values.values() for value in own)
        blocks.append(NuisanceGroup(name, _hinges(values) if numeric else _categories(values)))
    return tuple(scaled for block in blocks if (scaled := _scaled(block)) is not None)


def _of_texts(
    splits: Mapping[str, Split], token_counts: Mapping[str, Sequence[int]] | None, max_words: int
) -> list[NuisanceGroup]:
    words = {split: [_WORD.findall(prompt.lower()) for prompt in rows.prompts] for split, rows in splits.items()}
    lengths = [
        _map(splits, lambda rows: [len(prompt) for prompt in rows.prompts]),
        _map(splits, lambda rows: [len(prompt.split()) for prompt in rows.prompts]),
        *([token_counts] if token_counts else []),
    ]
    return [
        NuisanceGroup("length", _joined([_hinges(length) for length in lengths])),
        NuisanceGroup("template", _templates(words)),
        NuisanceGroup("first word", _categories(_map(words, _first_words))),
        NuisanceGroup("last word", _joined([_categories(_map(words, part)) for part in (_last_words, _last_marks)])),
        NuisanceGroup("words", _bag_of_words(splits, max_words), is_large=True),
    ]


def _of_words(splits: Mapping[str, Split]) -> list[NuisanceGroup]:
    rows = {split: own.words for split, own in splits.items() if own.words is not None}
    types = _map(rows, lambda own: own.types)
    lower = _map(types, lambda own: [word.lower() for word in own])
    spelling = [
        _hinges(_map(types, lambda own: [len(word) for word in own])),
        _categories(_map(lower, lambda own: [word[-3:] for word in own])),
        _hinges(_map(types, lambda own: [int(word[:1].isupper()) for word in own])),
    ]
    lengths = _map(rows, lambda own: [len(own.sentences[i]) for i in own.sentence.tolist()])
    return [
        NuisanceGroup("word", _categories(lower, most=MAX_WORDS), is_large=True),
        NuisanceGroup("spelling", _joined(spelling)),
        NuisanceGroup("position", _hinges(_map(rows, lambda own: own.spans[:, 0, 0].tolist()))),
        NuisanceGroup("length", _hinges(lengths)),
    ]


def all_of(groups: Sequence[NuisanceGroup]) -> NuisanceGroup:
    """All nuisances side by side, each with the same weight."""
    return replace(groups[0], name="all nuisances", features=_joined([group.features for group in groups]))


def _scaled(group: NuisanceGroup) -> NuisanceGroup | None:
    """The features, centred, with the norm that blocks have; `None` if they do not vary over the training rows."""
    train = group.features["train"]
    mean = train.mean(0)
    norm = (train - mean).square().sum(1).mean().sqrt()
    if not norm > 0:
        return None
    varies = (train != train[0]).any(0)
    scale = BLOCK_NORM**0.5 / norm
    return replace(group, features=_map(group.features, lambda rows: ((rows - mean) * scale)[:, varies]))


def _hinges(values: Values) -> dict[str, Tensor]:
    """Numbers as piecewise linear functions, each with a deviation of 1 over the training rows."""
    numbers = {split: torch.tensor(own, dtype=torch.float64).view(-1) for split, own in values.items()}
    knots = numbers["train"].quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).unique()
    bases = _map(numbers, lambda own: torch.cat([own[:, None], (own[:, None] - knots).clamp_min(0)], dim=1))
    deviation = bases["train"].std(0, correction=0)
    kept = deviation > 0
    return _map(bases, lambda own: (own[:, kept] / deviation[kept]).float())


def _categories(values: Values, *, least_rows: int = _LEAST_ROWS, most: int = _MAX_CATEGORIES) -> dict[str, Tensor]:
    """One 0/1 feature for each value that enough training rows have; rows with none of them have zeros."""
    common = Counter(map(str, values["train"])).most_common(most)
    place = {value: i for i, (value, rows) in enumerate(common) if rows >= least_rows}

    def one_hot(own: Sequence[Any]) -> Tensor:
        found = torch.zeros(len(own), len(place))
        for row, value in enumerate(own):
            if str(value) in place:
                found[row, place[str(value)]] = 1.0
        return found

    return _map(values, one_hot)


def _templates(words: Mapping[str, list[list[str]]]) -> dict[str, Tensor]:
    least = max(_LEAST_ROWS, round(_TEMPLATE_SHARE * len(words["train"])))
    starts = _map(words, lambda rows: [" ".join(row[:_TEMPLATE_WORDS]) for row in rows])
    ends = _map(words, lambda rows: [" ".join(row[-_TEMPLATE_WORDS:]) for row in rows])
    return _joined([_categories(starts, least_rows=least), _categories(ends, least_rows=least)])


def _bag_of_words(splits: Mapping[str, Split], max_words: int) -> dict[str, Tensor]:
    return tfidf(_map(splits, lambda rows: rows.prompts), max_features=max_words, longest=1)


def tfidf(texts: Mapping[str, Sequence[str]], *, max_features: int, longest: int = 1) -> dict[str, Tensor]:
    """TF-IDF of words and runs of words, fitted on the training rows.

    Args:
        texts: Split → text of each row.
        max_features: The most columns, those in most training rows.
        longest: Words in the longest run.

    Returns:
        Split → float32 `(rows, features)`, each row of norm 1; without features if the texts have no words.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # imported here because it takes a second

    vectorizer = TfidfVectorizer(
        max_features=max_features, ngram_range=(1, longest), sublinear_tf=True, token_pattern=r"(?u)\w+|[^\w\s]"
    )
    if not any(_WORD.search(text) for text in texts["train"]):
        return _map(texts, lambda own: torch.zeros(len(own), 0))
    vectorizer.fit(texts["train"])

    def transformed(own: Sequence[str]) -> Tensor:
        if len(own) == 0:
            return torch.zeros(0, len(vectorizer.vocabulary_))
        return torch.from_numpy(np.asarray(vectorizer.transform(own).todense(), dtype=np.float32))

    return _map(texts, transformed)


def _first_words(rows: Sequence[Sequence[str]]) -> list[str]:
    return [next((word for word in row if word[0].isalnum()), "") for row in rows]


def _last_words(rows: Sequence[Sequence[str]]) -> list[str]:
    return _first_words([row[::-1] for row in rows])


def _last_marks(rows: Sequence[Sequence[str]]) -> list[str]:
    return [row[-1] if row and not row[-1][0].isalnum() else "" for row in rows]


def _joined(blocks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {split: torch.cat([block[split] for block in blocks], dim=1) for split in blocks[0]}


def _map(by_split: Mapping[str, Any], function: Callable[[Any], Any]) -> dict[str, Any]:
    return {split: function(value) for split, value in by_split.items()}
