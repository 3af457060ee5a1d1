"""One forward pass over a batch: hooks see the hidden states of each wanted layer and pool them at once.

`ForwardPass` runs the model, `capture` places the hooks, and `TokenPooler` reduces tokens to one vector per text, or to
one per word, so that hidden states of shape `(batch, tokens, features)` are never kept.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from probes.backbones.structure import Stack, output_projection, sublayer
from probes.values import Layer, Reading

Pooled = dict[Reading, dict[Layer, Tensor]]
"""For each reading and layer a tensor of shape `(batch, features)`, or `(words of all texts, features)`."""

Spans = Sequence[np.ndarray]
"""For each text of a batch the first token of each of its words and the one after its last, int32 `(words, 2)`."""

Sink = Callable[[str, Layer, Tensor], None]
"""Receives `(site, layer, hidden)` with hidden of shape `(batch, tokens, features)`; it must copy what it keeps."""


@dataclass(frozen=True)
class ForwardPass:
    """Runs the stacks of a model.

    Attributes:
        model: A model without a head.
        stacks: Its stacks by name.
        decoder_input: What the decoder of an encoder–decoder model reads: its `start` token, or the `text`.
        causal: Whether no position attends to later ones. Then a right-padded batch is run without its mask: attended
            positions have the same hidden states, and faster attention kernels are available.
    """

    model: PreTrainedModel
    stacks: Mapping[str, Stack]
    decoder_input: str
    causal: bool = False

    def read(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        wanted: Mapping[Reading, Sequence[Layer]],
        spans: Spans | None = None,
    ) -> Pooled:
        """Pool the wanted layers inside hooks; blocks past the deepest wanted layer are not run.

        Args:
            input_ids: int64, shape `(batch, tokens)`.
            attention_mask: 1 where a token is attended, same shape.
            wanted: The layers of each reading.
            spans: The words of each text, for readings of words.
        """
        pooled: Pooled = {reading: {} for reading in wanted}
        names = tuple(name for name in ("encoder", "decoder") if any(reading.stack == name for reading in wanted))
        with ExitStack() as hooks, suppress(ForwardStopped):
            for name in names:
                places = {(r.site, layer) for r, layers in wanted.items() if r.stack == name for layer in layers}
                sink = _pool_into(pooled, name, self.pooler(name, attention_mask, spans))
                # A decoder needs the whole encoder, so only the last stack is stopped early.
                hooks.enter_context(capture(self.stacks[name], sorted(places, key=str), sink, stop=name == names[-1]))
            self.run_batch(names, input_ids, attention_mask)
        return pooled

    def run_batch(self, stacks: Sequence[str], input_ids: Tensor, attention_mask: Tensor) -> Any:
        """Run these stacks on a batch, without its mask if that makes no difference; arguments as in `run`."""
        masked = not (self.causal and _right_padded(attention_mask))
        return self.run(stacks, input_ids, attention_mask, masked=masked)

    def run(
        self, stacks: Sequence[str], input_ids: Tensor, attention_mask: Tensor, *, masked: bool = True, **kwargs: Any
    ) -> Any:
        """Run the smallest module that computes these stacks, and return its output.

        No position ids are passed: the model derives them as it does for any user.

        Args:
            stacks: Names of stacks, the encoder first.
            input_ids: int64, shape `(batch, tokens)`.
            attention_mask: 1 where a token is attended, same shape.
            masked: Whether the model is given the mask.
            **kwargs: Further arguments of the module, such as `output_hidden_states`.
        """
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
            inputs["decoder_attention_mask"] = self.stack_mask("decoder", attention_mask)
        if "use_cache" in inspect.signature(module.forward).parameters:
            inputs["use_cache"] = False
        return module(**inputs, **kwargs)

    def pooler(self, stack: str, attention_mask: Tensor, spans: Spans | None = None) -> TokenPooler:
        """What pools the hidden states of a stack."""
        mask = self.stack_mask(stack, attention_mask)
        # The decoder of an encoder–decoder that reads the text has its start token in front of it.
        return TokenPooler(mask, spans, first_token=mask.shape[1] - attention_mask.shape[1])

    def stack_mask(self, stack: str, attention_mask: Tensor) -> Tensor:
        """The attention mask over a stack's positions: the text's, or in an encoder–decoder's decoder its input's."""
        if stack == "encoder" or not self.model.config.is_encoder_decoder:
            return attention_mask
        start = attention_mask.new_ones(attention_mask.shape[0], 1)
        return start if self.decoder_input == "start" else torch.cat([start, attention_mask], dim=1)


class ForwardStopped(Exception):  # noqa: N818 - a signal, not an error
    """The deepest wanted layer has been computed, so the blocks after it are skipped."""


@contextmanager
def capture(stack: Stack, wanted: Sequence[tuple[str, Layer]], sink: Sink, *, stop: bool = True) -> Iterator[None]:
    """Within the context, forward passes of `stack` pass the hidden states of wanted layers to `sink`.

    Args:
        stack: The stack whose modules are hooked.
        wanted: `(site, layer)` pairs.
        sink: Called once for each pair and pass, in the order of computation.
        stop: Raise `ForwardStopped` out of the forward pass once the deepest wanted block has run.
    """
    handles = [_hook(stack, site, layer, sink) for site, layer in wanted]
    depth = max(_depth(stack, layer) for _, layer in wanted)
    if stop and depth <= len(stack.blocks):
        handles.append(_stop_after(stack, depth))  # hooks run in the order of registration: after the sink's
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class TokenPooler:
    """Pools the hidden states of a batch, one layer after another; what depends only on the mask is computed once.

    Each method that has the name of a pooling maps hidden states of shape `(batch, tokens, features)` to one vector per
    row, shape `(batch, features)`. Poolings such as `words.last` give one vector per word, of one text after another,
    shape `(words of all rows, features)`, and `subwords` one per attended token.

    Args:
        mask: 1 where a token is attended, shape `(batch, tokens)`; at least one token in each row.
        spans: The words of each row, for the poolings of words.
        first_token: Number of tokens in front of a row's own, which `spans` do not count.

    >>> hidden = torch.arange(6.0).reshape(1, 3, 2)
    >>> pooler = TokenPooler(torch.tensor([[1, 1, 0]]))
    >>> pooler.last(hidden).tolist(), pooler.mean(hidden).tolist()
    ([[2.0, 3.0]], [[1.0, 2.0]])
    """

    def __init__(self, mask: Tensor, spans: Spans | None = None, *, first_token: int = 0) -> None:
        self.mask, self.spans, self.first_token = mask, spans, first_token

    def pool(self, pooling: str, hidden: Tensor) -> Tensor:
        """Apply the method named `pooling`, or of a pooling of words the one that it stands for."""
        _, of_words, how = pooling.partition(".")
        return getattr(self, f"{how}_of_words" if of_words else pooling)(hidden)

    def subwords(self, hidden: Tensor) -> Tensor:
        """Every attended token, in the dtype of `hidden`."""
        rows, tokens = (index.to(hidden.device) for index in self._attended)
        return hidden[rows, tokens]

    def last_of_words(self, hidden: Tensor) -> Tensor:
        """The last token of every word, in the dtype of `hidden`."""
        rows, _, lasts = (index.to(hidden.device) for index in self._words)
        return hidden[rows, lasts]

    def first_of_words(self, hidden: Tensor) -> Tensor:
        """The first token of every word, in the dtype of `hidden`."""
        rows, firsts, _ = (index.to(hidden.device) for index in self._words)
        return hidden[rows, firsts]

    def mean_of_words(self, hidden: Tensor) -> Tensor:
        """The mean over the tokens of every word, in float32."""
        rows, tokens, lengths = (index.to(hidden.device) for index in self._tokens_of_words)
        return torch.segment_reduce(hidden[rows, tokens].float(), "mean", lengths=lengths, axis=0)

    def last(self, hidden: Tensor) -> Tensor:
        """The last attended token of every row, in the dtype of `hidden`."""
        return self._select(hidden, self._last)

    def first(self, hidden: Tensor) -> Tensor:
        """The first attended token of every row, in the dtype of `hidden`."""
        return self._select(hidden, self._first)

    def mean(self, hidden: Tensor) -> Tensor:
        """The mean over attended tokens, in float32."""
        weights, counts = (tensor.to(hidden.device) for tensor in self._weights_and_counts)
        total = weights @ hidden.float()  # (batch, 1, features); einsum would permute axes and take four times as long
        return total[:, 0] / counts

    def max(self, hidden: Tensor) -> Tensor:
        """The maximum of every feature over attended tokens, in the dtype of `hidden`."""
        return hidden.masked_fill(self._unattended.to(hidden.device), float("-inf")).amax(dim=1)

    def _select(self, hidden: Tensor, positions: Tensor) -> Tensor:
        return hidden[self._rows.to(hidden.device), positions.to(hidden.device)]

    @cached_property
    def _rows(self) -> Tensor:
        return torch.arange(len(self.mask), device=self.mask.device)

    @cached_property
    def _last(self) -> Tensor:
        """Positions, shape `(batch,)`: among attended positions the largest index."""
        return (torch.arange(self.mask.shape[1], device=self.mask.device) * self.mask).argmax(dim=1)

    @cached_property
    def _first(self) -> Tensor:
        """Positions, shape `(batch,)`: `argmax` of a mask of zeros and ones is the first one."""
        return self.mask.argmax(dim=1)

    @cached_property
    def _attended(self) -> tuple[Tensor, Tensor]:
        """Row and position of every attended token of the texts themselves, each `(attended,)`."""
        rows, tokens = self.mask[:, self.first_token :].nonzero(as_tuple=True)
        return rows, tokens + self.first_token

    @cached_property
    def _words(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row, first and last token of every word, each int64 `(words of all rows,)`."""
        if self.spans is None:
            raise ValueError("A reading of words needs the tokens of each word: pass `spans`.")
        lengths = torch.tensor([len(spans) for spans in self.spans])
        ends = torch.from_numpy(np.concatenate([*self.spans]).astype(np.int64)) + self.first_token
        rows = torch.arange(len(self.spans)).repeat_interleave(lengths)
        rows, firsts, lasts = (index.to(self.mask.device) for index in (rows, ends[:, 0], ends[:, 1] - 1))
        return rows, firsts, lasts

    @cached_property
    def _tokens_of_words(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row and position of every token of every word, `(tokens of words,)`, and the number of each word's tokens."""
        rows, firsts, lasts = self._words
        lengths = lasts - firsts + 1
        within = torch.arange(int(lengths.sum()), device=lengths.device)
        within -= (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        return rows.repeat_interleave(lengths), firsts.repeat_interleave(lengths) + within, lengths

    @cached_property
    def _weights_and_counts(self) -> tuple[Tensor, Tensor]:
        """The mask and the number of attended tokens, shapes `(batch, 1, tokens)` and `(batch, 1)`, float32."""
        weights = self.mask.to(torch.float32)
        return weights[:, None], weights.sum(dim=1, keepdim=True)

    @cached_property
    def _unattended(self) -> Tensor:
        """Shape `(batch, tokens, 1)`."""
        return ~self.mask.bool()[..., None]


def _pool_into(pooled: Pooled, stack: str, pooler: TokenPooler) -> Sink:
    """A sink that pools hidden states of a stack under every reading that is read at their site."""

    def sink(site: str, layer: Layer, hidden: Tensor) -> None:
        hidden = hidden.reshape(*pooler.mask.shape, -1)  # OPT's MLP puts out (batch × tokens, features)
        for reading, by_layer in pooled.items():
            if (reading.stack, reading.site) == (stack, site):
                by_layer[layer] = pooler.pool(reading.pooling, hidden)

    return sink


def _right_padded(attention_mask: Tensor) -> bool:
    """Whether no attended token follows padding in any row."""
    return bool((attention_mask[:, 1:] <= attention_mask[:, :-1]).all())


def _depth(stack: Stack, layer: Layer) -> int:
    """How many blocks must run for a layer; one more than there are for `"final"`."""
    return len(stack.blocks) + 1 if layer == "final" else int(layer)


def _hook(stack: Stack, site: str, layer: Layer, sink: Sink) -> Any:
    owner = threading.get_ident()  # passes of several threads may share a model

    def take_output(_module: nn.Module, _args: Any, output: Any) -> None:
        if threading.get_ident() != owner:
            return
        hidden = output if isinstance(output, Tensor) else output[0]  # some modules also put out attention weights
        sink(site, layer, hidden)

    def take_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == owner:
            sink(site, layer, args[0] if args else kwargs["hidden_states"])

    if layer == 0:
        return stack.blocks[0].register_forward_pre_hook(take_input, with_kwargs=True)
    if layer == "final":
        last = stack.blocks[-1] if stack.final_norm is None else stack.final_norm
        return last.register_forward_hook(take_output)
    block = stack.blocks[int(layer) - 1]
    if site == "residual":
        return block.register_forward_hook(take_output)
    if site == "heads":
        projection = output_projection(block, model_type=stack.config.model_type)
        return projection.register_forward_pre_hook(take_input, with_kwargs=True)
    return sublayer(block, site=site, model_type=stack.config.model_type).register_forward_hook(take_output)


def _stop_after(stack: Stack, depth: int) -> Any:
    owner = threading.get_ident()

    def halt(*_: Any) -> None:
        if threading.get_ident() == owner:
            raise ForwardStopped

    if depth == 0:
        return stack.blocks[0].register_forward_pre_hook(halt)
    return stack.blocks[depth - 1].register_forward_hook(halt)
