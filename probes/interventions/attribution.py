"""Which tokens of a prompt an answer owes itself to: gradient × input, and integrated gradients."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from probes.answers import LanguageModel, OptionBatch, Questions
from probes.backbones import FrozenBackbone
from probes.tasks.prompts import shared_frame

PARTS = ("input", "instruction", "options")
"""Parts of a prompt: what differs from row to row, what all rows share, and the labels that are named in the latter."""


def right_answer_weights(labels: Tensor, options: int) -> Tensor:
    """Weights of the log-probabilities in the log-odds of the right answer, float64, shape `(rows, options)`."""
    weights = torch.full((len(labels), options), -1 / (options - 1), dtype=torch.float64)
    weights[torch.arange(len(labels)), labels] = 1.0
    return weights


def gradient_times_input(lm: LanguageModel, questions: Questions, weights: Tensor) -> list[Tensor]:
    """Gradient of a weighted sum of log-probabilities with respect to each token's layer 0, times that layer 0.

    Args:
        lm: The model.
        questions: Prompts and options.
        weights: Of each option's log-probability, shape `(rows, options)`, such as `right_answer_weights`.

    Returns:
        For each batch the attribution of every prompt token, nats, float32, shape `(inputs, tokens)`; 0 elsewhere.
    """
    return [
        _gradient(lm, batch, hidden, weights).mul_(hidden.float()).sum(-1) * batch.prompt_mask
        for batch, hidden in _embedded(lm, questions)
    ]


def integrated_gradients(
    lm: LanguageModel,
    questions: Questions,
    weights: Tensor,
    *,
    steps: int = 16,
    start_of: Callable[[OptionBatch, Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """Gradients along the line from a start, such as an average token, to each token's layer 0, times the distance.

    Over the prompt they sum to the difference between the score and that of the start.

    Args:
        lm: The model.
        questions: As in `gradient_times_input`.
        weights: As there.
        steps: Nodes of the Gauss–Legendre quadrature.
        start_of: Layer 0 of the start for a batch and its own layer 0, such as that of prompts with another word;
            default `average_tokens` of the questions.

    Returns:
        As `gradient_times_input`.

    Source:
        Sundararajan, Taly and Yan 2017, "Axiomatic attribution for deep networks".
    """
    nodes, shares = np.polynomial.legendre.leggauss(steps)
    start_of = average_tokens(lm, questions) if start_of is None else start_of
    found = []
    for batch, hidden in _embedded(lm, questions):
        start = start_of(batch, hidden)
        way = hidden - start
        total = sum(
            share / 2 * _gradient(lm, batch, start + (node + 1) / 2 * way, weights)
            for node, share in zip(nodes.tolist(), shares.tolist(), strict=True)
        )
        found.append((total * way.float()).sum(-1) * batch.prompt_mask)
    return found


def completeness_error(lm: LanguageModel, questions: Questions, weights: Tensor, found: Sequence[Tensor]) -> float:
    """How far integrated gradients from average tokens are from adding up, as a share of what they should add up to.

    Args:
        lm: The model.
        questions: As in `gradient_times_input`.
        weights: As there.
        found: What `integrated_gradients` returned.

    Returns:
        Sum over inputs of |sum of attributions − difference of scores|, over the sum of |difference of scores|.
    """
    missed, whole, start_of = 0.0, 0.0, average_tokens(lm, questions)
    with torch.no_grad():
        for (batch, hidden), own in zip(_embedded(lm, questions), found, strict=True):
            ends = [score_at(lm, batch, layer_0, weights) for layer_0 in (hidden, start_of(batch, hidden))]
            difference = (ends[0] - ends[1]).double()
            missed += (own.double().sum(1) - difference).abs().sum().item()
            whole += difference.abs().sum().item()
    return missed / max(whole, 1e-300)


def words_of_prompts(backbone: FrozenBackbone, prompts: Sequence[str]) -> list[list[tuple[str, np.ndarray]]]:
    """Words of each prompt, divided at white space, with the numbers of their tokens.

    Args:
        backbone: As in `parts_of_prompts`, which refuses prompts whose tokens cannot be told apart.
        prompts: The texts.
    """
    encoded = backbone.tokenizer.wrapped(list(prompts), return_offsets_mapping=True)
    found = []
    for prompt, offsets in zip(prompts, encoded["offset_mapping"], strict=True):
        ends = np.array([end - 1 if end > first else -1 for first, end in offsets])  # −1: no character of the prompt
        words = [(word[0], word.span()) for word in re.finditer(r"\S+", prompt)]
        found.append([(text, np.flatnonzero((ends >= first) & (ends < last))) for text, (first, last) in words])
    return found


def average_tokens(lm: LanguageModel, questions: Questions) -> Callable[[OptionBatch, Tensor], Tensor]:
    """For a batch and its layer 0, layer 0 with an average token in place of each prompt token, in the same shape.

    It has the direction of the mean of all prompt tokens of all questions, whatever the batches, and their average
    length: near 0, norms would make of every small step a large one.
    """
    total, length, count = torch.zeros(lm.backbone.hidden_size, dtype=torch.float64), 0.0, 0
    for batch, hidden in _embedded(lm, questions):
        tokens = hidden.cpu()[batch.prompt_mask.bool()].double()
        total, length, count = total + tokens.sum(0), length + tokens.norm(dim=1).sum().item(), count + len(tokens)
    average = (total / total.norm().clamp(min=1e-12) * (length / count)).float()

    def start_of(batch: OptionBatch, hidden: Tensor) -> Tensor:
        return torch.where(batch.prompt_mask.bool()[..., None].to(hidden.device), average.to(hidden), hidden)

    return start_of


def score_at(lm: LanguageModel, batch: OptionBatch, hidden: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of log-probabilities of a batch that starts from a given layer 0, nats, shape `(inputs,)`."""
    with lm.backbone.resume(0, hidden):
        of_tokens = lm.token_log_probs(batch)
    rows = torch.div(batch.positions, batch.input_ids.shape[1], rounding_mode="floor")
    weighted = of_tokens * weights.view(-1)[batch.cells].to(of_tokens)
    return torch.zeros(len(batch.rows), device=of_tokens.device).index_add(0, rows.to(of_tokens.device), weighted)


def parts_of_prompts(
    backbone: FrozenBackbone, prompts: Sequence[str], labels: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    """Which tokens of each prompt belong to which of `PARTS`, bool `(tokens,)` each.

    Args:
        backbone: Its tokenizer has to say which characters each token stands for.
        prompts: Of one task; what they share is the instruction.
        labels: Looked for in the instruction.

    Raises:
        ValueError: The tokenizer does not say it, or a prompt is not read whole.
    """
    tokenizer = backbone.tokenizer.wrapped
    if not tokenizer.is_fast or backbone.tokenizer.chat_template:
        raise ValueError(
            f"The tokenizer of '{backbone.name}' does not tell which characters its tokens stand for, or renders a "
            "chat template around them. Set `backbone` to a model with a fast tokenizer, and "
            "`backbone.chat_template=false`."
        )
    opening, ending = shared_frame(prompts)
    encoded = tokenizer(list(prompts), return_offsets_mapping=True)
    found = []
    for prompt, ids, offsets, read in zip(
        prompts, encoded["input_ids"], encoded["offset_mapping"], backbone.tokenize(prompts).ids, strict=True
    ):
        if len(ids) != len(read):
            raise ValueError(f"A prompt of {len(ids)} tokens is cut to {len(read)}: {prompt[:60]!r}. Use shorter ones.")
        kind = np.full(len(prompt), "input", dtype=object)
        kind[: len(opening)] = kind[len(prompt) - len(ending) :] = "instruction"
        for label in labels:
            place = prompt.find(label)
            while place >= 0:
                if all(kind[place : place + len(label)] != "input"):
                    kind[place : place + len(label)] = "options"
                place = prompt.find(label, place + 1)
        # a token may begin with the space before its word, so that its last character decides
        of_tokens = np.array([kind[end - 1] if end > first else "" for first, end in offsets], dtype=object)
        found.append({part: of_tokens == part for part in PARTS})
    return found


def _embedded(lm: LanguageModel, questions: Questions) -> list[tuple[OptionBatch, Tensor]]:
    return [
        (batch, lm.backbone.hidden_states(batch.input_ids, batch.attention_mask, layers=[0])[0])
        for batch in questions.batches
    ]


def _gradient(lm: LanguageModel, batch: OptionBatch, hidden: Tensor, weights: Tensor) -> Tensor:
    """Gradient of the score with respect to layer 0, float32, shape `(inputs, tokens, features)`."""
    leaf = hidden.detach().clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(score_at(lm, batch, leaf, weights).sum(), leaf)
    return gradient.float()
