"""Activations with one vector for each word, token or span of a text, in place of one for the text: ragged tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from probes.values import Layer, Reading

if TYPE_CHECKING:
    from torch import Tensor

TOKEN_MODES = ("words", "subwords", "spans")
"""What a text keeps one vector for each of: its words, the tokens of its tokenizer, or spans that a task names."""
SUBWORD_POOLINGS = ("last", "first", "mean")
"""How the tokens of one word or span become one vector."""


def token_mode(reading: Reading) -> str | None:
    """Which of `TOKEN_MODES` a reading has vectors of; `None` if it has one vector for each text.

    >>> token_mode(Reading("decoder", "residual", "words.mean")), token_mode(Reading("decoder", "residual", "mean"))
    ('words', None)
    """
    mode = reading.pooling.partition(".")[0]
    return mode if mode in TOKEN_MODES else None


def token_pooling(mode: str, subwords: str) -> str:
    """The pooling of a reading of tokens, such as `words.last`; of `subwords` nothing is pooled.

    >>> token_pooling("spans", "mean"), token_pooling("subwords", "mean")
    ('spans.mean', 'subwords')
    """
    return mode if mode == "subwords" else f"{mode}.{subwords}"


TOKEN_POOLINGS = tuple(dict.fromkeys(token_pooling(mode, how) for mode in TOKEN_MODES for how in SUBWORD_POOLINGS))
"""All poolings that keep a vector for each word, token or span."""


@dataclass(frozen=True)
class TokenActivations:
    """Vectors of the words (or tokens, or spans) of some texts at some layers, under one reading.

    The vectors of text i are `values[:, offsets[i] : offsets[i + 1]]`. A word that has no vector, because the
    tokenizer gives it no token or because the length limit cut it off, is left out; `positions` tells which are there.

    Attributes:
        values: float32, shape `(layers, tokens, features)`, one text after another.
        offsets: int64, shape `(texts + 1,)`, from 0 to the number of tokens.
        positions: Number of the word in its text, counted from 0, int64 `(tokens,)`.
        layers: Names of the first axis of `values`.
        row_ids: Names of the texts.
        reading: Stack, site and pooling, such as `words.last`.

    >>> import torch
    >>> one = TokenActivations(torch.ones(1, 3, 2), torch.tensor([0, 1, 3]), torch.tensor([0, 0, 1]), (0,), ("a", "b"),
    ...     Reading("decoder", "residual", "words.last"))
    >>> values, mask = one.padded()
    >>> values.shape, mask.tolist()
    (torch.Size([1, 2, 2, 2]), [[True, False], [True, True]])
    """

    values: Tensor
    offsets: Tensor
    positions: Tensor
    layers: tuple[Layer, ...]
    row_ids: tuple[str, ...]
    reading: Reading

    def __post_init__(self) -> None:
        texts, tokens = len(self.row_ids), int(self.offsets[-1])
        shape = tuple(self.values.shape)
        if len(shape) != 3 or shape[:2] != (len(self.layers), tokens) or len(self.offsets) != texts + 1:
            raise ValueError(
                f"TokenActivations of {texts} texts and {tokens} tokens expect values of shape (layers, tokens, "
                f"features) = {(len(self.layers), tokens, 'features')} and {texts + 1} offsets; got {shape} and "
                f"{len(self.offsets)} offsets."
            )

    @property
    def lengths(self) -> Tensor:
        """Vectors of each text, int64 `(texts,)`."""
        return self.offsets.diff()

    @property
    def text_of_token(self) -> Tensor:
        """Number of the text of each vector, int64 `(tokens,)`."""
        import torch

        return torch.arange(len(self.row_ids)).repeat_interleave(self.lengths)

    def of_text(self, text: int) -> Tensor:
        """Vectors of one text, a view of shape `(layers, tokens, features)`."""
        return self.values[:, int(self.offsets[text]) : int(self.offsets[text + 1])]

    def of_texts(self, texts: Sequence[int]) -> TokenActivations:
        """Some of the texts, in the given order."""
        import torch

        chosen = torch.as_tensor(texts, dtype=torch.long)
        lengths = self.lengths[chosen]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        within = torch.arange(int(offsets[-1])) - offsets[:-1].repeat_interleave(lengths)
        tokens = self.offsets[chosen].repeat_interleave(lengths) + within
        names = tuple(self.row_ids[text] for text in chosen.tolist())
        return replace(
            self, values=self.values[:, tokens], offsets=offsets, positions=self.positions[tokens], row_ids=names
        )

    def padded(self) -> tuple[Tensor, Tensor]:
        """All texts in one tensor, padded with zeros on the right to the longest.

        Returns:
            Values, shape `(layers, texts, tokens, features)`, and a mask, bool `(texts, tokens)`, true where a vector
            is.
        """
        import torch

        most = int(self.lengths.max()) if len(self.row_ids) else 0
        mask = torch.arange(most) < self.lengths[:, None]
        values = self.values.new_zeros(len(self.layers), *mask.shape, self.values.shape[-1])
        values[:, mask] = self.values
        return values, mask
