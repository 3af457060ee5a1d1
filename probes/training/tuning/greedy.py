"""Greedy answers in batches of equally long prompts: no pads, so none depends on its batch mates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from .answer_model import AnswerModel


@torch.no_grad()
def greedy_answers(
    model: AnswerModel,
    prompts: Sequence[np.ndarray],
    *,
    end_id: int,
    max_new_tokens: int,
    longest: int,
    tokens_per_batch: int,
) -> list[list[int]]:
    """The likeliest next token again and again, until the end token.

    Args:
        model: In evaluation mode.
        prompts: Token ids of each prompt.
        end_id: The token that ends an answer; it is not part of it.
        max_new_tokens: Tokens of an answer at most.
        longest: Tokens of prompt and answer at most.
        tokens_per_batch: Most tokens of prompts and answers held at once.

    Returns:
        Token ids of each answer, in the order of the prompts.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    for rows in _groups(prompts, max_new_tokens, tokens_per_batch):
        ids = torch.from_numpy(np.stack([prompts[row] for row in rows]).astype(np.int64)).to(model.device)
        written = _write(model, ids, end_id, min(max_new_tokens, longest - ids.shape[1]))
        for row, tokens in zip(rows, written.tolist(), strict=True):
            answers[row] = tokens[: tokens.index(end_id)] if end_id in tokens else tokens
    return answers


def _groups(prompts: Sequence[np.ndarray], max_new_tokens: int, tokens_per_batch: int) -> Iterator[list[int]]:
    by_length: dict[int, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts):
        by_length[len(prompt)].append(row)
    for length, rows in sorted(by_length.items(), reverse=True):
        size = max(1, tokens_per_batch // (length + max_new_tokens))
        yield from (rows[i : i + size] for i in range(0, len(rows), size))


def _write(model: AnswerModel, ids: Tensor, end_id: int, new_tokens: int) -> Tensor:
    """Answer ids `(rows, at most new_tokens)`; what follows the first end token of a row means nothing."""
    mask, cache, given = torch.ones_like(ids), None, ids
    written: list[Tensor] = []
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    while len(written) < new_tokens and not ended.all():
        token, cache = model.next_token(given, mask, cache)
        written.append(token)
        ended |= token == end_id
        given, mask = token[:, None], torch.cat([mask, mask.new_ones(len(ids), 1)], dim=1)
    return torch.stack(written, dim=1) if written else ids[:, :0]
