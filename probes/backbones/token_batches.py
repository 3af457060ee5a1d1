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
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tokenizers import pre_tokenizers
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
        spans: For each text the first token of each of its words and the one after its last, int32 `(words, 2)`; `()`
            where no words are read.
    """

    ids: tuple[np.ndarray, ...]
    text_ids: tuple[str, ...]
    num_cut: int
    num_tokens_cut: int
    spans: tuple[np.ndarray, ...] = ()

    @cached_property
    def span_ids(self) -> tuple[str, ...]:
        """For each text a hash of its token ids and of the tokens of its words; `()` where no words are read."""
        return (
            tuple(
                text_id(np.concatenate([[len(ids)], ids, spans.ravel()]))
                for ids, spans in zip(self.ids, self.spans, strict=True)
            )
            if self.spans
            else ()
        )


class Tokenizer:
    """Turns texts into token ids with a private copy of a transformers tokenizer; the caller's is never changed.

    Args:
        tokenizer: A transformers tokenizer.
        max_length: Length of the longest sequence in tokens, special tokens included.
        chat_template: Render every text as the user's turn of a chat before tokenizing.
        num_embeddings: Rows of the model's embedding table, which token ids must not exceed; `None` if not known.

    Raises:
        ValueError: `chat_template` is set and the tokenizer has none.
    """

    def __init__(
        self, tokenizer: Any, *, max_length: int, chat_template: bool = False, num_embeddings: int | None = None
    ) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._tokenizer.truncation_side = "left"
        self.max_length = max_length
        self.chat_template = chat_template
        self.num_embeddings = num_embeddings
        self._may_omit = _may_omit_characters(self._tokenizer)
        if chat_template and not self._tokenizer.chat_template:
            raise ValueError("This tokenizer has no chat template. Set `backbone.chat_template=false`.")

    @property
    def wrapped(self) -> Any:
        """The private copy of the transformers tokenizer; callers must not change it."""
        return self._tokenizer

    def __call__(self, texts: Sequence[str], *, max_length: int | None = None) -> TokenizedTexts:
        """Tokenize; a text longer than `max_length` loses tokens at its beginning, but no special tokens.

        Raises:
            ValueError: A text has no tokens, or characters that the tokenizer has no token for, or one of its tokens
                has no embedding; the message names the text by its number, counted from 1.
        """
        limit = self.max_length if max_length is None else min(max_length, self.max_length)
        arrays: list[np.ndarray] = []
        tokens_cut: list[int] = []
        for start in range(0, len(texts), _TEXTS_PER_CALL):
            ids, counts = self._truncate(texts[start : start + _TEXTS_PER_CALL], limit, start)
            arrays += ids
            tokens_cut += counts
        self._check_ids(texts, arrays)
        return TokenizedTexts(
            tuple(arrays), tuple(text_id(array) for array in arrays), len(tokens_cut), sum(tokens_cut)
        )

    def offsets(self, texts: Sequence[str], tokenized: TokenizedTexts) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The characters of a text that each of its tokens stands for.

        Args:
            texts: The texts.
            tokenized: What this tokenizer made of them.

        Returns:
            For each text, int64 `(tokens, 2)`, the first character of each token and the one after its last: of all
            its tokens, and of those that truncation left (the same array where it cut nothing). Special tokens, and
            those of a chat template, have two equal numbers.

        Raises:
            ValueError: The tokenizer is not a fast one.
        """
        if not self._tokenizer.is_fast:
            raise ValueError(
                f"{type(self._tokenizer).__name__} is no fast tokenizer, so that it does not tell which characters a "
                "token stands for. Set `extraction.tokens=null`, or `backbone` to a model with a fast tokenizer."
            )
        whole: list[np.ndarray] = []
        remaining: list[np.ndarray] = []
        for start in range(0, len(texts), _TEXTS_PER_CALL):
            some = texts[start : start + _TEXTS_PER_CALL]
            for i, offsets in enumerate(self._offsets(some, None), start=start):
                whole.append(offsets)
                limit = len(tokenized.ids[i])
                cut = len(offsets) > limit
                remaining.append(self._offsets([texts[i]], limit)[0] if cut else offsets)
        return whole, remaining

    def _offsets(self, texts: Sequence[str], limit: int | None) -> list[np.ndarray]:
        rendered = [self._render(text) for text in texts] if self.chat_template else list(texts)
        encoded = self._encoded(rendered, limit, offsets=True)["offset_mapping"]
        arrays = [np.asarray(offsets, dtype=np.int64).reshape(-1, 2) for offsets in encoded]
        if not self.chat_template:
            return arrays
        return [
            _without_template(array, self._place(text, whole), len(text))
            for array, text, whole in zip(arrays, texts, rendered, strict=True)
        ]

    def _place(self, text: str, rendered: str) -> int:
        """Where in a rendered chat the user's text begins."""
        before = self._render("\ufffc").index("\ufffc")  # a character that no template has
        if rendered[before : before + len(text)] != text:
            raise ValueError(
                f"The chat template changes the text {text[:60]!r}, so that its words cannot be found. Set "
                "`backbone.chat_template=false`."
            )
        return before

    def _check_ids(self, texts: Sequence[str], arrays: Sequence[np.ndarray]) -> None:
        empty = [i for i, array in enumerate(arrays) if len(array) == 0]
        if empty:
            raise ValueError(
                f"{len(empty)} of {len(texts)} texts have no tokens; the first is {_named(empty[0], texts[empty[0]])}. "
                "Every text must have at least one token: correct the data or `suite.prompt`."
            )
        if self.num_embeddings is None:
            return
        for i, array in enumerate(arrays):
            if array.max() >= self.num_embeddings:
                raise ValueError(
                    f"{_named(i, texts[i])} has the token id {array.max()}, and the model has embeddings for ids 0 to "
                    f"{self.num_embeddings - 1} only: tokenizer and weights do not belong together. Set `backbone` to "
                    "a model with its own tokenizer."
                )

    def _truncate(self, texts: Sequence[str], limit: int, start: int) -> tuple[list[np.ndarray], list[int]]:
        """The ids of each text, and for each text that was too long the number of tokens it lost.

        `start` is the number of texts before these.
        """
        rendered = [self._render(text) for text in texts] if self.chat_template else list(texts)
        ids = self._ids(rendered, start=start)
        long = [i for i, tokens in enumerate(ids) if len(tokens) > limit]
        tokens_cut = [len(ids[i]) - limit for i in long]
        # The tokenizer truncates, since it knows where its special tokens belong.
        for i, shortened in zip(long, self._ids([rendered[i] for i in long], limit), strict=True):
            ids[i] = shortened
        return [np.asarray(tokens, dtype=np.int32) for tokens in ids], tokens_cut

    def _render(self, text: str) -> str:
        messages = [{"role": "user", "content": text}]
        return self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    def _ids(self, texts: list[str], limit: int | None = None, *, start: int = 0) -> list[list[int]]:
        """Token ids of texts, the first of which has the number `start`, counted from 0."""
        if not texts:
            return []
        try:
            encoded = self._encoded(texts, limit)
        except Exception as error:  # tokenizers written in Rust raise `Exception` itself
            for i, text in enumerate(texts):
                try:
                    self._encoded([text], limit)
                except Exception as own:
                    raise ValueError(f"{_named(start + i, text)} cannot be tokenized: {_reason(text, own)}") from own
            raise ValueError(f"Texts cannot be tokenized: {error}") from error
        for i, tokens in enumerate(encoded["input_ids"]):
            if None in tokens:
                raise ValueError(f"{_named(start + i, texts[i])} {_NO_TOKEN}")
        offsets_of_texts: list[Any] = encoded["offset_mapping"] if self._may_omit and limit is None else []
        for i, offsets in enumerate(offsets_of_texts):
            covered = {place for first, end in offsets for place in range(first, end)}
            if omitted := [c for place, c in enumerate(texts[i]) if c.isalnum() and place not in covered]:
                raise ValueError(f"{_named(start + i, texts[i])}: {omitted[0]!r} {_NO_TOKEN}")
        return encoded["input_ids"]

    def _encoded(self, texts: list[str], limit: int | None, *, offsets: bool = False) -> Any:
        return self._tokenizer(
            texts,
            add_special_tokens=not self.chat_template,  # a chat template has written them already
            truncation=limit is not None,
            max_length=limit,
            return_attention_mask=False,
            return_offsets_mapping=self._may_omit or offsets,
            verbose=False,
        )


_NO_TOKEN = (
    "has characters that the tokenizer has no token for, and it has no unknown token. Correct the text, or set "
    "`backbone` to a model whose tokenizer knows them."
)


def _without_template(offsets: np.ndarray, place: int, length: int) -> np.ndarray:
    """Offsets into a text of so many characters, from those into a chat in which it begins at `place`."""
    return (offsets - place).clip(0, length)


def _named(number: int, text: str) -> str:
    """A text by its number, counted from 1, and its beginning."""
    return f"text {number + 1} ({text[:60]!r})"


def _reason(text: str, error: Exception) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "it holds half of a surrogate pair, which is no character. Correct the text."
    if "unk" in str(error).lower():
        return f"it {_NO_TOKEN}"
    return f"{error}"


def _may_omit_characters(tokenizer: Any) -> bool:
    """Whether a tokenizer may silently leave out characters: it has neither an unknown token nor a token for each byte.

    Only fast tokenizers do; they tell which characters each token stands for.
    """
    if tokenizer.unk_token_id is not None or not tokenizer.is_fast:
        return False
    vocabulary = tokenizer.get_vocab().keys()
    every_byte = pre_tokenizers.ByteLevel.alphabet(), [f"<0x{byte:02X}>" for byte in range(256)]
    return not any(vocabulary >= set(alphabet) for alphabet in every_byte)


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


def num_embeddings(model: nn.Module) -> int | None:
    """Rows of a transformers model's table of input embeddings; `None` if it has no table."""
    try:
        table = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    return table.num_embeddings if isinstance(table, nn.Embedding) else None


def longest_input(tokenizer: Any, model: nn.Module) -> int:
    """The length of the longest input in tokens: the smallest limit of the tokenizer and the position embeddings."""
    limits = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None)]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)  # RoBERTa numbers positions from pad id + 1
    return min(int(limit) for limit in limits if limit is not None and limit > 0)
