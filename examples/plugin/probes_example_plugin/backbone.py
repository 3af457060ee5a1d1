"""A backbone with the architecture of a model and random weights: what can be decoded without any training?"""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from probes import FrozenBackbone
from probes.backbones.structure import LayerSpec


def untrained_backbone(
    name: str, *, seed: int = 0, layers: LayerSpec = "all", stack: str | list[str] | None = None
) -> FrozenBackbone:
    """Build a model from its configuration, with weights as they are before training.

    Args:
        name: Hub name, or a folder with `config.json` and the tokenizer.
        seed: Seed of the weights.
        layers: As in `FrozenBackbone`.
        stack: As in `FrozenBackbone`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(AutoConfig.from_pretrained(name))
    tokenizer = AutoTokenizer.from_pretrained(name)
    return FrozenBackbone(model, tokenizer, name=f"{name} untrained", layers=layers, stack=stack)
