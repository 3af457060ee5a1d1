"""What extraction needs of a backbone: the interface between `probes.backbones` and `probes.activations`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from probes.backbones.structure import LayerSpec
from probes.backbones.token_batches import TokenizedTexts, Tokenizer
from probes.values import Layer, Reading


class ReadableBackbone(Protocol):
    """A model whose layers can be read in batches; `FrozenBackbone` is one, a tuned model on disk is another.

    Each member has the meaning documented at `FrozenBackbone`.
    """

    name: str
    tokenizer: Tokenizer
    pad_id: int
    decoder_input: str

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What hidden states are computed in."""
        ...

    @property
    def hidden_size(self) -> int:
        """Features of one layer."""
        ...

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model: its devices and sizes decide how many tokens one pass can take."""
        ...

    def fingerprint(self) -> str:
        """Identity by content of weights and configuration, which names the stored activations."""
        ...

    def layers(self, stack: str, *, site: str = "residual", spec: LayerSpec | None = None) -> tuple[Layer, ...]:
        """Names of the layers that `spec` means at a site of a stack."""
        ...

    def readings(
        self, poolings: str | Sequence[str] | None = None, sites: str | Sequence[str] = "residual"
    ) -> tuple[Reading, ...]:
        """Every combination of the backbone's stacks with sites and poolings."""
        ...

    def tokenize(self, texts: Sequence[str], *, max_length: int | None = None) -> TokenizedTexts:
        """Token ids of texts."""
        ...

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        readings: Sequence[Reading],
        layers: LayerSpec | None = None,
    ) -> dict[Reading, Tensor]:
        """One pass over a right-padded batch; for each reading a tensor of shape `(layers, batch, features)`."""
        ...
