"""What a backbone is made of: stacks and blocks, the sites inside a block, and the layers and readings users name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from probes.values import POOLINGS, SITES, Layer, Reading

_FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "final_norm", "norm_f", "layer_norm")


@dataclass(frozen=True)
class Stack:
    """One tower of blocks.

    Attributes:
        name: `encoder` or `decoder`.
        module: What is called to run it; its output's `last_hidden_state` is layer `final`.
        blocks: Block k − 1 puts out layer k.
        final_norm: What follows the last block; `None` where `final` equals layer L.
    """

    name: str
    module: nn.Module
    blocks: nn.ModuleList
    final_norm: nn.Module | None

    @property
    def config(self) -> Any:
        """The configuration of this stack."""
        return self.module.config


def find_stacks(model: PreTrainedModel) -> dict[str, Stack]:
    """The stacks of a model without a head, by name.

    Raises:
        ValueError: No list of blocks is found.
    """
    if model.config.is_encoder_decoder:
        towers = {"encoder": model.get_encoder(), "decoder": model.get_decoder()}
        return {name: _stack(name, tower) for name, tower in towers.items()}
    tower = getattr(model, "language_model", model)
    masked = tower.config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    name = "encoder" if (masked and not tower.config.is_decoder) or tower.config.model_type == "t5" else "decoder"
    return {name: _stack(name, tower)}


def choose_stacks(found: Mapping[str, Stack], stack: str | Sequence[str] | None, *, name: str) -> tuple[str, ...]:
    """The stacks a user means.

    Args:
        found: What `find_stacks` gave.
        stack: One, or several in a list; `None` is the only one there is, or the encoder.
        name: The backbone's name, for the error.

    Raises:
        ValueError: There is no such stack, or none is named.
    """
    if stack is None:
        return ("encoder",) if "encoder" in found else ("decoder",)
    chosen = (stack,) if isinstance(stack, str) else tuple(stack)
    missing = [own for own in chosen if own not in found]
    if missing or not chosen:
        raise ValueError(
            f"Backbone '{name}' has no stack {missing}. It has {list(found)}. "
            "Set `backbone.stack` to one or several of these."
        )
    return chosen


def _stack(name: str, tower: nn.Module) -> Stack:
    path, blocks = _blocks(tower)
    owner = tower.get_submodule(path.rpartition(".")[0])
    norms = (getattr(place, norm, None) for place in (owner, tower) for norm in _FINAL_NORMS)
    return Stack(name, tower, blocks, next((norm for norm in norms if isinstance(norm, nn.Module)), None))


def _blocks(tower: nn.Module) -> tuple[str, nn.ModuleList]:
    """The longest list of modules that lies in no other list."""
    lists = [(path, module) for path, module in tower.named_modules() if isinstance(module, nn.ModuleList)]
    outer = [(p, m) for p, m in lists if not any(p.startswith(f"{q}.") for q, _ in lists)]
    if not outer:
        raise ValueError(
            f"No list of blocks is found in a {type(tower).__name__}. A backbone expects a transformer whose blocks "
            "stand in one nn.ModuleList."
        )
    return max(outer, key=lambda item: len(item[1]))


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


LayerSpec = str | int | Sequence[Layer]


def resolve_layers(spec: LayerSpec, *, num_layers: int, site: str = "residual", name: str = "") -> tuple[Layer, ...]:
    """Name the layers a specification means, in ascending order with `"final"` last.

    Args:
        spec: `"all"`, `"final"`, a number, or a list of numbers and `"final"`.
        num_layers: Number of blocks L.
        site: `residual` has layers 0…L and `final`; `attention` and `mlp` have 1…L.
        name: The backbone's name, for errors.

    Raises:
        ValueError: A layer does not exist, or none is named.

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


def _check_layer(layer: object, *, first: int, num_layers: int, site: str, name: str) -> None:
    if layer == "final" and site == "residual":
        return
    if isinstance(layer, int) and not isinstance(layer, bool) and first <= layer <= num_layers:
        return
    at = "" if site == "residual" else f" at site '{site}'"
    zero = " (embeddings)" if first == 0 else ""
    final = ", and 'final'" if site == "residual" else ""
    raise ValueError(
        f"Backbone '{name}' has no layer {layer!r}{at}. It has layers {first}{zero} to {num_layers}{final}. "
        "Set `backbone.layers` to numbers among these."
    )


def combine_readings(
    stacks: Iterable[Stack], poolings: str | Sequence[str] | None, sites: str | Sequence[str]
) -> tuple[Reading, ...]:
    """Name the readings of some stacks, each stack's together; arguments as in `FrozenBackbone.readings`.

    Raises:
        ValueError: An unknown pooling or site, or a site no module of a stack yields.
    """
    sites = _one_of(sites, SITES, "extraction.site")
    readings = []
    for stack in stacks:
        own = _one_of(_default_pooling(stack) if poolings is None else poolings, POOLINGS, "extraction.pooling")
        for site in sites:
            if site != "residual":
                sublayer(stack.blocks[0], site=site, model_type=stack.config.model_type)
            readings += [Reading(stack.name, site, pooling) for pooling in own]
    return tuple(readings)


def _default_pooling(stack: Stack) -> str:
    return "last" if stack.name == "decoder" else "mean"


def _one_of(given: str | Sequence[str], known: Sequence[str], key: str) -> tuple[str, ...]:
    chosen = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise ValueError(f"Unknown {key.split('.')[-1]} {unknown}. There are {list(known)}. Set `{key}` among these.")
    return chosen
