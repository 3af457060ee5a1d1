"""Greedy answers to prompts of any length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from probes.answers.answer_model import AnswerModel


def greedy_answers(
    model: AnswerModel,
    prompts: Sequence[np.ndarray],
    *,
    end_id: int,
    max_new_tokens: int,
    longest: int,
    tokens_per_batch: int,
) -> list[list[int]]:
    """The answers of greedy decoding; prompts of equal length are decoded together, so that no row has pads.

    Args:
        model: In evaluation mode.
        prompts: Token ids of each prompt.
        end_id: The token that ends an answer; it is not part of it.
        max_new_tokens: Tokens of an answer at most.
        longest: Tokens of prompt and answer together at most.
        tokens_per_batch: Tokens of prompts and answers in one batch at most; a longer row is a batch by itself.

    Returns:
        Token ids of each answer, in the order of the prompts; empty where the prompt alone has the longest length.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    for rows in _equally_long(prompts, max_new_tokens, tokens_per_batch):
        ids = torch.from_numpy(np.stack([prompts[row] for row in rows]).astype(np.int64)).to(model.device)
        most_new_tokens = min(max_new_tokens, longest - ids.shape[1])
        if most_new_tokens < 1:
            continue
        written = model.greedy_continuation(ids, end_id=end_id, max_new_tokens=most_new_tokens)
        for row, tokens in zip(rows, written.tolist(), strict=True):
            answers[row] = tokens[: tokens.index(end_id)] if end_id in tokens else tokens
    return answers


def _equally_long(prompts: Sequence[np.ndarray], max_new_tokens: int, tokens_per_batch: int) -> Iterator[list[int]]:
    """Indices of prompts of one length, in batches; the longest come first."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts):
        by_length[len(prompt)].append(row)
    for length, rows in sorted(by_length.items(), reverse=True):
        size = max(1, tokens_per_batch // (length + max_new_tokens))
        yield from (rows[i : i + size] for i in range(0, len(rows), size))
