"""The same architecture with random weights: what a layer decodes without anything having been learned."""

from __future__ import annotations

import copy
from typing import Any

import torch

from probes.backbones.frozen import FrozenBackbone
from probes.seeds import derive_seed


def with_random_weights(backbone: FrozenBackbone, *, seed: int = 0) -> FrozenBackbone:
    """A backbone of the same architecture, tokenizer and layers, whose weights are drawn as for training from scratch.

    Args:
        backbone: Any; it is not changed.
        seed: Of the weights; 0 is a seed like any other.

    Example:
        >>> from probes.backbones import tiny_backbone
        >>> with_random_weights(tiny_backbone(), seed=1).name
        'tiny-0, random weights'
    """
    config = copy.deepcopy(backbone.model.config)
    vars(config).pop("quantization_config", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "random weights"))
        model_class: Any = type(backbone.model)
        model = model_class(config)
    return FrozenBackbone(
        model.to(device=backbone.device, dtype=backbone.dtype),
        backbone.tokenizer.wrapped,
        name=f"{backbone.name}, random weights",
        stack=backbone.stacks,
        layers=backbone.layer_spec,
        decoder_input=backbone.decoder_input,
        chat_template=backbone.tokenizer.chat_template,
    )
