"""How the texts of a suite are read: as they are, or word by word; and the rows of words that follow from it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from probes.activations import ExtractionSettings
from probes.backbones import Ranges, ReadableBackbone, TokenizedTexts
from probes.tasks import Suite, Task, WordRows
from probes.token_values import TokenActivations

_log = logging.getLogger(__name__)

_WORD = re.compile(r"\w+|[^\w\s]")
"""A word of a text that has no words of its own: letters and digits, or one other character."""

Unit = tuple[int, int]
"""First word of something that has a vector, and the one after its last."""


@dataclass(frozen=True)
class ReadTexts:
    """The texts of one split as a backbone reads them.

    Attributes:
        tokenized: Their token ids, and the tokens of their words where these are read.
        units: For each text the words or spans that have a vector, in the order of their vectors; `()` where none are
            read, or where the vectors are those of all tokens.
        num_without: Words or spans that the tokenizer gives no token.
        num_cut: Words or spans that the length limit took tokens from.
    """

    tokenized: TokenizedTexts
    units: tuple[tuple[Unit, ...], ...] = ()
    num_without: int = 0
    num_cut: int = 0


def tokens_to_read(suite: Suite, settings: ExtractionSettings) -> str | None:
    """Of what the texts of a suite keep a vector each: `words`, `subwords`, `spans`, or nothing.

    Raises:
        ValueError: Tasks of words need other vectors than those of tokens, or there are no spans to read.
    """
    of_words = [task.name for task in suite.tasks if task.of_words]
    if settings.tokens == "subwords" and of_words:
        raise ValueError(
            f"Task '{of_words[0]}' is about words, and `extraction.tokens=subwords` keeps vectors of tokens. Set it to "
            "words, spans or null."
        )
    if settings.tokens == "spans" and len(of_words) < len(suite.tasks):
        other = next(task.name for task in suite.tasks if not task.of_words)
        raise ValueError(f"Task '{other}' names no spans. Set `extraction.tokens` to words, subwords or null.")
    return settings.tokens or ("words" if of_words else None)


def read_texts(
    suite: Suite,
    backbone: ReadableBackbone,
    settings: ExtractionSettings,
    splits: Sequence[str],
) -> dict[tuple[str, str], ReadTexts]:
    """Tokenize the texts of every task and split; tasks that share their sentences share the result.

    Raises:
        ValueError: A text has no tokens, or no word of it has; the message names task and split.
    """
    mode = tokens_to_read(suite, settings)
    named = _named_spans(suite) if mode == "spans" else {}
    shared: dict[int, ReadTexts] = {}
    found: dict[tuple[str, str], ReadTexts] = {}
    for task in suite.tasks:
        for name, split in task.splits.items():
            if name not in splits:
                continue
            try:
                if split.words is None:
                    ranges = [_words_of(text) for text in split.prompts] if mode == "words" else None
                    found[task.name, name] = _read(backbone, split.prompts, ranges, None, settings)
                    continue
                key = id(split.words.sentences)
                if key not in shared:
                    units = named.get(key) or [_single_words(len(sentence)) for sentence in split.words.sentences]
                    shared[key] = _read_sentences(backbone, split.words, units, settings)
                found[task.name, name] = shared[key]
            except ValueError as error:
                raise ValueError(f"Task '{task.name}', split '{name}': {error}") from error
    return found


def report_words(found: Mapping[tuple[str, str], ReadTexts]) -> None:
    """Say in the log how many words have no vector, and why."""
    distinct = {id(texts): texts for texts in found.values()}.values()
    without, cut = (sum(getattr(texts, key) for texts in distinct) for key in ("num_without", "num_cut"))
    total = sum(len(units) for texts in distinct for units in texts.units) + without + cut
    if without:
        _log.warning("%d of %d words have no vector: the tokenizer gives them no token.", without, total)
    if cut:
        _log.warning(
            "%d of %d words have no vector: their text is longer than the limit, and lost them at its beginning "
            "(`extraction.max_length`).",
            cut,
            total,
        )


def token_activations(texts: ReadTexts, values: Tensor, offsets: Tensor, **names: object) -> TokenActivations:
    """Vectors of texts as they come from the store, with the word that each belongs to."""
    if texts.units:
        first_words = [first for units in texts.units for first, _ in units]
        positions = torch.tensor(first_words, dtype=torch.long)
    else:
        positions = torch.cat([torch.arange(int(length)) for length in offsets.diff()])
    return TokenActivations(values, offsets, positions, **names)  # type: ignore[arg-type]


def rows_with_vectors(words: WordRows, texts: ReadTexts) -> np.ndarray:
    """The rows of a split all of whose words have a vector, int64, ascending."""
    known = [set(units) for units in texts.units]
    rows = zip(words.sentence.tolist(), words.spans.tolist(), strict=True)
    kept = [all(_is_known(known[sentence], span) for span in spans) for sentence, spans in rows]
    return np.flatnonzero(kept)


def vectors_of_rows(words: WordRows, texts: ReadTexts, tokens: TokenActivations) -> Tensor:
    """The vectors of rows, those of several spans concatenated, float32 `(layers, rows, spans × features)`.

    A span that has no vector of its own has the mean of those of its words.

    Args:
        words: Rows all of whose words have a vector.
        texts: How the sentences were read.
        tokens: The vectors of all sentences.
    """
    place = {
        (text, *unit): int(tokens.offsets[text]) + i
        for text, units in enumerate(texts.units)
        for i, unit in enumerate(units)
    }
    layers, _, features = tokens.values.shape
    num_spans = words.spans.shape[1]
    rows = torch.empty(layers, len(words), num_spans * features)
    sentences = words.sentence.tolist()
    for k in range(num_spans):
        spans = words.spans[:, k].tolist()
        own = [place.get((s, first, end), -1) for s, (first, end) in zip(sentences, spans, strict=True)]
        of_span = rows[:, :, k * features : (k + 1) * features]
        of_span.copy_(tokens.values[:, torch.tensor(own).clamp_min(0)])
        for row in (row for row, vector in enumerate(own) if vector < 0):
            first, end = spans[row]
            vectors = torch.tensor([place[sentences[row], word, word + 1] for word in range(first, end)])
            of_span[:, row] = tokens.values[:, vectors].mean(1)
    return rows


def with_kept_rows(task: Task, kept: Mapping[str, np.ndarray]) -> Task:
    """A task of words with some of the rows of each split.

    Raises:
        ValueError: A split has no row left.
    """
    splits = dict(task.splits)
    for split, rows in kept.items():
        whole = task.splits[split]
        if len(rows) == len(whole) or whole.words is None:
            continue
        if len(rows) == 0:
            raise ValueError(
                f"Task '{task.name}': no row of split '{split}' has a vector for all of its words. Raise "
                "`extraction.max_length`."
            )
        splits[split] = whole.at(rows.tolist())
    return replace(task, splits=splits)


def _is_known(units: set[Unit], span: Sequence[int]) -> bool:
    first, end = span
    return (first, end) in units or all((word, word + 1) in units for word in range(first, end))


def _single_words(count: int) -> list[Unit]:
    return [(word, word + 1) for word in range(count)]


def _words_of(text: str) -> Ranges:
    return [match.span() for match in _WORD.finditer(text)]


def _named_spans(suite: Suite) -> dict[int, list[list[Unit]]]:
    """Identity of the sentences of a split → for each sentence, the spans that any task names, in order."""
    named: dict[int, list[set[Unit]]] = {}
    for task in suite.tasks:
        for split in task.splits.values():
            if split.words is None:
                continue
            spans = named.setdefault(id(split.words.sentences), [set() for _ in split.words.sentences])
            for sentence, of_row in zip(split.words.sentence.tolist(), split.words.spans.tolist(), strict=True):
                spans[sentence].update((first, end) for first, end in of_row)
    return {key: [sorted(spans) for spans in of_split] for key, of_split in named.items()}


def _read_sentences(
    backbone: ReadableBackbone, words: WordRows, units: Sequence[Sequence[Unit]], settings: ExtractionSettings
) -> ReadTexts:
    texts = [sentence.text for sentence in words.sentences]
    ranges = [
        [(sentence.ranges[first][0], sentence.ranges[end - 1][1]) for first, end in of_sentence]
        for sentence, of_sentence in zip(words.sentences, units, strict=True)
    ]
    return _read(backbone, texts, ranges, units, settings)


def _read(
    backbone: ReadableBackbone,
    texts: Sequence[str],
    ranges: Sequence[Ranges] | None,
    units: Iterable[Sequence[Unit]] | None,
    settings: ExtractionSettings,
) -> ReadTexts:
    if ranges is None:
        return ReadTexts(backbone.tokenize(texts, max_length=settings.max_length))
    aligned = backbone.align(texts, ranges, max_length=settings.max_length)
    of_texts = [_single_words(len(of_text)) for of_text in ranges] if units is None else units
    kept = tuple(
        tuple(of_text[word] for word in words.tolist()) for of_text, words in zip(of_texts, aligned.words, strict=True)
    )
    return ReadTexts(aligned.tokenized, kept, aligned.num_without, aligned.num_cut)
