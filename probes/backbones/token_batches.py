"""From texts to padded batches of token ids.

`Tokenizer` turns texts into token ids and truncates long ones on the left, so that the end of a prompt survives;
`pad_right` builds the padded batch and its attention mask. Which texts share a batch is decided in
`probes.activations.batches`.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_TEXTS_PER_CALL = 1024
"""Texts in one call of the transformers tokenizer, whose records of a text take many times the memory of its ids."""


@dataclass(frozen=True)
class TokenizedTexts:
    """Token ids of some texts.

    Attributes:
        ids: One int32 array of shape `(tokens,)` for each text, special tokens included.
        text_ids: For each text a hash of its token ids, 32 hexadecimal digits; texts of equal ids share activations.
        num_cut: Number of texts that were longer than the limit and lost their beginning.
        num_tokens_cut: Number of tokens that these texts lost in total.
    """

    ids: tuple[np.ndarray, ...]
    text_ids: tuple[str, ...]
    num_cut: int
    num_tokens_cut: int


class Tokenizer:
    """Turns texts into token ids with a private copy of a transformers tokenizer; the caller's is never changed.

    Args:
        tokenizer: A transformers tokenizer.
        max_length: Length of the longest sequence in tokens, special tokens included.
        chat_template: Render every text as the user's turn of a chat before tokenizing.

    Raises:
        ValueError: `chat_template` is set and the tokenizer has none.
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
        """The private copy of the transformers tokenizer; callers must not change it."""
        return self._tokenizer

    def __call__(self, texts: Sequence[str], *, max_length: int | None = None) -> TokenizedTexts:
        """Tokenize; a text longer than `max_length` loses tokens at its beginning, but no special tokens.

        Raises:
            ValueError: A text has no tokens.
        """
        limit = self.max_length if max_length is None else min(max_length, self.max_length)
        chunks = [texts[start : start + _TEXTS_PER_CALL] for start in range(0, len(texts), _TEXTS_PER_CALL)]
        truncated = [self._truncate(chunk, limit) for chunk in chunks]
        arrays = tuple(array for ids, _ in truncated for array in ids)
        tokens_cut = [count for _, counts in truncated for count in counts]
        empty = [i for i, array in enumerate(arrays) if len(array) == 0]
        if empty:
            raise ValueError(
                f"{len(empty)} of {len(texts)} texts have no tokens; the first is number {empty[0]}, "
                f"{texts[empty[0]]!r}. Every text must have at least one token: correct the data or `suite.prompt`."
            )
        return TokenizedTexts(arrays, tuple(text_id(array) for array in arrays), len(tokens_cut), sum(tokens_cut))

    def _truncate(self, texts: Sequence[str], limit: int) -> tuple[list[np.ndarray], list[int]]:
        """The ids of each text, and for each text that was too long the number of tokens it lost."""
        rendered = [self._render(text) for text in texts] if self.chat_template else list(texts)
        ids = self._ids(rendered)
        long = [i for i, tokens in enumerate(ids) if len(tokens) > limit]
        tokens_cut = [len(ids[i]) - limit for i in long]
        # The tokenizer truncates, since it knows where its special tokens belong.
        for i, shortened in zip(long, self._ids([rendered[i] for i in long], limit), strict=True):
            ids[i] = shortened
        return [np.asarray(tokens, dtype=np.int32) for tokens in ids], tokens_cut

    def _render(self, text: str) -> str:
        messages = [{"role": "user", "content": text}]
        return self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    def _ids(self, texts: list[str], limit: int | None = None) -> list[list[int]]:
        if not texts:
            return []
        encoded = self._tokenizer(
            texts,
            add_special_tokens=not self.chat_template,  # a chat template has written them already
            truncation=limit is not None,
            max_length=limit,
            return_attention_mask=False,
            verbose=False,
        )
        return encoded["input_ids"]


def text_id(ids: np.ndarray) -> str:
    """A hash of a sequence of token ids, 32 hexadecimal digits, whatever the integer dtype.

    >>> text_id(np.array([1, 2, 3])) == text_id(np.array([1, 2, 3], dtype=np.int32))
    True
    """
    return hashlib.blake2b(np.ascontiguousarray(ids, dtype="<i4").tobytes(), digest_size=16).hexdigest()


def pad_right(ids: Sequence[np.ndarray], *, length: int, pad_id: int) -> tuple[Tensor, Tensor]:
    """A batch padded on the right to `length`: token ids and attention mask, both int64 of shape `(texts, length)`."""
    padded = np.full((len(ids), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(ids), length), dtype=np.int64)
    for row, tokens in enumerate(ids):
        padded[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return torch.from_numpy(padded), torch.from_numpy(mask)


def longest_input(tokenizer: Any, model: nn.Module) -> int:
    """The length of the longest input in tokens: the smallest limit of the tokenizer and the position embeddings."""
    limits = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None)]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)  # RoBERTa numbers positions from pad id + 1
    return min(int(limit) for limit in limits if limit is not None and limit > 0)
