"""Which texts share a forward pass, and how many tokens one pass takes."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from probes.backbones import ReadableBackbone


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
        raise ValueError(f"`extraction.tokens_per_batch` expects at least 1; got {tokens_per_batch}.")
    by_length: dict[int, list[int]] = defaultdict(list)
    for text, tokens in enumerate(lengths):
        by_length[padded_length(tokens, limit=limit)].append(text)
    batches = []
    for length in sorted(by_length, reverse=True):
        texts, size = by_length[length], max(1, tokens_per_batch // length)
        batches += [Batch(tuple(texts[i : i + size]), length) for i in range(0, len(texts), size)]
    return batches


_log = logging.getLogger(__name__)
_LEAST, _MOST = 1024, 65536
_SHARE = 0.5  # of the free memory; the rest is for pooled vectors, kernels' workspaces and fragments


def token_budget(backbone: ReadableBackbone, tokens_per_batch: int | Literal["auto"], *, longest: int) -> int:
    """Most tokens of one forward pass.

    Args:
        backbone: What runs.
        tokens_per_batch: A number, which is taken as it is, or `auto`.
        longest: Tokens of the longest text.

    Returns:
        For `auto` 1,024 without a CUDA device, where larger batches are no faster; else what the fullest device of the
        backbone has room for.
    """
    if tokens_per_batch != "auto":
        return tokens_per_batch
    devices = {weight.device for weight in backbone.model.parameters() if weight.is_cuda}
    if not devices:
        return _LEAST
    torch.cuda.empty_cache()  # what earlier passes left in the allocator's hands is free too
    free = min(torch.cuda.mem_get_info(device)[0] for device in devices)
    budget = budget_for_memory(free, bytes_per_token(backbone, longest=longest))
    _log.info("Batches of at most %d tokens, %.1f GB of GPU memory free.", budget, free / 1e9)
    return budget


def bytes_per_token(backbone: ReadableBackbone, *, longest: int) -> int:
    """What a token takes inside one block: the stream and attention's vectors, the MLP's, and a row of scores a head.

    Args:
        backbone: What runs.
        longest: Tokens of the longest text: the width of the scores.
    """
    config = backbone.model.config.get_text_config()
    hidden = backbone.hidden_size
    intermediate = max(getattr(config, "intermediate_size", None) or 0, 4 * hidden)
    heads = getattr(config, "num_attention_heads", None) or hidden // 64
    return backbone.dtype.itemsize * (8 * hidden + 3 * intermediate + heads * longest)


def budget_for_memory(free_bytes: int, bytes_a_token: int) -> int:
    """The largest power of two of tokens that half the free memory holds, between 1,024 and 65,536.

    >>> [budget_for_memory(free * 10**9, 130_000) for free in (0, 1, 8, 80)]
    [1024, 2048, 16384, 65536]
    """
    tokens = int(_SHARE * free_bytes) // bytes_a_token
    return min(_MOST, max(_LEAST, 1 << max(0, tokens.bit_length() - 1)))
