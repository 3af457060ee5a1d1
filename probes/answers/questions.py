"""Prompts with the answers that are scored after them, as padded batches of token ids.

Answers that begin alike share a pass: all options of one token are read off the prompt's own logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from probes.answers.examples import answer_ids
from probes.backbones import FrozenBackbone, pad_right
from probes.files import digest_of_json
from probes.tasks.prompts import shared_frame

Ids = Sequence[int] | np.ndarray


class OptionBatch(NamedTuple):
    """Prompts, each followed by all tokens but the last of some of its options.

    Attributes:
        input_ids: int64, shape `(inputs, tokens)`, padded on the right.
        attention_mask: 1 where a token is attended, same shape.
        prompt_mask: 1 where a token belongs to the prompt, same shape.
        rows: Number of each input's row, shape `(inputs,)`; a row with several long options has several inputs.
        positions: Where an option's token is predicted: indices into the flattened inputs, shape `(predictions,)`.
        targets: Ids of those tokens, shape `(predictions,)`.
        cells: Which option of which row each belongs to: row · options + option, shape `(predictions,)`.
    """

    input_ids: Tensor
    attention_mask: Tensor
    prompt_mask: Tensor
    rows: Tensor
    positions: Tensor
    targets: Tensor
    cells: Tensor


@dataclass(frozen=True)
class Questions:
    """Rows of a task as prompts and options.

    Attributes:
        batches: All rows, those of similar length together.
        rows: Number of rows.
        options: Options of each row.
        lengths: Tokens of each option, float64, shape `(rows, options)`.
    """

    batches: tuple[OptionBatch, ...]
    rows: int
    options: int
    lengths: Tensor

    @classmethod
    def of(
        cls, prompts: Sequence[Ids], answers: Sequence[Sequence[Ids]], *, tokens_per_batch: int = 1024, pad_id: int = 0
    ) -> Self:
        """Arrange rows as batches.

        Args:
            prompts: Token ids of each row's prompt.
            answers: For each row the token ids of its options; each row has as many.
            tokens_per_batch: Tokens of a batch at most, pads included; a longer input is a batch by itself.
            pad_id: What fills padded positions.

        Raises:
            ValueError: A prompt or option has no tokens, or rows differ in the number of options.
        """
        counts = {len(options) for options in answers}
        if len(counts) != 1 or len(prompts) != len(answers) or 0 in counts:
            raise ValueError(f"Every prompt expects the same number of options, at least one; got {sorted(counts)}.")
        if not all(len(prompt) for prompt in prompts) or not all(len(a) for options in answers for a in options):
            raise ValueError("Every prompt and every option must have at least one token.")
        (options,) = counts
        inputs = [part for row, own in enumerate(answers) for part in _inputs(row, prompts[row], own)]
        inputs.sort(key=lambda part: -len(part.ids))
        batches: list[list[_Input]] = []
        for part in inputs:
            if batches and len(batches[-1][0].ids) * (len(batches[-1]) + 1) <= tokens_per_batch:
                batches[-1].append(part)
            else:
                batches.append([part])
        lengths = torch.tensor([[len(answer) for answer in own] for own in answers], dtype=torch.float64)
        return cls(tuple(_batch(group, options, pad_id) for group in batches), len(prompts), options, lengths)

    @property
    def digest(self) -> str:
        """A digest of what the model reads and what is scored, whatever the batches."""
        cells = []
        for batch in self.batches:
            width = batch.input_ids.shape[1]
            for position, target, cell in zip(*(t.tolist() for t in batch[-3:]), strict=True):
                place = position // width
                read = batch.input_ids[place, : position % width + 1].tolist()
                cells.append((cell, read, target))
        return digest_of_json(sorted(cells))


def label_questions(
    backbone: FrozenBackbone, prompts: Sequence[str], labels: Sequence[str], *, tokens_per_batch: int = 1024
) -> Questions:
    """Prompts whose options are the labels of a task in words, the same for each row.

    Raises:
        ValueError: There are no prompts or labels, or a prompt has no tokens.
    """
    ids = backbone.tokenize(prompts).ids
    by_option = [answer_ids(backbone, [label] * len(prompts), prompts) for label in labels]
    answers = list(zip(*by_option, strict=True))
    return Questions.of(ids, answers, tokens_per_batch=tokens_per_batch, pad_id=backbone.pad_id)


def sentence_questions(
    backbone: FrozenBackbone, sentences: Sequence[str], *, tokens_per_batch: int = 1024
) -> Questions:
    """Whole sentences, each the only option after the beginning of a text: for minimal pairs, and for perplexity.

    The beginning is the tokenizer's start token. Where it has none, the first token of the sentence stands in for it,
    and is not scored: of a minimal pair, both sentences then have to begin alike.

    Raises:
        ValueError: A sentence has no token to score.
    """
    start = backbone.tokenizer.wrapped.bos_token_id
    prompts, answers = [], []
    for ids in backbone.tokenize(sentences).ids:
        tokens = ids.tolist()
        if start is not None and tokens[0] != start:
            tokens = [start, *tokens]
        prompts.append(tokens[:1])
        answers.append([tokens[1:]])
    return Questions.of(prompts, answers, tokens_per_batch=tokens_per_batch, pad_id=backbone.pad_id)


def content_free_prompt(prompts: Sequence[str], *, content: str = "N/A") -> str:
    r"""A task's prompt with nothing in it: what all prompts share, and a filler in place of the text.

    Source:
        Zhao, Wallace, Feng, Klein and Singh 2021, "Calibrate before use".

    >>> content_free_prompt([f"Number {i} it is.\nOdd or even?" for i in range(20)])
    'N/A\nOdd or even?'
    """
    opening, ending = shared_frame(prompts)
    return f"{opening}{content}{ending}"


class _Input(NamedTuple):
    row: int
    ids: list[int]
    prompt_length: int
    options: list[tuple[int, Ids]]
    """Number and tokens of each option that is read off this input."""


def _inputs(row: int, prompt: Ids, answers: Sequence[Ids]) -> list[_Input]:
    """The fewest inputs off which all options of a row can be read: one for each prefix that no other one continues."""
    prefixes = {tuple(map(int, answer[:-1])) for answer in answers}
    longest = [p for p in prefixes if not any(p != other and other[: len(p)] == p for other in prefixes)]
    inputs = {p: _Input(row, [*map(int, prompt), *p], len(prompt), []) for p in sorted(longest)}
    for number, answer in enumerate(answers):
        own = tuple(map(int, answer[:-1]))
        inputs[next(p for p in inputs if p[: len(own)] == own)].options.append((number, answer))
    return list(inputs.values())


def _batch(group: Sequence[_Input], options: int, pad_id: int) -> OptionBatch:
    width = max(len(part.ids) for part in group)
    ids, mask = pad_right([np.asarray(part.ids) for part in group], length=width, pad_id=pad_id)
    prompt_lengths = torch.tensor([part.prompt_length for part in group])
    positions, targets, cells = [], [], []
    for place, part in enumerate(group):
        for number, answer in part.options:
            first = place * width + part.prompt_length - 1  # the prompt's last token predicts the answer's first
            positions += range(first, first + len(answer))
            targets += map(int, answer)
            cells += [part.row * options + number] * len(answer)
    return OptionBatch(
        input_ids=ids,
        attention_mask=mask,
        prompt_mask=(torch.arange(width) < prompt_lengths[:, None]).long(),
        rows=torch.tensor([part.row for part in group]),
        positions=torch.tensor(positions),
        targets=torch.tensor(targets),
        cells=torch.tensor(cells),
    )
