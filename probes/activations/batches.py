"""Which texts share a forward pass, and how many tokens one pass may have.

This module plans with numbers of tokens alone; the padded batch and its mask are built by `probes.backbones.pad_right`.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from probes.backbones import ReadableBackbone

_log = logging.getLogger(__name__)

_MIN_BUDGET, _MAX_BUDGET = 1024, 65536
"""Tokens of one pass under `auto`."""

_MEMORY_SHARE = 0.5
"""Share of the free memory to fill; the rest is for pooled vectors, workspaces of kernels and fragmentation."""


@dataclass(frozen=True)
class Batch:
    """The texts of one forward pass.

    Attributes:
        texts: Positions in the list that was planned.
        length: Number of tokens to which each text is padded.
    """

    texts: tuple[int, ...]
    length: int


def plan_batches(lengths: Sequence[int], *, tokens_per_batch: int, limit: int) -> list[Batch]:
    """Batches that contain every text once, the longest first, so that memory runs out at the start if at all.

    All texts of a batch have the same padded length, which depends on the text alone; so its activations do not depend
    on the other texts in the batch.

    Args:
        lengths: Number of tokens of each text.
        tokens_per_batch: Most tokens of a batch, padding included; a longer text forms a batch by itself.
        limit: Length of the longest input of the backbone, in tokens.

    Raises:
        ValueError: `tokens_per_batch` is below 1.
    """
    if tokens_per_batch < 1:
        raise ValueError(f"`extraction.tokens_per_batch` must be at least 1; got {tokens_per_batch}.")
    by_length: dict[int, list[int]] = defaultdict(list)
    for text, tokens in enumerate(lengths):
        by_length[padded_length(tokens, limit=limit)].append(text)
    batches = []
    for length in sorted(by_length, reverse=True):
        texts, size = by_length[length], max(1, tokens_per_batch // length)
        batches += [Batch(tuple(texts[i : i + size]), length) for i in range(0, len(texts), size)]
    return batches


def next_shard(lengths: Mapping[str, int], *, most_texts: int, most_tokens: int, limit: int) -> list[str]:
    """The texts of the next file of a store: the longest first, as many as the file takes.

    Shards that are taken one after another divide the texts in the same way whoever takes them: where one ends depends
    on its own texts alone.

    Args:
        lengths: Number of tokens of each text that is left.
        most_texts: Most texts of a shard.
        most_tokens: Tokens, padding included, after which no further text is added.
        limit: As in `plan_batches`.

    >>> next_shard({"a": 3, "b": 200, "c": 3, "d": 5}, most_texts=3, most_tokens=192, limit=1000)
    ['b']
    >>> next_shard({"a": 3, "c": 3, "d": 5}, most_texts=2, most_tokens=192, limit=1000)
    ['d', 'a']
    """
    names, tokens = [], 0
    padded = {text: padded_length(length, limit=limit) for text, length in lengths.items()}
    for text in sorted(padded, key=lambda text: (-padded[text], text)):
        if names and (len(names) == most_texts or tokens >= most_tokens):
            break
        names.append(text)
        tokens += padded[text]
    return names


def padded_length(tokens: int, *, limit: int) -> int:
    """The length to which a text is padded: at most a sixteenth longer than the text, so that few lengths occur.

    >>> [padded_length(n, limit=1000) for n in (1, 17, 33, 70, 999)]
    [1, 17, 34, 72, 1000]
    """
    power_of_two = 1 << (tokens.bit_length() - 1)  # the largest that is at most `tokens`
    step = max(1, power_of_two // 16)
    return min(-(-tokens // step) * step, max(limit, tokens))


def token_budget(backbone: ReadableBackbone, tokens_per_batch: int | Literal["auto"], *, longest: int) -> int:
    """Most tokens of one forward pass.

    Args:
        backbone: The backbone that is run.
        tokens_per_batch: A number, which is returned unchanged, or `auto`.
        longest: Number of tokens of the longest text.

    Returns:
        For `auto` 1,024 without a CUDA device, where larger batches are no faster; else what fits into the memory of
        the backbone's CUDA device that has the least free.
    """
    if tokens_per_batch != "auto":
        return tokens_per_batch
    devices = {weight.device for weight in backbone.model.parameters() if weight.is_cuda}
    if not devices:
        return _MIN_BUDGET
    torch.cuda.empty_cache()  # memory that the allocator kept from earlier passes is free too
    free = min(torch.cuda.mem_get_info(device)[0] for device in devices)
    budget = budget_for_memory(free, bytes_per_token(backbone, longest=longest))
    _log.info("Batches of at most %d tokens, %.1f GB of GPU memory free.", budget, free / 1e9)
    return budget


def budget_for_memory(free_bytes: int, token_bytes: int) -> int:
    """The largest power of two of tokens that fits into half the free memory, between 1,024 and 65,536.

    >>> [budget_for_memory(free * 10**9, 130_000) for free in (0, 1, 8, 80)]
    [1024, 2048, 16384, 65536]
    """
    tokens = int(_MEMORY_SHARE * free_bytes) // token_bytes
    return min(_MAX_BUDGET, max(_MIN_BUDGET, 1 << max(0, tokens.bit_length() - 1)))


def bytes_per_token(backbone: ReadableBackbone, *, longest: int) -> int:
    """Estimate of the memory that one token takes while a block runs, in bytes.

    For each token a block holds about 8 vectors of the hidden size (residual stream, norms, queries, keys, values,
    output), 3 of the MLP's intermediate size, and a row of attention scores for each head.

    Args:
        backbone: The backbone that is run.
        longest: Number of tokens of the longest text, the length of a row of attention scores.
    """
    config = backbone.model.config.get_text_config()
    hidden = backbone.hidden_size
    intermediate = max(getattr(config, "intermediate_size", None) or 0, 4 * hidden)
    heads = getattr(config, "num_attention_heads", None) or hidden // 64
    return backbone.dtype.itemsize * (8 * hidden + 3 * intermediate + heads * longest)
