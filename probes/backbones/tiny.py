"""A tiny random Llama with a byte tokenizer: a backbone in milliseconds, for trying configs and for tests."""

from __future__ import annotations

import copy
from collections.abc import Sequence
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
    """A Llama with random weights that knows no language; every value is decided by the arguments.

    Args:
        hidden_size: Features of a layer, a multiple of 4.
        num_layers: Number of blocks.
        seed: Decides the weights.
        stack: As in `FrozenBackbone`.
        layers: As in `FrozenBackbone`.
        dtype: A torch dtype's name.
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
    weights_dtype = getattr(torch, dtype)
    return FrozenBackbone(
        _random_llama(config, seed).to(weights_dtype),
        byte_tokenizer(),
        name=f"tiny-{seed}",
        stack=stack,
        layers=layers,
        with_head=lambda: _random_llama_with_head(config, seed).to(weights_dtype),
    )


def _random_llama(config: LlamaConfig, seed: int) -> LlamaModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaModel(config)


def _random_llama_with_head(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(copy.deepcopy(config))  # saving a model writes into its configuration
    model.model.load_state_dict(_random_llama(config, seed).state_dict())
    return model.eval()


def byte_tokenizer() -> Any:
    """One token a byte, ids 0–255, and a pad token, id 256."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(["<pad>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", model_max_length=2048)
