"""Attention between words, from what models report of their tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.backbones import tiny_backbone
from probes.backbones.attention_maps import token_attention, word_attention

IDS = np.arange(1, 9)


def test_words_of_one_token_have_the_attention_of_the_tokens() -> None:
    backbone = tiny_backbone()
    maps = word_attention(backbone, IDS, np.array([[i, i + 1] for i in range(8)]))
    reported = token_attention(backbone, torch.arange(1, 9)[None]).numpy()
    assert maps.shape == (3, 4, 8, 8)
    np.testing.assert_allclose(maps, reported, atol=1e-6)
    np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-5)
    assert np.triu(maps, 1).max() == 0  # a decoder attends to what came before


def test_tokens_are_summed_where_attended_to_and_averaged_where_attending() -> None:
    backbone = tiny_backbone()
    reported = token_attention(backbone, torch.arange(1, 9)[None]).numpy()
    maps = word_attention(backbone, IDS, np.array([[1, 3], [3, 4], [5, 8]]))
    assert maps[1, 2, 2, 0] == pytest.approx(reported[1, 2, 5:8, 1:3].sum(-1).mean())
    assert maps[1, 2, 1, 2] == 0
    assert (maps.sum(-1) <= 1 + 1e-5).all()


def test_the_way_of_computing_attention_is_as_before() -> None:
    backbone = tiny_backbone()
    before = backbone.model.config._attn_implementation
    token_attention(backbone, torch.arange(1, 9)[None])
    assert backbone.model.config._attn_implementation == before
