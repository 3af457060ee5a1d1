"""What a transformer computes and holds for each token, from its sizes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from probes.planning.texts import Texts

BYTES_OF = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes of a decoder or encoder that decide its costs.

    Attributes:
        name: For messages.
        blocks: Number of blocks.
        hidden: Features of a hidden state.
        intermediate: Features inside the MLP of a block.
        heads: Heads of attention.
        key_value_heads: Heads of keys and values.
        vocabulary: Number of tokens.
        gated: Whether the MLP has a gate, and so three matrices in place of two.
        item_bytes: Bytes of a weight.

    >>> llama = ModelShape(name="llama", blocks=32, hidden=4096, intermediate=11008, heads=32, key_value_heads=32,
    ...                    vocabulary=32000, gated=True, item_bytes=2)
    >>> round((llama.block_weights + 2 * llama.embedding_weights) / 1e9, 2)
    6.74
    """

    name: str
    blocks: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    vocabulary: int
    gated: bool = True
    item_bytes: int = 2

    @property
    def block_weights(self) -> int:
        """Weights of all blocks that are in matrices."""
        of_keys = self.hidden * self.key_value_heads // self.heads
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * of_keys
        return self.blocks * (attention + (3 if self.gated else 2) * self.hidden * self.intermediate)

    @property
    def embedding_weights(self) -> int:
        """Weights of the table of embeddings; those of the language-model head are as many."""
        return self.vocabulary * self.hidden

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights on disk and in memory, head included."""
        return self.item_bytes * (self.block_weights + 2 * self.embedding_weights)

    @property
    def layers(self) -> int:
        """Number of layers that are read: the input of the first block, and the output of each."""
        return self.blocks + 1

    def forward_flop(self, texts: Texts, *, scored: int = 0) -> float:
        """Operations of one pass over some texts: two for each weight and token, and those of attention.

        Args:
            texts: The texts.
            scored: Tokens at which the head is computed.
        """
        matrices = 2.0 * self.block_weights * texts.tokens + 2.0 * self.embedding_weights * scored
        attention = 2.0 * self.blocks * self.hidden * texts.squared  # half of 4 · length², since attention is causal
        return matrices + attention

    def tuning_flop(self, texts: Texts, *, scored: int, all_weights: bool = False) -> float:
        """Operations of one pass and its gradients: twice a pass, three times where all weights are trained."""
        return (3 if all_weights else 2) * self.forward_flop(texts, scored=scored)

    def stored_bytes(self, vectors: int) -> int:
        """Bytes of so many vectors of each layer in the store."""
        return vectors * self.layers * self.hidden * self.item_bytes

    def pass_bytes(self, tokens: int, *, longest: int) -> int:
        """Memory of a pass of so many tokens beside the weights, as `extraction.tokens_per_batch=auto` reckons it."""
        of_token = self.item_bytes * (8 * self.hidden + 3 * self.intermediate + self.heads * longest)
        return tokens * of_token

    def tuning_bytes(self, tokens: int, *, all_weights: bool = False) -> int:
        """Memory of a training step of so many tokens: weights, what each block keeps for its gradients, optimizer.

        A block keeps about 12 vectors of the hidden size and 4 of the intermediate size for each token. Where all
        weights are trained, they, their gradients and AdamW's two moments are float32.
        """
        kept = self.item_bytes * tokens * self.blocks * (12 * self.hidden + 4 * self.intermediate)
        optimizer = 16 * (self.block_weights + 2 * self.embedding_weights) if all_weights else 0
        return self.weight_bytes + kept + optimizer


KNOWN = {
    shape.name: shape
    for shape in (
        ModelShape(
            name="meta-llama/Llama-2-7b-hf", blocks=32, hidden=4096, intermediate=11008, heads=32, key_value_heads=32,
            vocabulary=32000,
        ),
        ModelShape(
            name="meta-llama/Llama-2-13b-hf", blocks=40, hidden=5120, intermediate=13824, heads=40,
            key_value_heads=40, vocabulary=32000,
        ),
        ModelShape(
            name="meta-llama/Llama-3.1-8B", blocks=32, hidden=4096, intermediate=14336, heads=32, key_value_heads=8,
            vocabulary=128256,
        ),
    )
}  # fmt: skip
"""Models whose sizes are known without asking the Hub, by their name there."""


def shape_of(config: Any, *, name: str, dtype: str = "bfloat16") -> ModelShape:
    """The sizes in a transformers configuration.

    Args:
        config: Of a model, as `AutoConfig` gives it.
        name: For messages.
        dtype: Of the weights.
    """
    text = config.get_text_config()
    hidden, heads = int(text.hidden_size), int(getattr(text, "num_attention_heads", 0) or 1)
    return ModelShape(
        name=name,
        blocks=int(text.num_hidden_layers),
        hidden=hidden,
        intermediate=int(getattr(text, "intermediate_size", 0) or 4 * hidden),
        heads=heads,
        key_value_heads=int(getattr(text, "num_key_value_heads", 0) or heads),
        vocabulary=int(text.vocab_size),
        gated=str(getattr(text, "hidden_act", "")) in {"silu", "swiglu"} or "gated" in str(vars(text).get("mlp", "")),
        item_bytes=BYTES_OF.get(dtype, 2),
    )
