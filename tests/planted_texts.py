"""Texts of 8 to 512 tokens, drawn from a distribution, with a label in one of the tokens, or in all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from probes.training import RaggedRows

SHORTEST, LONGEST = 8, 512
FEATURES = 16


def label_in_one_token(rows: int, *, seed: int, strength: float = 8.0) -> tuple[RaggedRows, Tensor]:
    """A random token has ±`strength` in its first feature; the others have the opposite in equal parts.

    The mean over tokens therefore says nothing of the label.
    """
    values, labels, lengths, generator = _noise(rows, seed)
    sign = 2.0 * labels - 1
    text = torch.arange(rows).repeat_interleave(lengths)
    others = sign * strength / (lengths - 1)
    place = lengths.cumsum(0) - lengths + (torch.rand(rows, generator=generator) * lengths).long()
    values[:, 0] -= others[text]
    values[place, 0] += others + sign * strength
    return RaggedRows(values[None], lengths), labels


def label_in_all_tokens(rows: int, *, seed: int, strength: float = 1.5) -> tuple[RaggedRows, Tensor]:
    """All tokens share ±`strength`/√n in their first feature, so that the mean over tokens holds all of the label."""
    values, labels, lengths, _ = _noise(rows, seed)
    text = torch.arange(rows).repeat_interleave(lengths)
    values[:, 0] += ((2.0 * labels - 1) * strength / lengths.sqrt())[text]
    return RaggedRows(values[None], lengths), labels


def means(values: RaggedRows) -> Tensor:
    """The mean over the tokens of each text, shape `(layers, rows, features)`."""
    return torch.stack([tokens.mean(1) for tokens in values.of_rows()], dim=1)


def _noise(rows: int, seed: int) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    lengths = (SHORTEST * (LONGEST / SHORTEST) ** torch.rand(rows, generator=generator)).round().long()
    labels = torch.randint(2, (rows,), generator=generator)
    return torch.randn(int(lengths.sum()), FEATURES, generator=generator), labels, lengths, generator
