"""Asked of every backbone before it is used: do the hooks see its hidden states, and can it do without a mask?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from probes.backbones.hooks import capture
from probes.backbones.structure import Stack
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
    ids = _token_ids(stack, pad_id)[:, :3]
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


@torch.no_grad()
def is_causal(stack: Stack, run: Callable[..., Any], *, pad_id: int) -> bool:
    """Whether no token sees those behind it, so that pads on the right need no mask.

    Four tokens are read without a mask, with a mask of ones, and with another one at the end. The first three must come
    out of every layer the same bit for bit; a stack of which that cannot be said is not called causal.

    Args:
        stack: What is asked.
        run: Runs the model on `(input_ids, attention_mask, *, masked, **kwargs)`.
        pad_id: A token id to leave out.
    """
    ids = _token_ids(stack, pad_id)
    other, ones = torch.cat([ids[:, :3], ids[:, :1]], dim=1), torch.ones_like(ids)
    asked = ((ids, False), (ids, True), (other, False))
    reads = [run(own, ones, masked=masked, output_hidden_states=True).hidden_states for own, masked in asked]
    return all(
        torch.equal(hidden[:, :3], same[:, :3])
        for read in reads[1:]
        for hidden, same in zip(reads[0], read, strict=True)
    )


def _token_ids(stack: Stack, pad_id: int) -> Tensor:
    """Four different tokens, none of them a pad, shape `(1, 4)`."""
    device = next(stack.module.parameters()).device
    return torch.tensor([[i for i in range(5) if i != pad_id][:4]], device=device)
