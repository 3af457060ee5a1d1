"""Which texts share a forward pass: only texts padded to one length, which their own length decides.

So a text meets the same matrices whatever its batch mates are: what is computed for it never depends on what else was
asked for or was already in the store.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Batch:
    """Texts of one pass: their positions in the list that was planned, and the length they are padded to."""

    texts: tuple[int, ...]
    length: int


def padded_length(tokens: int, *, limit: int) -> int:
    """The length a text is padded to: at most a sixteenth more than its own, so that few lengths serve all texts.

    >>> [padded_length(n, limit=1000) for n in (1, 17, 33, 70, 999)]
    [1, 17, 34, 72, 1000]
    """
    step = max(1, (1 << (tokens.bit_length() - 1)) // 16)
    return min(-(-tokens // step) * step, max(limit, tokens))


def plan_batches(lengths: Sequence[int], *, tokens_per_batch: int, limit: int) -> list[Batch]:
    """Batches that cover every text once, the longest texts first: what does not fit in memory fails at once.

    Args:
        lengths: Tokens of each text.
        tokens_per_batch: Most tokens of a batch, pads included; a longer text is a batch of its own.
        limit: Longest input of the backbone.

    Raises:
        ValueError: `tokens_per_batch` is below 1.
    """
    if tokens_per_batch < 1:
        raise ValueError(f"`extraction.tokens_per_batch` wants at least 1; got {tokens_per_batch}.")
    by_length: dict[int, list[int]] = defaultdict(list)
    for text, tokens in enumerate(lengths):
        by_length[padded_length(tokens, limit=limit)].append(text)
    batches = []
    for length in sorted(by_length, reverse=True):
        texts, size = by_length[length], max(1, tokens_per_batch // length)
        batches += [Batch(tuple(texts[i : i + size]), length) for i in range(0, len(texts), size)]
    return batches
