"""Which tokens stand for which words: words are ranges of characters, and a fast tokenizer tells those of its tokens.

A token belongs to every word with which it shares a character. So a leading space, which most byte-level and
SentencePiece tokens carry, decides nothing; the bytes of an emoji all belong to its word; and a token that joins two
words (as in scripts without spaces) belongs to both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from probes.backbones.token_batches import TokenizedTexts, Tokenizer

Ranges = Sequence[tuple[int, int]]
"""First character of each word of a text, and the one after its last."""


@dataclass(frozen=True)
class AlignedTexts:
    """Token ids of some texts, and the tokens of their words.

    Attributes:
        tokenized: Token ids; `tokenized.spans[i]`, int32 `(words, 2)`, has the first token of each word of text i that
            has a vector, and the one after its last.
        words: For each text the numbers, counted from 0, of the words that `spans` has, int32 `(words,)`.
        num_without: Words that the tokenizer gives no token, such as a lone control character.
        num_cut: Words that the length limit took tokens from; they have no vector.
    """

    tokenized: TokenizedTexts
    words: tuple[np.ndarray, ...]
    num_without: int
    num_cut: int


def align(
    tokenizer: Tokenizer, texts: Sequence[str], ranges: Sequence[Ranges], *, max_length: int | None = None
) -> AlignedTexts:
    """Tokenize texts and find the tokens of their words.

    Args:
        tokenizer: Of a fast tokenizer.
        texts: The texts.
        ranges: The words of each text; they may overlap.
        max_length: As in `Tokenizer`: texts are truncated on the left.

    Raises:
        ValueError: The tokenizer is not a fast one; a text has no word with a token; or as in `Tokenizer`.
    """
    tokenized = tokenizer(texts, max_length=max_length)
    whole, remaining = tokenizer.offsets(texts, tokenized)
    spans, words = [], []
    num_without = num_cut = 0
    for text, of_text in enumerate(ranges):
        before = _tokens_of_words(whole[text], of_text)
        after = before if remaining[text] is whole[text] else _tokens_of_words(remaining[text], of_text)
        num_tokens, num_left = np.diff(before)[:, 0], np.diff(after)[:, 0]
        kept = (num_left > 0) & (num_left == num_tokens)
        num_without += int((num_tokens == 0).sum())
        num_cut += int((num_left < num_tokens).sum())
        spans.append(after[kept])
        words.append(np.flatnonzero(kept).astype(np.int32))
        if not kept.any():
            raise ValueError(
                f"Text {text + 1} ({texts[text][:60]!r}) has {len(of_text)} words and none of them has a token within "
                "the length limit. Raise `extraction.max_length`, or leave the text out."
            )
    return AlignedTexts(replace(tokenized, spans=tuple(spans)), tuple(words), num_without, num_cut)


def _tokens_of_words(offsets: np.ndarray, ranges: Ranges) -> np.ndarray:
    """First token of each word and the one after its last, int32 `(words, 2)`; equal for a word without tokens.

    Args:
        offsets: First character of each token and the one after its last, `(tokens, 2)`; equal for special tokens.
        ranges: Of the words.
    """
    words = np.asarray(ranges, dtype=np.int64).reshape(-1, 2)
    starts, ends = offsets[:, 0], offsets[:, 1]
    overlaps = (starts < words[:, 1:]) & (ends > words[:, :1]) & (starts < ends)
    shared: np.ndarray = np.asarray(overlaps)  # (words, tokens)
    first = shared.argmax(axis=1)
    after_last = len(offsets) - np.flip(shared, axis=1).argmax(axis=1)
    has_token = shared.sum(axis=1, keepdims=True) > 0
    return np.where(has_token, np.stack([first, after_last], axis=1), 0).astype(np.int32)
