"""A tiny random Llama with a byte tokenizer: a backbone built in milliseconds, for trying configs and for tests."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast

from probes.backbones.frozen import FrozenBackbone
from probes.backbones.structure import LayerSpec


def tiny_backbone(
    *,
    hidden_size: int = 32,
    num_layers: int = 3,
    seed: int = 0,
    stack: str | Sequence[str] | None = None,
    layers: LayerSpec = "all",
    dtype: str = "float32",
) -> FrozenBackbone:
    """A Llama with random weights; equal arguments give equal weights.

    Args:
        hidden_size: Number of features of a layer, a multiple of 4.
        num_layers: Number of blocks.
        seed: Seed of the weights.
        stack: As in `FrozenBackbone`.
        layers: As in `FrozenBackbone`.
        dtype: Name of a torch dtype.
    """
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        pad_token_id=256,
    )
    weight_dtype = getattr(torch, dtype)
    return FrozenBackbone(
        _random_llama(config, seed).to(weight_dtype),
        byte_tokenizer(),
        name=f"tiny-{seed}",
        stack=stack,
        layers=layers,
        with_head=lambda: _random_llama_with_head(config, seed).to(weight_dtype),
        reload=partial(
            tiny_backbone,
            hidden_size=hidden_size,
            num_layers=num_layers,
            seed=seed,
            stack=stack,
            layers=layers,
            dtype=dtype,
        ),
    )


def byte_tokenizer() -> Any:
    """A transformers tokenizer with one token for each byte, ids 0–255, and a pad token, id 256."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(["<pad>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", model_max_length=2048)


def _random_llama(config: LlamaConfig, seed: int) -> LlamaModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaModel(config)


def _random_llama_with_head(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(copy.deepcopy(config))  # saving a model changes its configuration in place
    # The head is drawn above; the other weights are those of the frozen backbone.
    model.model.load_state_dict(_random_llama(config, seed).state_dict())
    return model.eval()
