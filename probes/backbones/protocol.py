"""The interface between backbones and extraction: what `probes.activations` needs of a model, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from probes.backbones.alignment import AlignedTexts, Ranges
from probes.backbones.hooks import Spans
from probes.backbones.structure import LayerSpec
from probes.backbones.token_batches import TokenizedTexts, Tokenizer
from probes.values import Layer, Reading

_T = TypeVar("_T")


class ReadableBackbone(Protocol):
    """A model whose layers can be read batch by batch. `FrozenBackbone` documents each member.

    The members are read-only, so that an implementation may compute them on demand, such as a model that is loaded only
    when a text is not in the store.
    """

    @property
    def name(self) -> str:
        """The name in errors and results."""
        ...

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which hidden states are computed."""
        ...

    @property
    def hidden_size(self) -> int:
        """Number of features of a layer."""
        ...

    @property
    def pad_id(self) -> int:
        """The token id on padded positions."""
        ...

    @property
    def decoder_input(self) -> str:
        """What the decoder of an encoder–decoder model reads: its `start` token, or the `text`."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; its `max_length` is the length of the longest input, in tokens."""
        ...

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model, whose devices and sizes decide how many tokens fit into one pass."""
        ...

    def fingerprint(self) -> str:
        """A digest of weights and configuration, under which activations are stored."""
        ...

    def layers(self, stack: str, *, site: str = "residual", spec: LayerSpec | None = None) -> tuple[Layer, ...]:
        """Names of the layers that `spec` selects at a site of a stack."""
        ...

    def readings(
        self, poolings: str | Sequence[str] | None = None, sites: str | Sequence[str] = "residual"
    ) -> tuple[Reading, ...]:
        """Every combination of the chosen stacks with sites and poolings."""
        ...

    def tokenize(self, texts: Sequence[str], *, max_length: int | None = None) -> TokenizedTexts:
        """Token ids of texts, truncated on the left."""
        ...

    def align(self, texts: Sequence[str], ranges: Sequence[Ranges], *, max_length: int | None = None) -> AlignedTexts:
        """Token ids of texts, and the tokens of their words."""
        ...

    @property
    def streamed(self) -> bool:
        """Whether the blocks are on disk, so that passes should be run together."""
        ...

    def run_together(self, calls: Sequence[Callable[[], _T]]) -> list[_T]:
        """Call functions that each run the model once."""
        ...

    def reported(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        readings: Sequence[Reading],
        spans: Spans | None = None,
    ) -> dict[Reading, dict[Layer, Tensor]]:
        """What a pass should read, pooled from the hidden states that the model itself reports, without hooks."""
        ...

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        readings: Sequence[Reading],
        layers: LayerSpec | None = None,
        spans: Spans | None = None,
    ) -> dict[Reading, Tensor]:
        """One pass over a right-padded batch: for each reading a tensor of shape `(layers, batch, features)`.

        A reading of words has the words of all texts for its second axis, and needs `spans`.
        """
        ...
