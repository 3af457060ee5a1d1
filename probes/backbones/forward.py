"""One pass over a batch: what each stack is given to read, and what its hooks keep of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from probes.backbones.capture import ForwardStopped, Sink, capture
from probes.backbones.pooling import TokenPooler
from probes.backbones.stacks import Stack
from probes.values import Layer, Reading

Pooled = dict[Reading, dict[Layer, Tensor]]


@dataclass(frozen=True)
class ForwardPass:
    """Runs a model's stacks.

    Attributes:
        model: A model without a head.
        stacks: Its stacks by name.
        decoder_input: What the decoder of an encoder–decoder model reads: its `start` token, or the `text`.
        causal: No token sees those behind it, so that a right-padded batch is run without its mask: what is attended
            comes out the same, and faster kernels serve.
    """

    model: PreTrainedModel
    stacks: Mapping[str, Stack]
    decoder_input: str
    causal: bool = False

    def read(self, input_ids: Tensor, attention_mask: Tensor, wanted: Mapping[Reading, Sequence[Layer]]) -> Pooled:
        """Pool the wanted layers inside hooks; blocks past the deepest are not run.

        Args:
            input_ids: int64, shape `(batch, tokens)`.
            attention_mask: 1 where a token is attended, same shape.
            wanted: Reading → its layers.

        Returns:
            For each reading and layer a tensor of shape `(batch, features)`.
        """
        pooled: Pooled = {reading: {} for reading in wanted}
        names = tuple(name for name in ("encoder", "decoder") if any(reading.stack == name for reading in wanted))
        with ExitStack() as hooks, suppress(ForwardStopped):
            for name in names:
                places = {(own.site, layer) for own, layers in wanted.items() if own.stack == name for layer in layers}
                sink = _pool_into(pooled, name, self._attended(name, attention_mask))
                hooks.enter_context(capture(self.stacks[name], sorted(places, key=str), sink, stop=name == names[-1]))
            self.run(names, input_ids, attention_mask, masked=not (self.causal and _right_padded(attention_mask)))
        return pooled

    def run(
        self, stacks: Sequence[str], input_ids: Tensor, attention_mask: Tensor, *, masked: bool = True, **kwargs: Any
    ) -> Any:
        """Run the module that computes these stacks; positions are the model's own affair."""
        module: nn.Module = self.stacks[stacks[-1]].module
        inputs: dict[str, Any] = {"input_ids": input_ids}
        if masked:
            inputs["attention_mask"] = attention_mask
        if self.model.config.is_encoder_decoder and "decoder" in stacks:
            module = self.model
            start = torch.full_like(input_ids[:, :1], self.model.config.decoder_start_token_id)
            inputs["decoder_input_ids"] = (
                start if self.decoder_input == "start" else torch.cat([start, input_ids], dim=1)
            )
            inputs["decoder_attention_mask"] = self._attended("decoder", attention_mask)
        if "use_cache" in inspect.signature(module.forward).parameters:
            inputs["use_cache"] = False
        return module(**inputs, **kwargs)

    def _attended(self, stack: str, attention_mask: Tensor) -> Tensor:
        """Which positions of a stack are attended: the text's, or the decoder's own."""
        if stack == "encoder" or not self.model.config.is_encoder_decoder:
            return attention_mask
        start = attention_mask.new_ones(attention_mask.shape[0], 1)
        return start if self.decoder_input == "start" else torch.cat([start, attention_mask], dim=1)


def _right_padded(attention_mask: Tensor) -> bool:
    return bool((attention_mask[:, 1:] <= attention_mask[:, :-1]).all())


def _pool_into(pooled: Pooled, stack: str, mask: Tensor) -> Sink:
    pooler = TokenPooler(mask)

    def sink(site: str, layer: Layer, hidden: Tensor) -> None:
        hidden = hidden.reshape(*mask.shape, -1)  # OPT's MLP flattens rows and tokens
        for reading, by_layer in pooled.items():
            if (reading.stack, reading.site) == (stack, site):
                by_layer[layer] = pooler.pool(reading.pooling, hidden)

    return sink
