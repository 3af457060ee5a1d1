"""Text to token ids: the wrapper's own tokenizer, cut so that the end of the prompt survives."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_TEXTS_AT_ONCE = 1024  # what a tokenizer records of a text takes many times the memory of its ids


@dataclass(frozen=True)
class TokenizedTexts:
    """Token ids of some texts.

    Attributes:
        ids: One int32 array a text, special tokens included.
        text_ids: 32 hexadecimal digits a text: a hash of its ids; equal ids, equal activations.
        num_cut: How many texts were longer than the limit and lost their beginning.
        num_tokens_cut: How many tokens they lost together.
    """

    ids: tuple[np.ndarray, ...]
    text_ids: tuple[str, ...]
    num_cut: int
    num_tokens_cut: int


class Tokenizer:
    """A private copy of a transformers tokenizer; the caller's is never changed.

    Args:
        tokenizer: A transformers tokenizer.
        max_length: Longest sequence, special tokens included.
        chat_template: Render every text as the user's turn of a chat before tokenising.
    """

    def __init__(self, tokenizer: Any, *, max_length: int, chat_template: bool = False) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._tokenizer.truncation_side = "left"
        self.max_length = max_length
        self.chat_template = chat_template
        if chat_template and not self._tokenizer.chat_template:
            raise ValueError("This tokenizer has no chat template. Set `backbone.chat_template=false`.")

    @property
    def wrapped(self) -> Any:
        """The transformers tokenizer, this object's own copy; it is not to be changed."""
        return self._tokenizer

    def __call__(self, texts: Sequence[str], *, max_length: int | None = None) -> TokenizedTexts:
        """Tokenize; a text longer than `max_length` loses tokens at its beginning, never its special tokens.

        Raises:
            ValueError: A text has no tokens.
        """
        limit = self.max_length if max_length is None else min(max_length, self.max_length)
        parts = [self._cut(texts[i : i + _TEXTS_AT_ONCE], limit) for i in range(0, len(texts), _TEXTS_AT_ONCE)]
        arrays = tuple(array for ids, _ in parts for array in ids)
        lost = [tokens for _, lost_here in parts for tokens in lost_here]
        empty = [i for i, array in enumerate(arrays) if len(array) == 0]
        if empty:
            raise ValueError(
                f"{len(empty)} of {len(texts)} texts have no tokens; the first is number {empty[0]}, "
                f"{texts[empty[0]]!r}. Every text must hold at least one token: mend the data or `suite.prompt`."
            )
        return TokenizedTexts(arrays, tuple(text_id(array) for array in arrays), len(lost), sum(lost))

    def _cut(self, texts: Sequence[str], limit: int) -> tuple[list[np.ndarray], list[int]]:
        """Ids of some texts, and how many tokens each of those lost that were too long."""
        rendered = [self._render(text) for text in texts] if self.chat_template else list(texts)
        ids = self._ids(rendered)
        long = [i for i, tokens in enumerate(ids) if len(tokens) > limit]
        lost = [len(ids[i]) - limit for i in long]
        for i, cut in zip(long, self._ids([rendered[i] for i in long], limit), strict=True):
            ids[i] = cut
        return [np.asarray(tokens, dtype=np.int32) for tokens in ids], lost

    def _render(self, text: str) -> str:
        messages = [{"role": "user", "content": text}]
        return self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    def _ids(self, texts: list[str], limit: int | None = None) -> list[list[int]]:
        if not texts:
            return []
        encoded = self._tokenizer(
            texts,
            add_special_tokens=not self.chat_template,  # a chat template writes its own; twice BOS is another text
            truncation=limit is not None,
            max_length=limit,
            return_attention_mask=False,
            verbose=False,
        )
        return encoded["input_ids"]


def text_id(ids: np.ndarray) -> str:
    """32 hexadecimal digits for a sequence of token ids.

    >>> text_id(np.array([1, 2, 3])) == text_id(np.array([1, 2, 3], dtype=np.int32))
    True
    """
    return hashlib.blake2b(np.ascontiguousarray(ids, dtype="<i4").tobytes(), digest_size=16).hexdigest()


def pad_right(ids: Sequence[np.ndarray], *, length: int, pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask of a batch, both int64 of shape `(texts, length)`, pads at the right."""
    padded = np.full((len(ids), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(ids), length), dtype=np.int64)
    for row, tokens in enumerate(ids):
        padded[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return torch.from_numpy(padded), torch.from_numpy(mask)


def longest_input(tokenizer: Any, model: nn.Module) -> int:
    """The most tokens a text may have: the smallest of what the tokenizer and the position table allow."""
    limits = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None)]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)  # RoBERTa counts from past the pad id
    return min(int(limit) for limit in limits if limit is not None and limit > 0)
