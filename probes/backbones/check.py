"""Do the hooks see what the model itself calls its hidden states? Asked of every backbone before it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from probes.backbones.capture import capture
from probes.backbones.stacks import Stack
from probes.values import Layer


@torch.no_grad()
def check_hooks(stack: Stack, run: Callable[..., Any], *, pad_id: int, name: str) -> None:
    """Hold the hooks against the model's own `hidden_states` on three tokens, both from one pass.

    Args:
        stack: Whose blocks and final norm were found by their names.
        run: Runs the model on `(input_ids, attention_mask, **kwargs)`.
        pad_id: A token id to leave out.
        name: The backbone's name, for the error.

    Raises:
        ValueError: They differ: the blocks or the final norm stand in an unknown place.
    """
    device = next(stack.module.parameters()).device
    ids = torch.tensor([[i for i in range(4) if i != pad_id][:3]], device=device)
    seen: dict[Layer, Tensor] = {}
    layers: tuple[Layer, ...] = (*range(len(stack.blocks) + 1), "final")
    wanted = [("residual", layer) for layer in layers]
    with capture(stack, wanted, lambda _, layer, hidden: seen.update({layer: hidden}), stop=False):
        output = run(ids, torch.ones_like(ids), output_hidden_states=True)
    own = getattr(output, f"{stack.name}_hidden_states", None) or output.hidden_states
    by_layer = dict(zip((*layers[: len(own) - 1], "final"), own, strict=True))  # the last is after the final norm
    wrong = [layer for layer, hidden in by_layer.items() if layer not in seen or not torch.equal(hidden, seen[layer])]
    if wrong:
        raise ValueError(
            f"The hooks on the {stack.name} of '{name}' ({type(stack.module).__name__}) disagree with its own hidden "
            f"states at layers {wrong}; its blocks or its final norm stand in an unknown place."
        )
