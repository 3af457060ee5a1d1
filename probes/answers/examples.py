"""Prompts and answers as token ids: how an answer follows its prompt, and batches of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from probes.backbones import FrozenBackbone


class Example(NamedTuple):
    """Token ids, int32: the prompt, and the answer that follows it, which includes the end token."""

    prompt: np.ndarray
    answer: np.ndarray

    @property
    def num_inputs(self) -> int:
        """Tokens the model reads: all except the last one, which is only predicted."""
        return len(self.prompt) + len(self.answer) - 1


def end_token(backbone: FrozenBackbone) -> int:
    """The id that ends an answer: the tokenizer's end token, or its pad token if it has no end token.

    Raises:
        ValueError: The tokenizer has neither.
    """
    tokenizer = backbone.tokenizer.wrapped
    for token in (tokenizer.eos_token_id, tokenizer.pad_token_id):
        if token is not None:
            return token
    raise ValueError(
        f"The tokenizer of '{backbone.name}' has neither an end nor a pad token, so answers cannot end. "
        "Set `backbone` to a model with one."
    )


def answer_ids(backbone: FrozenBackbone, answers: Sequence[str], prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of answers, each as it follows its prompt, without an end token.

    As in running text, a space separates the answer from a prompt that does not end in white space. It is not added
    where the tokenizer inserts one (SentencePiece) or where a chat template precedes the answer.
    """
    tokenizer = backbone.tokenizer.wrapped
    spaced = not backbone.tokenizer.chat_template and not tokenizer.tokenize("a")[0].startswith("▁")
    texts = [
        f" {answer.lstrip()}" if spaced and not prompt[-1:].isspace() else answer.lstrip()
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def micro_batches(examples: Sequence[Example], tokens: int) -> list[list[Example]]:
    """Divide examples, longest first, into groups of at most this many tokens, pads included.

    An example that is longer than the limit is a group by itself.
    """
    groups: list[list[Example]] = []
    for example in sorted(examples, key=lambda example: -example.num_inputs):
        if groups and groups[-1][0].num_inputs * (len(groups[-1]) + 1) <= tokens:
            groups[-1].append(example)
        else:
            groups.append([example])
    return groups
