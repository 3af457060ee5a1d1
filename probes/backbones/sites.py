"""Which module's output is the vector that attention or the MLP adds to the residual stream, by model family."""

from __future__ import annotations

from torch import nn

_PRE_NORM = ("self_attn", "mlp")
_POST_SUBLAYER_NORM = ("post_attention_layernorm", "post_feedforward_layernorm")
_BERT = ("attention.output.dense", "output.dense")
_T5 = ("layer.0.SelfAttention", "layer.-1.DenseReluDense")

SUBLAYERS: dict[str, tuple[str, str]] = {
    "llama": _PRE_NORM,
    "mistral": _PRE_NORM,
    "qwen2": _PRE_NORM,
    "qwen3": _PRE_NORM,
    "gemma": _PRE_NORM,
    "phi3": _PRE_NORM,
    "smollm3": _PRE_NORM,
    "olmo": _PRE_NORM,
    "gemma2": _POST_SUBLAYER_NORM,
    "gemma3_text": _POST_SUBLAYER_NORM,
    "olmo2": _POST_SUBLAYER_NORM,
    "gpt2": ("attn", "mlp"),
    "gpt_neox": ("attention", "mlp"),
    "opt": ("self_attn", "fc2"),
    "bart": ("self_attn", "fc2"),
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "t5": _T5,
}
"""`model_type` → paths inside a block of (attention, mlp). Tests hold each family to its residual equation."""


def sublayer(block: nn.Module, *, site: str, model_type: str) -> nn.Module:
    """The module whose output a block adds to its stream at a site.

    Raises:
        ValueError: No module of this family yields it.
    """
    if model_type not in SUBLAYERS:
        raise ValueError(
            f"No module of a '{model_type}' backbone is known to yield site '{site}'. It has site 'residual'; sites "
            f"'attention' and 'mlp' are known for {', '.join(sorted(SUBLAYERS))}. Set `extraction.site=residual`."
        )
    path = SUBLAYERS[model_type][0 if site == "attention" else 1]
    module = block
    for name in path.split("."):
        module = module[int(name)] if isinstance(module, nn.ModuleList) else getattr(module, name)
    return module
