"""Random weights: the same architecture, layers and tokenizer, other weights, and nothing else changed."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_model

from probes.activations import extract
from probes.backbones import FrozenBackbone, tiny_backbone, with_random_weights
from probes.backbones.tiny import byte_tokenizer

TEXTS = ["one", "two words", "three"]


@pytest.mark.parametrize("family", ["llama", "bert", "t5", "gpt2"])
def test_the_architecture_is_the_same_and_the_weights_are_others(family):
    backbone = FrozenBackbone(tiny_model(family), byte_tokenizer(), layers=[0, 2, "final"])
    before = backbone.fingerprint()
    drawn = with_random_weights(backbone, seed=0)
    assert backbone.fingerprint() == before
    assert drawn.fingerprint() != before
    assert drawn.stacks == backbone.stacks
    own, other = extract(backbone, TEXTS), extract(drawn, TEXTS)
    assert (own.layers, own.reading, own.row_ids) == (other.layers, other.reading, other.row_ids)
    assert own.values.shape == other.values.shape
    assert not torch.allclose(own.values[-1], other.values[-1], atol=1e-2)


def test_the_weights_depend_on_the_seed_alone():
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    one = with_random_weights(tiny_backbone(seed=5), seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.fingerprint() == with_random_weights(tiny_backbone(seed=6), seed=1).fingerprint()
    assert one.fingerprint() != with_random_weights(tiny_backbone(seed=5), seed=2).fingerprint()
