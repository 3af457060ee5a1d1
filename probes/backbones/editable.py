"""What can be done to hidden states within a pass: edit them, start from a later layer, read those of all tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from probes.backbones.edits import Edit, editing, resuming
from probes.backbones.hooks import ForwardPass, ForwardStopped, capture
from probes.backbones.structure import LayerSpec, Stack, resolve_layers
from probes.values import Layer


class EditableBackbone(nn.Module):
    """Interventions of a `FrozenBackbone`, which sets the attributes.

    Attributes:
        name: The name in errors.
        model: The model without its head.
        stacks: Names of the chosen stacks.
    """

    name: str
    model: PreTrainedModel
    stacks: tuple[str, ...]
    _stacks: dict[str, Stack]
    _pass: ForwardPass

    @contextmanager
    def intervene(self, edits: Sequence[Edit], *, attention_mask: Tensor | None = None) -> Iterator[Self]:
        """Within the context, every pass has its hidden states edited: of this backbone, and of a head on its model.

        Several edits of one place apply in their order, and contexts can be nested, the outer one first. What is read
        at an edited place is what the edit has left there; layers before the first edited one are the same to the bit.

        Args:
            edits: Where and how; `probes.interventions` makes them.
            attention_mask: 1 where a token is attended, `(batch, tokens)`; needed for the positions `last` and `first`.

        Raises:
            ValueError: A stack, layer, site or position does not exist.
        """
        by_stack: dict[str, list[Edit]] = {}
        for edit in edits:
            by_stack.setdefault(edit.stack or self.stacks[0], []).append(edit)
        unknown = sorted(set(by_stack) - set(self._stacks))
        if unknown:
            raise ValueError(f"Backbone '{self.name}' has no stack {unknown} to edit. It has {list(self._stacks)}.")
        with ExitStack() as places:
            for stack, own in by_stack.items():
                places.enter_context(editing(self._stacks[stack], own, attention_mask=attention_mask, name=self.name))
            yield self

    @contextmanager
    def resume(self, layer: int, hidden: Tensor) -> Iterator[Self]:
        """Within the context, passes over the same texts start at layer k of the (first) chosen stack.

        Args:
            layer: k, from 0 to L.
            hidden: What `hidden_states` read at layer k, edited or not, shape `(batch, tokens, features)`.
        """
        with resuming(self._first_stack, layer, hidden):
            yield self

    @torch.no_grad()
    def hidden_states(
        self, input_ids: Tensor, attention_mask: Tensor, *, layers: LayerSpec, site: str = "residual"
    ) -> dict[Layer, Tensor]:
        """Hidden states of all tokens of the (first) chosen stack; blocks past the deepest wanted layer are not run.

        Args:
            input_ids: int64, shape `(batch, tokens)`, padded on the right.
            attention_mask: 1 where a token is attended, same shape.
            layers: Which layers; memory grows with their number.
            site: `residual`, `attention`, `mlp` or `heads`.

        Returns:
            For each layer a tensor `(batch, tokens, features)` in the model's dtype, which shares no memory with the
            model's own; what it holds at padded positions has no meaning.
        """
        stack, found = self._first_stack, {}
        device = next(self.model.parameters()).device
        input_ids, attention_mask = input_ids.to(device), attention_mask.to(device)
        mask = self._pass.stack_mask(stack.name, attention_mask)
        resolved = resolve_layers(layers, num_layers=len(stack.blocks), site=site, name=self.name)
        wanted = [(site, layer) for layer in resolved]

        def keep(_site: str, layer: Layer, hidden: Tensor) -> None:
            found[layer] = hidden.reshape(*mask.shape, -1).clone()

        with capture(stack, wanted, keep), suppress(ForwardStopped):
            self._pass.run_batch([stack.name], input_ids, attention_mask)
        return found

    @property
    def main_stack(self) -> Stack:
        """The (first) chosen stack: its blocks, and the norm after them."""
        return self._first_stack

    @property
    def num_heads(self) -> int:
        """Number of attention heads of a block of the (first) chosen stack."""
        return self._first_stack.config.num_attention_heads

    @property
    def _first_stack(self) -> Stack:
        return self._stacks[self.stacks[0]]
