"""Forward hooks that hand every wanted layer's hidden states to a sink, and stop the pass when it has them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from probes.backbones.sites import sublayer
from probes.backbones.stacks import Stack
from probes.values import Layer

Sink = Callable[[str, Layer, Tensor], None]
"""Receives `(site, layer, hidden)`, hidden of shape `(batch, tokens, features)`; what it keeps, it must copy."""


class ForwardStopped(Exception):  # noqa: N818 - a signal, not an error
    """The deepest wanted layer was seen; the blocks behind it are not run."""


@contextmanager
def capture(stack: Stack, wanted: Sequence[tuple[str, Layer]], sink: Sink, *, stop: bool = True) -> Iterator[None]:
    """Within the context, forward passes of `stack` hand wanted layers to `sink`.

    Args:
        stack: Whose blocks are hooked.
        wanted: `(site, layer)` pairs.
        sink: Called once a pair and pass, in the order of computation.
        stop: Raise `ForwardStopped` out of the forward pass once the deepest wanted block was run.
    """
    handles = [_hook(stack, site, layer, sink) for site, layer in wanted]
    depth = max(_depth(stack, layer) for _, layer in wanted)
    if stop and depth <= len(stack.blocks):
        handles.append(_stop_after(stack, depth))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _depth(stack: Stack, layer: Layer) -> int:
    return len(stack.blocks) + 1 if layer == "final" else int(layer)


def _hook(stack: Stack, site: str, layer: Layer, sink: Sink) -> Any:
    def take(_module: nn.Module, _args: Any, output: Any) -> None:
        hidden = output if isinstance(output, Tensor) else output[0]
        sink(site, layer, hidden)

    def take_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sink(site, layer, args[0] if args else kwargs["hidden_states"])

    if layer == 0:
        return stack.blocks[0].register_forward_pre_hook(take_input, with_kwargs=True)
    if layer == "final":
        return (stack.final_norm or stack.blocks[-1]).register_forward_hook(take)
    block = stack.blocks[int(layer) - 1]
    if site == "residual":
        return block.register_forward_hook(take)
    return sublayer(block, site=site, model_type=_model_type(stack)).register_forward_hook(take)


def _model_type(stack: Stack) -> str:
    return stack.module.config.model_type  # pyright: ignore[reportAttributeAccessIssue, reportReturnType]


def _stop_after(stack: Stack, depth: int) -> Any:
    def halt(*_: Any) -> None:
        raise ForwardStopped

    if depth == 0:
        return stack.blocks[0].register_forward_pre_hook(halt)
    return stack.blocks[depth - 1].register_forward_hook(halt)
