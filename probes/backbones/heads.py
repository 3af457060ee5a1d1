"""Weights of attention heads as they stand between residual streams: norms folded in, fused matrices taken apart.

A head reads x / size(x), where size is the root mean square (RMSNorm) or the deviation (LayerNorm): what stands after
that, the norm's gains and, of a LayerNorm, the removal of the mean, is folded into the weights. Left out are biases,
which do not depend on what is read, and rotary positions, which turn queries and keys by their distance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from probes.backbones.structure import Stack, output_projection


@dataclass(frozen=True)
class _Layout:
    """Where a family keeps the parts of attention, as paths inside a block.

    Attributes:
        attention: The module of attention.
        projections: Inside it: query, key and value, or one module for all three.
        norm: The norm before attention.
        norm_after: The norm of what attention writes, if there is one.
        by_head: Of one module for all three: query, key and value stand together for each head.
    """

    attention: str
    projections: tuple[str, ...]
    norm: str
    norm_after: str = ""
    by_head: bool = False


_LLAMA = _Layout("self_attn", ("q_proj", "k_proj", "v_proj"), "input_layernorm")
_GEMMA2 = _Layout("self_attn", ("q_proj", "k_proj", "v_proj"), "input_layernorm", "post_attention_layernorm")

LAYOUTS: dict[str, _Layout] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "phi3": _Layout("self_attn", ("qkv_proj",), "input_layernorm"),
    "gpt2": _Layout("attn", ("c_attn",), "ln_1"),
    "gpt_neox": _Layout("attention", ("query_key_value",), "input_layernorm", by_head=True),
    "opt": _Layout("self_attn", ("q_proj", "k_proj", "v_proj"), "self_attn_layer_norm"),
}
"""`model_type` → where its heads are. Tests compare the weights with what each family's attention computes."""


@dataclass(frozen=True, eq=False)
class BlockHeads:
    """The heads of one block; all float32, on the device of the model.

    Attributes:
        query: Maps a normalised stream to each head's query, shape `(heads, head features, features)`.
        key: The same for keys; heads that share keys have equal ones.
        value: The same for values.
        output: Maps each head's value to what it adds to the stream, shape `(heads, features, head features)`.
        projection: The module that has the weights of `output`.
        output_gain: The gain of a norm behind it, which is folded into `output`, shape `(features,)`.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    projection: nn.Module
    output_gain: Tensor


@torch.no_grad()
def attention_heads(stack: Stack, name: str = "") -> tuple[BlockHeads, ...]:
    """The heads of every block of a stack.

    Args:
        stack: A decoder.
        name: The backbone's name, for errors.

    Raises:
        ValueError: It is not known where this family keeps them, a norm follows the sublayers instead of preceding
            them, or the weights are quantized.
    """
    config, layout = stack.config, _layout(stack)
    if not getattr(config, "do_layer_norm_before", True):
        raise ValueError(
            f"The blocks of '{name}' normalise the stream behind their sublayers, so that a head does not read what "
            "earlier ones have added to it. Set `backbone` to a model with the norm in front."
        )
    return tuple(_of_block(block, layout, config, name) for block in stack.blocks)


def inputs_by_feature(stack: Stack, layer: int, name: str = "") -> list[tuple[nn.Module, Tensor]]:
    """The projections of a block that put out queries, keys and values, in the order in which they are named.

    Args:
        stack: A decoder.
        layer: k of block k.
        name: The backbone's name, for errors.

    Returns:
        Each with what its output features are, int64: 0 of queries, 1 of keys, 2 of values.

    Raises:
        ValueError: It is not known where this family keeps them, or the weights are quantized.
    """
    config, layout = stack.config, _layout(stack)
    attention = _inside(stack.blocks[layer - 1], layout.attention)
    projections = [_inside(attention, path) for path in layout.projections]
    sizes = [len(_weight(projection, name)) for projection in projections]
    if len(projections) > 1:
        own = zip(projections, sizes, strict=True)
        return [(projection, torch.full((size,), number)) for number, (projection, size) in enumerate(own)]
    heads = config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    parts = _taken_apart(torch.arange(sizes[0])[:, None], heads, shared, by_head=layout.by_head)
    of_feature = torch.empty(sizes[0], dtype=torch.int64)
    for number, part in enumerate(parts):
        of_feature[part.flatten()] = number
    return [(projections[0], of_feature)]


@contextmanager
def without_directions(blocks: Sequence[BlockHeads], removed: Mapping[tuple[int, int], Tensor]) -> Iterator[None]:
    """Within the context, heads write nothing along some directions; then the weights are as before, to the bit.

    What head h adds to the stream, W z, becomes (I − D Dᵀ) W z. Where D holds left singular vectors of the head's
    value–output matrix, that sets their singular values to 0.

    Args:
        blocks: Of `attention_heads`.
        removed: Index of a block in `blocks` and number of a head → D, orthonormal columns, `(features, rank)`.
    """
    before: dict[int, Tensor] = {}
    try:
        for (block, head), directions in removed.items():
            heads = blocks[block]
            weight: Any = heads.projection.weight
            before.setdefault(block, weight.detach().clone())
            width = heads.output.shape[-1]
            place = slice(head * width, (head + 1) * width)
            output = _as_linear(heads.projection)[:, place].float()  # the head's columns, (features, head features)
            own = directions.to(output)
            gain = heads.output_gain[:, None]
            with torch.no_grad():
                changed = (output - own @ (own.T @ (gain * output)) / gain).to(weight.dtype)
                if isinstance(heads.projection, Conv1D):
                    weight[place] = changed.T
                else:
                    weight[:, place] = changed
        yield
    finally:
        with torch.no_grad():
            for block, weight in before.items():
                blocks[block].projection.weight.copy_(weight)  # pyright: ignore[reportCallIssue]


def _layout(stack: Stack) -> _Layout:
    layout = LAYOUTS.get(stack.config.model_type)
    if layout is None:
        raise ValueError(
            f"Where a '{stack.config.model_type}' backbone keeps the weights of its heads is not known; it is known "
            f"for {', '.join(sorted(LAYOUTS))}. Set `backbone` to one of these."
        )
    return layout


def _of_block(block: nn.Module, layout: _Layout, config: Any, name: str) -> BlockHeads:
    attention = _inside(block, layout.attention)
    heads, shared = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
    shared = heads if shared is None else shared
    weights = [_weight(_inside(attention, path), name) for path in layout.projections]
    if len(weights) == 1:
        weights = _taken_apart(weights[0], heads, shared, by_head=layout.by_head)
    norm = _inside(block, layout.norm)
    query, key, value = (_folded(weight, norm).unflatten(0, (-1, _width(weights[0], heads))) for weight in weights)
    query, key = (
        part if (own := getattr(attention, side, None)) is None else part * _gain(own, part.shape[1], part)[:, None]
        for part, side in ((query, "q_norm"), (key, "k_norm"))
    )
    projection = output_projection(block, model_type=config.model_type)
    output = _weight(projection, name)
    gain = torch.ones(len(output), device=output.device)
    if layout.norm_after:
        gain = _gain(_inside(block, layout.norm_after), len(output), output)
    key, value = (part.repeat_interleave(heads // shared, dim=0) for part in (key, value))
    by_head = (gain[:, None] * output).unflatten(1, (heads, -1)).transpose(0, 1)
    return BlockHeads(query, key, value, by_head.contiguous(), projection, gain)


def _taken_apart(weight: Tensor, heads: int, shared: int, *, by_head: bool) -> list[Tensor]:
    """Query, key and value of one matrix for all three, each `(heads · head features, features)`."""
    if by_head:
        parts = weight.unflatten(0, (heads, 3, -1)).unbind(1)
        return [part.flatten(0, 1) for part in parts]
    width = len(weight) // (heads + 2 * shared)
    return list(weight.split([heads * width, shared * width, shared * width]))


def _width(query: Tensor, heads: int) -> int:
    return len(query) // heads


def _folded(weight: Tensor, norm: nn.Module) -> Tensor:
    """W diag(gain) of a norm in front of W and, where that removes the mean, W diag(gain) (I − 1 1ᵀ / features)."""
    features = weight.shape[1]
    folded = weight * _gain(norm, features, weight)
    signs = _signs(features, weight)
    plain, shifted = (norm(own.to(_dtype(norm))).float() for own in (signs, signs + 3))
    removes_mean = torch.allclose(plain, shifted, rtol=1e-2, atol=1e-2 * plain.abs().max().item())
    return folded - folded.mean(1, keepdim=True) if removes_mean else folded


def _gain(norm: nn.Module, features: int, like: Tensor) -> Tensor:
    """What a norm multiplies each feature by, whatever its formula: read off an input of mean 0 and size 1."""
    signs = _signs(features, like)
    both = (norm(own.to(_dtype(norm))).float() for own in (signs, -signs))
    return (next(both) - next(both)) / 2 * signs


def _signs(features: int, like: Tensor) -> Tensor:
    return 1.0 - 2.0 * (torch.arange(features, device=like.device) % 2)


def _dtype(norm: nn.Module) -> torch.dtype:
    return next((parameter.dtype for parameter in norm.parameters()), torch.float32)


def _weight(module: nn.Module, name: str) -> Tensor:
    if not _as_linear(module).is_floating_point():
        raise ValueError(f"The weights of '{name}' are quantized. Set `backbone.quantization=null`.")
    return _as_linear(module).detach().float()


def _as_linear(module: nn.Module) -> Tensor:
    """A weight as `(outputs, inputs)`."""
    weight: Any = module.weight
    return weight.T if isinstance(module, Conv1D) else weight


def _inside(module: nn.Module, path: str) -> nn.Module:
    return reduce(getattr, path.split("."), module)  # pyright: ignore[reportReturnType]
