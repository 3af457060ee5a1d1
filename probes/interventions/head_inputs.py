"""Queries, keys and values of a block's attention, read in one pass and held fixed in another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from probes.backbones.heads import inputs_by_feature
from probes.backbones.structure import Stack

HEAD_INPUTS = "qkv"
"""Query, key and value, in this order."""


@contextmanager
def recorded_inputs(stack: Stack, layer: int, name: str = "") -> Iterator[list[Tensor]]:
    """Within the context, a pass writes what the projections of a block put out into the list that is given.

    Args:
        stack: A decoder.
        layer: k of block k.
        name: The backbone's name, for errors.

    Raises:
        ValueError: It is not known where this family keeps them.
    """
    found: list[Tensor] = []

    def note(_module: nn.Module, _args: Any, output: Tensor) -> None:
        found.append(output.detach())

    with ExitStack() as hooks:
        for projection, _ in inputs_by_feature(stack, layer, name):
            hooks.callback(projection.register_forward_hook(note).remove)
        yield found


@contextmanager
def held_inputs(stack: Stack, layer: int, recorded: Sequence[Tensor], held: str) -> Iterator[None]:
    """Within the context, some of queries, keys and values of a block are what they were in another pass.

    Args:
        stack: A decoder.
        layer: k of block k.
        recorded: Of `recorded_inputs`, for texts of the same shape.
        held: Letters of `HEAD_INPUTS`.
    """
    wanted = [HEAD_INPUTS.index(letter) for letter in held]

    def hold(projection: nn.Module, before: Tensor, of_feature: Tensor) -> Any:
        chosen = torch.isin(of_feature, torch.tensor(wanted))

        def change(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            return torch.where(chosen.to(output.device), before.to(output), output)

        return projection.register_forward_hook(change)

    with ExitStack() as hooks:
        for before, (projection, of_feature) in zip(recorded, inputs_by_feature(stack, layer), strict=True):
            hooks.callback(hold(projection, before, of_feature).remove)
        yield
