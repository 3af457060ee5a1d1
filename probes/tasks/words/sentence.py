"""A sentence with its words, their tags and their tree, and which words the rows of a task are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Tags = tuple[str, ...]
"""A tag for each word of a sentence; `""` where a word has none."""


@dataclass(frozen=True)
class Sentence:
    """One sentence. What was not annotated is `()`; all other tuples have one entry for each word.

    Attributes:
        text: What a backbone reads.
        words: The words as they are written.
        ranges: The first character of each word in `text`, and the one after its last.
        upos: Universal parts of speech.
        xpos: Parts of speech of the language's own tag set.
        feats: Morphological features of each word, name → value.
        heads: The number of each word's head, counted from 1; 0 for the root.
        relations: The relation of each word to its head.
        entities: Begin, inside, outside: `B-person`, `I-person`, `O`.
        name: Name of the sentence in its source.
    """

    text: str
    words: tuple[str, ...]
    ranges: tuple[tuple[int, int], ...]
    upos: Tags = ()
    xpos: Tags = ()
    feats: tuple[Mapping[str, str], ...] = ()
    heads: tuple[int, ...] = ()
    relations: Tags = ()
    entities: Tags = ()
    name: str = ""

    def __len__(self) -> int:
        return len(self.words)

    def tags(self, column: str) -> Tags:
        """The tags of a column: `upos`, `xpos`, `relations`, `entities`, or `feats.NAME` of a morphological feature."""
        if column.startswith("feats."):
            name = column.removeprefix("feats.")
            return tuple(feats.get(name, "") for feats in self.feats)
        return getattr(self, column)

    @classmethod
    def of_words(cls, words: Sequence[str], *, joined_by: str = " ", **annotations: object) -> Sentence:
        """A sentence whose text is its words, with `joined_by` between them.

        >>> Sentence.of_words(["No", "way", "!"]).ranges
        ((0, 2), (3, 6), (7, 8))
        """
        ranges, place = [], 0
        for word in words:
            ranges.append((place, place + len(word)))
            place += len(word) + len(joined_by)
        return cls(joined_by.join(words), tuple(words), tuple(ranges), **annotations)  # type: ignore[arg-type]


@dataclass(frozen=True)
class WordRows:
    """Which words the rows of a split are, row by row in the order of the sentences.

    Attributes:
        sentences: The sentences of the split, also those without a row.
        sentence: Number of each row's sentence, counted from 0, int64 `(rows,)`.
        spans: First word of each span of a row and the one after its last, int64 `(rows, spans, 2)`. A row of a word
            has one span, that of a pair has two; the vectors of a row's spans are concatenated.
    """

    sentences: tuple[Sentence, ...]
    sentence: np.ndarray
    spans: np.ndarray

    def __len__(self) -> int:
        return len(self.sentence)

    @property
    def types(self) -> tuple[str, ...]:
        """The words of each row as they are written, those of several spans with a space between."""
        sentences = [self.sentences[i].words for i in self.sentence.tolist()]
        return tuple(
            " ".join(" ".join(words[first:end]) for first, end in spans)
            for words, spans in zip(sentences, self.spans.tolist(), strict=True)
        )

    def at(self, rows: np.ndarray) -> WordRows:
        """Some of the rows, of the same sentences."""
        return WordRows(self.sentences, self.sentence[rows], self.spans[rows])


def rows_of_words(sentences: Sequence[Sentence], words: Sequence[tuple[int, int]]) -> WordRows:
    """Rows of single words.

    Args:
        sentences: All sentences of the split.
        words: Number of the sentence and of the word in it, both counted from 0, for each row.
    """
    places = np.asarray(words, dtype=np.int64).reshape(-1, 2)
    spans = np.stack([places[:, 1], places[:, 1] + 1], axis=1)[:, None]
    return WordRows(tuple(sentences), places[:, 0], spans)
