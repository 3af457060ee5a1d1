"""Checks of a backbone before it is used: its weights are finite, the hooks see its hidden states, is it causal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from probes.backbones.hooks import capture
from probes.backbones.structure import Stack
from probes.values import Layer

Together = Callable[[Sequence[Callable[[], Any]]], Sequence[Any]]
"""Calls functions that each run the model once, and returns their results."""


@torch.no_grad()
def check_weights(model: nn.Module, name: str) -> None:
    """Refuse weights that are NaN or infinite, also those that only rare tokens use.

    Args:
        model: Its parameters are checked, except quantized ones and those that are not in memory.
        name: The backbone's name, for the error.

    Raises:
        ValueError: Some are; the message names the parameters and how many of their entries.
    """
    faults = []
    for key, weight in model.named_parameters():
        if not weight.is_floating_point() or weight.is_meta or weight.numel() == 0:
            continue
        smallest, largest = weight.aminmax()  # NaN if any entry is
        if not (smallest.isfinite() and largest.isfinite()):
            faults.append(f"{key} ({int((~weight.isfinite()).sum()):,} of {weight.numel():,} entries)")
    if faults:
        more = f" and {len(faults) - 5} others" if len(faults) > 5 else ""
        raise ValueError(
            f"Weights of '{name}' are NaN or infinite: {', '.join(faults[:5])}{more}. The file is damaged or the model "
            "diverged in training: load other weights, or set `backbone.dtype` to bfloat16 or float32 if they overflow "
            "in float16."
        )


@torch.no_grad()
def check_hooks(stack: Stack, run: Callable[..., Any], *, pad_id: int, name: str) -> None:
    """Compare what the hooks see with the model's `hidden_states`, on three tokens and in one pass.

    Args:
        stack: The stack whose blocks and final norm were found by their names.
        run: Runs the model on `(input_ids, attention_mask, **kwargs)`.
        pad_id: A token id that the check avoids.
        name: The backbone's name, for the error.

    Raises:
        ValueError: They differ, so the blocks or the final norm were not found where this family has them.
    """
    ids = _four_tokens(stack, pad_id)[:, :3]
    hooked: dict[Layer, Tensor] = {}
    layers: tuple[Layer, ...] = (*range(len(stack.blocks) + 1), "final")
    wanted = [("residual", layer) for layer in layers]
    with capture(stack, wanted, lambda _, layer, hidden: hooked.update({layer: hidden}), stop=False):
        output = run(ids, torch.ones_like(ids), output_hidden_states=True)
    by_layer = reported_hidden_states(stack, output)
    _refuse_nan(stack, by_layer, name)
    wrong = [k for k, hidden in by_layer.items() if k not in hooked or not torch.equal(hidden, hooked[k])]
    if wrong:
        raise ValueError(
            f"The hooks on the {stack.name} of '{name}' ({type(stack.module).__name__}) disagree with the model's own "
            f"hidden states at layers {wrong}: its blocks or its final norm are not where the package looks for them."
        )


def reported_hidden_states(stack: Stack, output: Any) -> dict[Layer, Tensor]:
    """The hidden states that a model reports for a stack, by layer, each of shape `(batch, tokens, features)`.

    transformers reports layers 0…L−1 and then, in place of layer L, the output of the final norm.
    """
    reported = getattr(output, f"{stack.name}_hidden_states", None) or output.hidden_states
    return dict(zip((*range(len(reported) - 1), "final"), reported, strict=True))


@torch.no_grad()
def is_causal(stack: Stack, run: Callable[..., Any], *, pad_id: int, together: Together) -> bool:
    """Whether no position attends to later ones, so that padding on the right needs no attention mask.

    Four tokens are run without a mask, with a mask of ones, and without a mask but with another last token. The stack
    counts as causal only if the hidden states of the first three positions are equal to the bit at every layer.

    Args:
        stack: The stack to check.
        run: Runs the model on `(input_ids, attention_mask, *, masked, **kwargs)`.
        pad_id: A token id that the check avoids.
        together: Calls several functions that each run the model once.
    """
    ids = _four_tokens(stack, pad_id)
    other_last, ones = torch.cat([ids[:, :3], ids[:, :1]], dim=1), torch.ones_like(ids)
    inputs = ((ids, False), (ids, True), (other_last, False))
    calls = [partial(run, i, ones, masked=masked, output_hidden_states=True) for i, masked in inputs]
    first, *others = [output.hidden_states for output in together(calls)]
    return all(
        torch.equal(hidden[:, :3], reference[:, :3])
        for hidden_states in others
        for reference, hidden in zip(first, hidden_states, strict=True)
    )


def _refuse_nan(stack: Stack, by_layer: Mapping[Layer, Tensor], name: str) -> None:
    """Raise if a hidden state is NaN, which would look as if hooks and model disagreed: NaN does not equal NaN."""
    layers = [layer for layer, hidden in by_layer.items() if hidden.isnan().any()]
    if layers:
        raise ValueError(
            f"The {stack.name} of '{name}' computes NaN for three tokens at layers {layers}, and its weights are "
            "finite. Set `backbone.dtype` to bfloat16 or float32 if they overflow in float16, or load other weights."
        )


def _four_tokens(stack: Stack, pad_id: int) -> Tensor:
    """Four different token ids, none of them padding, shape `(1, 4)`."""
    weight = next(stack.module.parameters())
    device = "cpu" if weight.is_meta else weight.device
    return torch.tensor([[i for i in range(5) if i != pad_id][:4]], device=device)
