"""Each pooling equals its definition over the attended tokens."""

from __future__ import annotations

import pytest
import torch

from probes.backbones.hooks import TokenPooler
from probes.values import POOLINGS

MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 0, 0, 0]])

BY_DEFINITION = {
    "last": lambda tokens: tokens[-1],
    "first": lambda tokens: tokens[0],
    "mean": lambda tokens: tokens.double().mean(dim=0).float(),
    "max": lambda tokens: tokens.amax(dim=0),
}


def hidden_states(dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_each_row_is_pooled_over_its_attended_tokens_with_padding_on_either_side(pooling: str, dtype: torch.dtype):
    hidden = hidden_states(dtype)
    expected = torch.stack([BY_DEFINITION[pooling](row[mask.bool()]) for row, mask in zip(hidden, MASK, strict=True)])
    torch.testing.assert_close(TokenPooler(MASK).pool(pooling, hidden), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_values_at_padded_positions_change_nothing(pooling: str):
    hidden = hidden_states(torch.float32)
    changed = torch.where(MASK[..., None].bool(), hidden, 1e6)
    assert torch.equal(TokenPooler(MASK).pool(pooling, changed), TokenPooler(MASK).pool(pooling, hidden))
    everywhere = TokenPooler(torch.ones_like(MASK)).pool(pooling, changed)
    assert not torch.equal(everywhere, TokenPooler(MASK).pool(pooling, hidden))  # the control: if attended, they do
