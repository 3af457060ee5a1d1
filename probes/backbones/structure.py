"""The structure of a backbone: its stacks of blocks, the sites inside a block, and the names of layers and readings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from probes.token_values import TOKEN_POOLINGS
from probes.values import POOLINGS, SITES, Layer, Reading

LayerSpec = str | int | Sequence[Layer]
"""Which layers: `"all"`, `"final"`, a number, or a list of numbers and `"final"`."""

_FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "final_norm", "norm_f", "layer_norm")
"""Names that model families give to the norm after the last block."""

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
"""`model_type` → paths inside a block of the modules whose outputs are (attention, mlp).

Tests check these outputs against the residual equation of each family's block.
"""

_HEADS_IN = dict.fromkeys(
    ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "smollm3", "olmo", "gemma2", "gemma3_text", "olmo2"),
    "self_attn.o_proj",
)
OUTPUT_PROJECTIONS: dict[str, str] = _HEADS_IN | {
    "gpt2": "attn.c_proj",
    "gpt_neox": "attention.dense",
    "opt": "self_attn.out_proj",
    "bart": "self_attn.out_proj",
    "bert": "attention.output.dense",
    "roberta": "attention.output.dense",
    "xlm-roberta": "attention.output.dense",
    "electra": "attention.output.dense",
    "t5": "layer.0.SelfAttention.o",
}
"""`model_type` → path inside a block of the projection whose input is the outputs of all heads, end to end."""

EDITED_SITES = (*SITES, "heads")
"""Sites of edits: those that are read for probes, and the outputs of the attention heads, end to end."""


@dataclass(frozen=True)
class Stack:
    """A sequence of transformer blocks: an encoder or a decoder.

    Attributes:
        name: `encoder` or `decoder`.
        module: The module that runs the stack; `last_hidden_state` of its output is layer `final`.
        blocks: The output of block k − 1 (counted from 0) is layer k.
        final_norm: The norm after the last block; `None` where `final` equals layer L.
    """

    name: str
    module: nn.Module
    blocks: nn.ModuleList
    final_norm: nn.Module | None

    @property
    def config(self) -> Any:
        """The transformers configuration of this stack."""
        return self.module.config


def find_stacks(model: PreTrainedModel) -> dict[str, Stack]:
    """The stacks of a model without a head, by name.

    Raises:
        ValueError: No list of blocks is found.
    """
    if model.config.is_encoder_decoder:
        modules = {"encoder": model.get_encoder(), "decoder": model.get_decoder()}
        return {name: _stack(name, module) for name, module in modules.items()}
    module = getattr(model, "language_model", model)
    masked_lm = module.config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    is_encoder = (masked_lm and not module.config.is_decoder) or module.config.model_type == "t5"
    name = "encoder" if is_encoder else "decoder"
    return {name: _stack(name, module)}


def choose_stacks(found: Mapping[str, Stack], stack: str | Sequence[str] | None, *, name: str) -> tuple[str, ...]:
    """The names of the stacks that a user selects.

    Args:
        found: The result of `find_stacks`.
        stack: One name, or several in a list; `None` selects the encoder if there is one, else the decoder.
        name: The backbone's name, for the error.

    Raises:
        ValueError: There is no such stack, or none is selected.
    """
    if stack is None:
        return ("encoder",) if "encoder" in found else ("decoder",)
    chosen = (stack,) if isinstance(stack, str) else tuple(stack)
    missing = [candidate for candidate in chosen if candidate not in found]
    if missing or not chosen:
        raise ValueError(
            f"Backbone '{name}' has no stack {missing}. It has {list(found)}. "
            "Set `backbone.stack` to one or several of these."
        )
    return chosen


def sublayer(block: nn.Module, *, site: str, model_type: str) -> nn.Module:
    """The module whose output a block adds to the residual stream at site `attention` or `mlp`.

    Raises:
        ValueError: `SUBLAYERS` has no entry for this family of models.
    """
    if model_type not in SUBLAYERS:
        raise ValueError(
            f"No module of a '{model_type}' backbone is known to compute site '{site}'. It has site 'residual'; sites "
            f"'attention' and 'mlp' are known for {', '.join(sorted(SUBLAYERS))}. Set `extraction.site=residual`."
        )
    return _at_path(block, SUBLAYERS[model_type][0 if site == "attention" else 1])


def output_projection(block: nn.Module, *, model_type: str) -> nn.Module:
    """The module whose input is the outputs of a block's attention heads, end to end: site `heads`.

    Raises:
        ValueError: `OUTPUT_PROJECTIONS` has no entry for this family of models.
    """
    if model_type not in OUTPUT_PROJECTIONS:
        raise ValueError(
            f"The attention heads of a '{model_type}' backbone are not known one by one. They are known for "
            f"{', '.join(sorted(OUTPUT_PROJECTIONS))}. Set `backbone` to one of these, or leave out the site 'heads'."
        )
    return _at_path(block, OUTPUT_PROJECTIONS[model_type])


def _at_path(block: nn.Module, path: str) -> nn.Module:
    module = block
    for name in path.split("."):
        # `get_submodule` knows no negative index, which T5 needs: the MLP is the last layer of a block
        module = module[int(name)] if isinstance(module, nn.ModuleList) else getattr(module, name)
    return module


def resolve_layers(spec: LayerSpec, *, num_layers: int, site: str = "residual", name: str = "") -> tuple[Layer, ...]:
    """The layers that a specification selects, in ascending order with `"final"` last.

    Args:
        spec: `"all"`, `"final"`, a number, or a list of numbers and `"final"`.
        num_layers: Number of blocks L.
        site: `residual` has layers 0…L and `final`; `attention`, `mlp` and `heads` have layers 1…L.
        name: The backbone's name, for errors.

    Raises:
        ValueError: A layer does not exist, or none is selected.

    >>> resolve_layers("all", num_layers=3)
    (0, 1, 2, 3)
    >>> resolve_layers(["final", 2], num_layers=3)
    (2, 'final')
    >>> resolve_layers("all", num_layers=3, site="mlp")
    (1, 2, 3)
    """
    first = 0 if site == "residual" else 1
    if spec == "all":
        return tuple(range(first, num_layers + 1))
    wanted: Sequence[Layer] = [spec] if isinstance(spec, (str, int)) else list(spec)  # pyright: ignore[reportAssignmentType]
    if not wanted:
        raise ValueError("No layer is named. Set `backbone.layers` to `all`, `final` or a list such as [0, 8].")
    for layer in wanted:
        _check_layer(layer, first=first, num_layers=num_layers, site=site, name=name)
    return tuple(sorted(set(wanted), key=lambda layer: num_layers + 1 if layer == "final" else int(layer)))


def combine_readings(
    stacks: Iterable[Stack], poolings: str | Sequence[str] | None, sites: str | Sequence[str]
) -> tuple[Reading, ...]:
    """Every combination of stacks, sites and poolings, ordered by stack, then site, then pooling.

    Args:
        stacks: The stacks to read.
        poolings: As in `FrozenBackbone.readings`.
        sites: As in `FrozenBackbone.readings`.

    Raises:
        ValueError: A pooling or site is unknown, or `SUBLAYERS` has no entry for a stack's family.
    """
    chosen_sites = _chosen(sites, SITES, key="extraction.site")
    readings = []
    for stack in stacks:
        default = "last" if stack.name == "decoder" else "mean"
        chosen_poolings = _chosen(
            default if poolings is None else poolings, (*POOLINGS, *TOKEN_POOLINGS), key="extraction.pooling"
        )
        for site in chosen_sites:
            if site != "residual":
                sublayer(stack.blocks[0], site=site, model_type=stack.config.model_type)  # raises if there is none
            readings += [Reading(stack.name, site, pooling) for pooling in chosen_poolings]
    return tuple(readings)


def _stack(name: str, module: nn.Module) -> Stack:
    path, blocks = _blocks(module)
    parent = module.get_submodule(path.rpartition(".")[0])
    candidates = (getattr(place, norm, None) for place in (parent, module) for norm in _FINAL_NORMS)
    final_norm = next((norm for norm in candidates if isinstance(norm, nn.Module)), None)
    return Stack(name, module, blocks, final_norm)


def _blocks(module: nn.Module) -> tuple[str, nn.ModuleList]:
    """Path and list of the blocks: the longest `nn.ModuleList` that is not nested in another."""
    lists = [(path, child) for path, child in module.named_modules() if isinstance(child, nn.ModuleList)]
    outer = [(path, child) for path, child in lists if not any(path.startswith(f"{other}.") for other, _ in lists)]
    if not outer:
        raise ValueError(
            f"No list of blocks is found in a {type(module).__name__}. A backbone must be a transformer whose blocks "
            "are in one nn.ModuleList."
        )
    return max(outer, key=lambda item: len(item[1]))


def _check_layer(layer: object, *, first: int, num_layers: int, site: str, name: str) -> None:
    if layer == "final" and site == "residual":
        return
    if isinstance(layer, int) and not isinstance(layer, bool) and first <= layer <= num_layers:
        return
    at = "" if site == "residual" else f" at site '{site}'"
    embeddings = " (embeddings)" if first == 0 else ""
    final = ", and 'final'" if site == "residual" else ""
    raise ValueError(
        f"Backbone '{name}' has no layer {layer!r}{at}. It has layers {first}{embeddings} to {num_layers}{final}. "
        "Set `backbone.layers` to numbers among these."
    )


def _chosen(given: str | Sequence[str], available: Sequence[str], *, key: str) -> tuple[str, ...]:
    """The given names without repetitions, all of them among the available ones."""
    names = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
    unknown = [name for name in names if name not in available]
    if unknown or not names:
        raise ValueError(
            f"Unknown {key.split('.')[-1]} {unknown}. There are {list(available)}. Set `{key}` to one or several of "
            "these."
        )
    return names
