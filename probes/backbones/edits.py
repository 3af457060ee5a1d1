"""Edits of hidden states inside a forward pass, and passes that start at a later layer.

An `Edit` says where hidden states change and how; `editing` places its hooks. `resuming` skips blocks whose output is
known already, so that an edit at layer k costs the blocks after k only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probes.backbones.structure import EDITED_SITES, Stack, output_projection, resolve_layers, sublayer
from probes.values import Layer

Positions = str | Tensor
"""Which tokens: `all`, `last` or `first` attended token of each row, or a mask, bool of shape `(batch, tokens)`."""


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of hidden states at one place of a model.

    Attributes:
        layer: 0 is the input of the first block, k the output of block k, `"final"` what follows the final norm.
        change: Maps hidden states `(batch, tokens, features)` to new ones of the same shape and dtype; only those at
            the chosen positions are used.
        site: `residual`; `attention` or `mlp`: what that sublayer of block k adds to the residual stream; or `heads`:
            the outputs of block k's attention heads end to end, before they are projected into that stream.
        positions: Which tokens change. All but `all` are tokens of the text that a pass begins with: tokens that
            `generate` adds later are left as they are.
        stack: `encoder` or `decoder`; `""` for the first chosen stack.
    """

    layer: Layer
    change: Callable[[Tensor], Tensor]
    site: str = "residual"
    positions: Positions = "all"
    stack: str = ""


def position_mask(positions: Positions, attention_mask: Tensor | None) -> Tensor | None:
    """The tokens that an edit changes, bool of shape `(batch, tokens)`; `None` for all, whatever their number.

    Args:
        positions: As in `Edit`.
        attention_mask: 1 where a token is attended; needed for `last` and `first`.

    Raises:
        ValueError: The positions are unknown, or `last` or `first` come without an attention mask.

    >>> position_mask("last", torch.tensor([[1, 1, 0], [1, 1, 1]])).int().tolist()
    [[0, 1, 0], [0, 0, 1]]
    """
    if isinstance(positions, Tensor):
        return positions.bool()
    if positions == "all":
        return None
    if positions not in {"last", "first"}:
        raise ValueError(f"Unknown positions {positions!r}. There are all, last, first, or a mask (batch, tokens).")
    if attention_mask is None:
        raise ValueError(f"Positions '{positions}' depend on the padding: pass `attention_mask` to `intervene`.")
    steps = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    at = (steps * attention_mask).argmax(1) if positions == "last" else attention_mask.argmax(1)
    return steps == at[:, None]


@contextmanager
def editing(
    stack: Stack, edits: Sequence[Edit], *, attention_mask: Tensor | None = None, name: str = ""
) -> Iterator[None]:
    """Within the context, every pass of a stack has its hidden states edited; edits of one place apply in their order.

    Args:
        stack: The stack whose modules are hooked.
        edits: All of this stack.
        attention_mask: As in `position_mask`.
        name: The backbone's name, for errors.

    Raises:
        ValueError: A layer or site does not exist, or positions are unknown.
    """
    shape: list[torch.Size] = []

    def note_shape(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        shape[:] = [(args[0] if args else kwargs["hidden_states"]).shape]

    with ExitStack() as hooks:
        first = stack.blocks[0].register_forward_pre_hook(note_shape, with_kwargs=True)
        hooks.callback(first.remove)
        for edit in edits:
            if edit.site not in EDITED_SITES:
                raise ValueError(f"There is no site '{edit.site}' to edit. There are {', '.join(EDITED_SITES)}.")
            resolve_layers([edit.layer], num_layers=len(stack.blocks), site=edit.site, name=name)
            mask = position_mask(edit.positions, attention_mask)
            hooks.callback(_place(stack, edit, mask, shape).remove)
        yield


@contextmanager
def resuming(stack: Stack, layer: int, hidden: Tensor) -> Iterator[None]:
    """Within the context, passes of a stack take layer k as given: the blocks up to it are not run.

    The model's own code still embeds the tokens and prepares masks and positions; hidden states after layer k are equal
    to the bit to those of a whole pass with the same layer k.

    Args:
        stack: The stack whose blocks are skipped.
        layer: k, from 0 (nothing is skipped) to L.
        hidden: Layer k of the same texts, shape `(batch, tokens, features)`.
    """
    with ExitStack() as restore:
        if layer == 0:
            first = stack.blocks[0].register_forward_pre_hook(_given(hidden), with_kwargs=True)
            restore.callback(first.remove)
        for number, block in enumerate(stack.blocks[:layer], start=1):
            restore.callback(_restore_forward, block, vars(block).get("forward"))
            vars(block)["forward"] = _passing(hidden if number == layer else None)
        yield


def _passing(hidden: Tensor | None) -> Callable[..., Tensor]:
    """In place of a block's `forward`: put out what is given, or else the input."""

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        if hidden is not None:
            return hidden
        return args[0] if args else kwargs["hidden_states"]

    return forward


def _restore_forward(block: nn.Module, own: Any) -> None:
    if own is None:
        del vars(block)["forward"]  # the method of the class is found again
    else:
        vars(block)["forward"] = own


def _given(hidden: Tensor) -> Callable[..., Any]:
    def pre_hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _with_hidden(args, kwargs, hidden)

    return pre_hook


def _place(stack: Stack, edit: Edit, mask: Tensor | None, shape: list[torch.Size]) -> Any:
    """Hook the module whose output, or at layer 0 input, is edited."""

    def edit_output(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = output if isinstance(output, Tensor) else output[0]
        changed = _changed(edit, hidden.reshape(*shape[0][:2], -1), mask).reshape(hidden.shape)
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    def edit_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        changed = _changed(edit, hidden.reshape(*shape[0][:2], -1), mask).reshape(hidden.shape)
        return _with_hidden(args, kwargs, changed)

    if edit.layer == 0:
        return stack.blocks[0].register_forward_pre_hook(edit_input, with_kwargs=True)
    if edit.layer == "final":
        last = stack.blocks[-1] if stack.final_norm is None else stack.final_norm
        return last.register_forward_hook(edit_output)
    block = stack.blocks[int(edit.layer) - 1]
    if edit.site == "heads":
        projection = output_projection(block, model_type=stack.config.model_type)
        return projection.register_forward_pre_hook(edit_input, with_kwargs=True)
    if edit.site != "residual":
        block = sublayer(block, site=edit.site, model_type=stack.config.model_type)
    return block.register_forward_hook(edit_output)


def _with_hidden(args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor) -> tuple[Any, Any]:
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


def _changed(edit: Edit, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Hidden states after an edit; those at other positions are the same to the bit."""
    if mask is None:
        changed = edit.change(hidden)
        _check_change(edit, hidden, changed)
        return changed
    tokens = mask.shape[1]
    if hidden.shape[1] < tokens:
        return hidden  # a step of `generate`: the text itself was edited in the first pass
    text = hidden[:, :tokens]
    changed = edit.change(text)
    _check_change(edit, text, changed)
    changed = torch.where(mask.to(hidden.device)[..., None], changed, text)
    return changed if hidden.shape[1] == tokens else torch.cat([changed, hidden[:, tokens:]], dim=1)


def _check_change(edit: Edit, hidden: Tensor, changed: Tensor) -> None:
    if changed.shape != hidden.shape or changed.dtype != hidden.dtype:
        raise ValueError(
            f"An edit at layer {edit.layer} ({edit.site}) must keep shape and dtype {tuple(hidden.shape)}, "
            f"{hidden.dtype}; it returned {tuple(changed.shape)}, {changed.dtype}."
        )
