"""Where the blocks of any transformers model are: its stacks, their blocks in order, their final norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

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
            f"No list of blocks is found in a {type(tower).__name__}. A backbone wants a transformer whose blocks "
            "stand in one nn.ModuleList."
        )
    return max(outer, key=lambda item: len(item[1]))
