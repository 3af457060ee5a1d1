"""A model in training, read as a frozen backbone for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel

from probes.backbones.frozen import FrozenBackbone


@contextmanager
def frozen_view(model: PreTrainedModel, tokenizer: Any, **options: Any) -> Iterator[FrozenBackbone]:
    """The live model as a frozen backbone inside the context; gradients and training mode come back behind it.

    Args:
        model: A transformers model, adapters and all, at any point of its training.
        tokenizer: Its tokenizer.
        **options: As for `FrozenBackbone`: name, stack, layers, …
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = [module for module in model.modules() if module.training]
    try:
        yield FrozenBackbone(model, tokenizer, **options)
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True
