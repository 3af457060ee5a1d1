"""How much each word of a text attends to each other word, in every head of every block."""

from __future__ import annotations

import numpy as np
import torch

from probes.backbones.frozen import FrozenBackbone


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
    maps = backbone.reported_attention(torch.as_tensor(np.asarray(ids), dtype=torch.long)[None])
    belongs = torch.zeros(len(spans), maps.shape[-1])
    for word, (first, end) in enumerate(np.asarray(spans).tolist()):
        belongs[word, first:end] = 1
    return (belongs / belongs.sum(1, keepdim=True) @ maps @ belongs.T).numpy()
