"""How much each word of a text attends to each other word, in every head of every block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from probes.backbones.frozen import FrozenBackbone


def token_attention(backbone: FrozenBackbone, input_ids: Tensor) -> Tensor:
    """Attention weights that the blocks of the (first) stack report for one text, without hooks.

    Args:
        backbone: A decoder or an encoder.
        input_ids: int64, shape `(1, tokens)`.

    Returns:
        float32, shape `(blocks, heads, tokens, tokens)`; the first token axis is the one that attends.

    Raises:
        ValueError: The model reports none.
    """
    with _plain_attention(backbone.model):
        output = backbone.output_of(input_ids, output_attentions=True)
    maps = getattr(output, "attentions", None) or getattr(output, f"{backbone.stacks[0]}_attentions", None)
    if not maps or any(weights is None for weights in maps):
        raise ValueError(f"Backbone '{backbone.name}' does not report its attention. Set `study.attention=false`.")
    return torch.stack([weights[0].float().cpu() for weights in maps])


def word_attention(backbone: FrozenBackbone, ids: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Attention between the words of one text: what a word's tokens attend to the tokens of another.

    Shares are summed over the tokens that are attended to and averaged over those that attend, as by Clark et al. 2019
    ("What does BERT look at?"). What goes to tokens of no word, such as a start token, is left out, so that the shares
    of a word sum to at most 1.

    Args:
        backbone: A decoder or an encoder.
        ids: Token ids of the text.
        spans: First token of each word and the one after its last, shape `(words, 2)`; at least one token each.

    Returns:
        float32, shape `(blocks, heads, words, words)`; the row is the word that attends.

    Raises:
        ValueError: The model does not report its attention.
    """
    maps = token_attention(backbone, torch.as_tensor(np.asarray(ids), dtype=torch.long)[None])
    belongs = torch.zeros(len(spans), maps.shape[-1])
    for word, (first, end) in enumerate(np.asarray(spans).tolist()):
        belongs[word, first:end] = 1
    return (belongs / belongs.sum(1, keepdim=True) @ maps @ belongs.T).numpy()


@contextmanager
def _plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the context the model computes attention in the way that can report its weights."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if before is not None:
            model.set_attn_implementation(before)
