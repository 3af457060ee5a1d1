"""Attention heads one by one: their edits, and sparse masks of heads that carry an answer, learned by gradients.

At the site `heads` a token's features are the outputs of all heads of a block, end to end: head h has the features from
h · width on, where width is their number divided by that of the heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.answers import LanguageModel, OptionBatch
from probes.backbones import Edit
from probes.backbones.edits import Positions


def patch_heads(source: Tensor, gates: Tensor, *, layer: int, positions: Positions = "all") -> Edit:
    """Heads of a layer become a mixture of what they are and of another text's or model's: h + g (source − h).

    Args:
        source: What is mixed in, shape `(batch, tokens, features)` as read at the site `heads`.
        gates: g of each head, from 0 (nothing changes) to 1 (replaced), shape `(heads,)`; gradients pass through.
        layer: Where.
        positions: As in `Edit`.
    """
    heads = len(gates)
    share = gates.repeat_interleave(source.shape[-1] // heads)

    def change(hidden: Tensor) -> Tensor:
        other = source.to(device=hidden.device)
        by_feature = share.to(device=hidden.device, dtype=hidden.dtype)
        return torch.lerp(hidden, other, by_feature.expand_as(hidden))  # exact at both ends, whatever the dtype

    return Edit(layer, change, site="heads", positions=positions)


def one_head(head: int, heads: int) -> Tensor:
    """Gates that are 1 for one head and 0 for the others, shape `(heads,)`."""
    gates = torch.zeros(heads)
    gates[head] = 1.0
    return gates


@dataclass(frozen=True)
class HeadSwap:
    """A batch of target prompts, and what all heads put out for the source prompts of its rows.

    Attributes:
        batch: The target prompts; two options each, the answer to the source first.
        heads: Layer → outputs of the heads for the source prompts, shape `(inputs, tokens, features)`.
        positions: The tokens that are patched, bool, shape `(inputs, tokens)`.
        gaps: Log-odds of the source's answer after the source less those after the target, nats, shape `(inputs,)`.
    """

    batch: OptionBatch
    heads: dict[int, Tensor]
    positions: Tensor
    gaps: Tensor

    @classmethod
    def of(cls, lm: LanguageModel, source: OptionBatch, target: OptionBatch, positions: Tensor) -> HeadSwap:
        """Read both prompts; they have equally many tokens, row by row."""
        heads = lm.backbone.hidden_states(source.input_ids, source.attention_mask, layers="all", site="heads")
        with torch.no_grad():
            source_odds, target_odds = (first_over_second(b, lm.token_log_probs(b)) for b in (source, target))
        by_layer = {int(layer): own for layer, own in heads.items()}
        return cls(target, by_layer, positions, source_odds - target_odds)

    def log_odds(self, lm: LanguageModel, gates: Tensor) -> Tensor:
        """Log-odds of the source's answer when heads are mixed, nats, shape `(inputs,)`; gradients pass to the gates.

        Args:
            lm: The model.
            gates: Of each head, shape `(layers, heads)`; the row k − 1 is layer k.
        """
        wanted = gates.requires_grad
        edits = [
            patch_heads(own, gates[layer - 1], layer=layer, positions=self.positions)
            for layer, own in self.heads.items()
            if wanted or bool((gates[layer - 1] != 0).any())
        ]
        with torch.set_grad_enabled(wanted), lm.backbone.intervene(edits):
            return first_over_second(self.batch, lm.token_log_probs(self.batch))


def first_over_second(batch: OptionBatch, of_tokens: Tensor) -> Tensor:
    """Log-odds of the first of two options, nats, shape `(inputs,)`, of log-probabilities of tokens `(predictions,)`.

    Inputs of a row that has several add up to that of the row.
    """
    signs = 1.0 - 2.0 * (batch.cells % 2).to(of_tokens)
    places = torch.div(batch.positions, batch.input_ids.shape[1], rounding_mode="floor").to(of_tokens.device)
    return torch.zeros(len(batch.rows), device=of_tokens.device, dtype=of_tokens.dtype).index_add(
        0, places, signs * of_tokens
    )


def contradictory_signs(gaps: Tensor) -> Tensor:
    """Signs for pairs that contradict each other: half of them want the opposite of the others, whatever their gaps.

    Pairs of about equal gaps get opposite signs, and one that is left over gets 0, so that no change of all answers in
    their own direction is wanted.

    Args:
        gaps: Of the pairs of a batch, shape `(inputs,)`.

    >>> contradictory_signs(torch.tensor([4.0, 1.0, 3.0, 2.0, 9.0])).tolist()
    [1.0, 1.0, -1.0, -1.0, 0.0]
    """
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0]).repeat(len(gaps) // 4 + 1)[: len(gaps)]
    if len(gaps) % 2:
        signs[-1] = 0.0
    return torch.empty_like(signs).scatter(0, gaps.cpu().argsort(), signs)


def learn_gates(
    lm: LanguageModel,
    swaps: Sequence[HeadSwap],
    wanted: Sequence[Tensor],
    *,
    penalty: float,
    steps: int,
    learning_rate: float,
) -> Tensor:
    """Gates of all heads that close as much of the gap as possible with as few heads as possible.

    What is minimised over gates in [0, 1] is −(share of the gap that is closed) + penalty · (sum of gates): a head
    stays open if it closes at least `penalty` of the gap. Gates begin at 1/2 and are kept within their bounds after
    each step of Adam; the penalty rises from 0 to its value over the first half of the steps, so that heads are first
    found and then left out.

    Args:
        lm: The model, whose weights stay as they are.
        swaps: Batches of training pairs; each step takes the next one.
        wanted: Of each batch the direction in which each input's log-odds should move, divided by the mean gap over all
            pairs, shape `(inputs,)`.
        penalty: Share of the gap that a head has to close.
        steps: Steps of Adam.
        learning_rate: Its learning rate.

    Returns:
        float32 on the CPU, shape `(layers, heads)`, in [0, 1].

    Source:
        Davies et al. 2023 (desiderata-based component masking, arXiv:2307.03637).
    """
    gates = torch.full((lm.backbone.num_layers, lm.backbone.num_heads), 0.5, requires_grad=True)
    optimizer = torch.optim.Adam([gates], lr=learning_rate)
    for step in range(steps):
        swap, direction = swaps[step % len(swaps)], wanted[step % len(swaps)]
        closed = (direction.to(lm.device) * swap.log_odds(lm, gates)).mean()
        weight = penalty * min(1.0, 2 * (step + 1) / steps)
        loss = -closed.cpu() + weight * gates.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            gates.clamp_(0, 1)
    return gates.detach()
