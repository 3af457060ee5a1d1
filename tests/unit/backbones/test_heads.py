"""Weights of heads are those with which each family's attention computes."""

from __future__ import annotations

import pytest
import torch
from tiny_models import _LLAMA, tiny_model
from transformers import AutoModel, OPTConfig, Phi3Config, Qwen2Config

from probes.backbones import FrozenBackbone
from probes.backbones.heads import attention_heads, without_directions
from probes.backbones.structure import find_stacks, sublayer
from probes.backbones.tiny import byte_tokenizer

MORE = {"qwen2": Qwen2Config(**_LLAMA), "phi3": Phi3Config(**_LLAMA)}
FAMILIES = ("llama", "qwen3", "gemma2", "gpt2", "gpt_neox", "opt", *MORE)


def model_of(family: str):
    if family not in MORE:
        return tiny_model(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModel.from_config(MORE[family]).eval()
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
            elif "norm" in name:
                parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def without_biases(model):
    """Biases set to 0, which weights of heads leave out."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    return model


def size(family: str, x: torch.Tensor) -> torch.Tensor:
    """What the norm before attention divides by."""
    centred = x - x.mean(-1, keepdim=True) if family in {"gpt2", "gpt_neox", "opt"} else x
    return centred.square().mean(-1, keepdim=True).sqrt()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_heads_write_at_one_token_is_what_attention_adds_to_the_stream(family: str):
    model = without_biases(model_of(family))
    (stack,) = find_stacks(model).values()
    x = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(1)) * 3 + 0.5
    written, normal = [], []
    block = stack.blocks[1]
    own = sublayer(block, site="attention", model_type=stack.config.model_type)
    hooks = [own.register_forward_hook(lambda _m, _a, out: written.append(out if torch.is_tensor(out) else out[0]))]
    if family == "gemma2":  # its norm behind attention divides by the size of what attention puts out
        hooks.append(own.register_forward_pre_hook(lambda _m, args: normal.append(size(family, args[0]))))
    hooks.append(block.register_forward_pre_hook(lambda _m, args, kw: ((x, *args[1:]), kw), with_kwargs=True))
    with torch.no_grad():
        model(torch.tensor([[5]]))
    for hook in hooks:
        hook.remove()
    heads = attention_heads(stack)[1]
    assert heads.query.shape == heads.key.shape == heads.value.shape == (4, 8, 32)
    assert heads.output.shape == (4, 32, 8)
    by_head = torch.einsum("hfw,hwi,i->hf", heads.output, heads.value, (x / size(family, x))[0, 0])
    expected = by_head.sum(0) / (normal[0][0, 0] if normal else 1)
    torch.testing.assert_close(written[0].reshape(-1), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_queries_and_keys_of_one_place_give_the_attention_of_the_model(family: str):
    model = without_biases(model_of(family))
    model.set_attn_implementation("eager")
    (stack,) = find_stacks(model).values()
    x = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(2))
    hook = stack.blocks[0].register_forward_pre_hook(
        lambda _m, args, kw: ((x, *args[1:]), kw), with_kwargs=True
    )  # fmt: skip
    place = {} if family in {"gpt2", "opt"} else {"position_ids": torch.zeros(1, 3, dtype=torch.long)}
    with torch.no_grad():
        weights = model(torch.tensor([[5, 6, 7]]), output_attentions=True, **place).attentions[0]
    hook.remove()
    heads = attention_heads(stack)[0]
    seen = x / size(family, x)
    query, key = (torch.einsum("hwi,bti->bhtw", part, seen) for part in (heads.query, heads.key))
    if family == "qwen3":  # its norms of queries and keys divide by their sizes, gains apart
        attention = stack.blocks[0].self_attn
        query, key = (
            part / (part / norm.weight).square().mean(-1, keepdim=True).sqrt()
            for part, norm in ((query, attention.q_norm), (key, attention.k_norm))
        )
    scores = query @ key.transpose(-1, -2) / 8**0.5
    if family == "gemma2":
        scores = scores * 8**0.5 / stack.config.query_pre_attn_scalar**0.5
        scores = stack.config.attn_logit_softcapping * torch.tanh(scores / stack.config.attn_logit_softcapping)
    scores = scores.masked_fill(torch.ones(3, 3).triu(1).bool(), float("-inf"))
    torch.testing.assert_close(weights, scores.softmax(-1), rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox", "opt"])
def test_a_removed_direction_is_not_written_by_its_head_and_weights_come_back_to_the_bit(family: str):
    model = model_of(family)
    (stack,) = find_stacks(model).values()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    blocks = attention_heads(stack)
    directions = torch.linalg.qr(blocks[1].output[2])[0][:, :2]
    with without_directions(blocks, {(1, 2): directions}):
        changed = attention_heads(stack)
    torch.testing.assert_close(directions.T @ changed[1].output[2], torch.zeros(2, 8), rtol=0, atol=1e-5)
    kept = blocks[1].output[2] - directions @ directions.T @ blocks[1].output[2]
    torch.testing.assert_close(changed[1].output[2], kept, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(changed[1].output[[0, 1, 3]], blocks[1].output[[0, 1, 3]], rtol=0, atol=0)
    torch.testing.assert_close(changed[1].value, blocks[1].value, rtol=0, atol=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_come_back_after_an_error():
    model = tiny_model("gpt2")
    (stack,) = find_stacks(model).values()
    blocks = attention_heads(stack)
    before = blocks[0].projection.weight.clone()

    def fail_within() -> None:
        with without_directions(blocks, {(0, 0): torch.eye(32, 1)}):
            assert not torch.equal(blocks[0].projection.weight, before)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail_within()
    assert torch.equal(blocks[0].projection.weight, before)


def test_families_whose_heads_are_not_known_are_refused_by_name():
    backbone = FrozenBackbone(tiny_model("t5"), byte_tokenizer(), name="t5")
    with pytest.raises(ValueError, match=r"'t5' backbone keeps the weights of its heads is not known.*gpt_neox"):
        attention_heads(backbone.main_stack)
    config = OPTConfig(
        vocab_size=257, hidden_size=32, word_embed_proj_dim=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, pad_token_id=1, do_layer_norm_before=False,
    )  # fmt: skip
    (stack,) = find_stacks(AutoModel.from_config(config)).values()
    with pytest.raises(ValueError, match="'behind' normalise the stream behind their sublayers"):
        attention_heads(stack, "behind")
