"""Tiny random models of real architectures, which tests run in place of downloaded ones."""

from __future__ import annotations

import torch
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma2Model,
    GPT2Config,
    GPT2Model,
    GPTNeoXConfig,
    GPTNeoXModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    OPTConfig,
    OPTModel,
    PreTrainedModel,
    Qwen3Config,
    Qwen3Model,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
)

_LLAMA = {
    "vocab_size": 257,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 256,
}
_BERT = {
    "vocab_size": 257,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 130,
    "pad_token_id": 256,
}
_BART = {
    "vocab_size": 257,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 128,
    "pad_token_id": 256,
    "decoder_start_token_id": 2,
}
FAMILIES = {  # each entry builds a model with 3 blocks (T5 and BART: 3 and 2) and 32 features
    "llama": lambda: LlamaModel(LlamaConfig(**_LLAMA)),
    "llama_with_head": lambda: LlamaForCausalLM(LlamaConfig(**_LLAMA)),
    "qwen3": lambda: Qwen3Model(Qwen3Config(**_LLAMA, head_dim=8)),
    "gemma2": lambda: Gemma2Model(Gemma2Config(**_LLAMA, head_dim=8)),
    "gpt2": lambda: GPT2Model(GPT2Config(vocab_size=257, n_embd=32, n_layer=3, n_head=4, n_positions=128)),
    "gpt_neox": lambda: GPTNeoXModel(
        GPTNeoXConfig(**{k: v for k, v in _LLAMA.items() if k not in {"pad_token_id", "num_key_value_heads"}})
    ),
    "opt": lambda: OPTModel(
        OPTConfig(
            vocab_size=257,
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=128,
            pad_token_id=1,
        )
    ),
    "bert": lambda: BertModel(BertConfig(**_BERT)),
    "roberta": lambda: RobertaModel(RobertaConfig(**(_BERT | {"pad_token_id": 1}))),
    "t5": lambda: T5Model(
        T5Config(
            vocab_size=257,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=3,
            num_decoder_layers=2,
            num_heads=4,
            decoder_start_token_id=2,
            pad_token_id=256,
        )
    ),
    "bart": lambda: BartModel(BartConfig(**_BART)),
}
WITHOUT_FINAL_NORM = {"bert", "roberta", "bart"}
"""Post-norm families, in which layer `final` equals layer L."""


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """A random model in eval mode, with weights so large that its layers differ visibly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FAMILIES[family]()
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
            elif "bias" in name or "norm" in name.lower() or "ln_" in name:
                parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()
