"""The chosen probe of every layer, applied to activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from probes.architectures import ProbeArchitecture
from probes.metrics import TargetKind
from probes.training.bank.probe_bank import ProbeBank
from probes.training.bank.probe_module import Standardiser, row_batched_logits
from probes.training.ragged import RowValues, as_float, layers_of, vectors_of
from probes.values import Layer, Reading


@dataclass(frozen=True)
class LayerProbes:
    """One trained probe per layer; `probes.training.save_probes` writes them to a file.

    Attributes:
        task: Name of the task.
        kind: Kind of task.
        labels: Names of the classes or labels; empty for regression.
        layers: Names of all layers, in order.
        constant: The layers without a probe, because their activations were equal on all training rows.
        reading: Stack, site and pooling that the activations must have.
        penalties: λ of each layer's probe; NaN where there is none.
        in_features: Width of one layer's activations.
        architecture: Constructs one probe.
        bank: Probes of the layers that have one, one replica per layer; `None` if no layer has one.
        standardiser: Statistics of the training rows at the same layers.
        target_mean: Training mean of a regression target; otherwise 0.
        target_deviation: Training standard deviation of a regression target; otherwise 1.
        metadata: What the caller adds, such as the backbone's fingerprint.
    """

    task: str
    kind: TargetKind
    labels: tuple[str, ...]
    layers: tuple[Layer, ...]
    constant: tuple[Layer, ...]
    reading: Reading
    penalties: tuple[float, ...]
    in_features: int
    architecture: ProbeArchitecture
    bank: ProbeBank | None
    standardiser: Standardiser | None
    target_mean: float = 0.0
    target_deviation: float = 1.0
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Width of the logits."""
        return 1 if self.kind == "regression" else len(self.labels)

    @property
    def probed_layers(self) -> tuple[Layer, ...]:
        """The layers that have a probe, in order."""
        return tuple(layer for layer in self.layers if layer not in self.constant)

    def logits(self, values: RowValues) -> Tensor:
        """Apply the probe of every layer.

        Args:
            values: Raw activations, shape `(layers, rows, features)`, at `layers` in their order; of probes that read
                tokens, `RaggedRows`.

        Returns:
            float32 logits, shape `(layers, rows, classes)`; for regression predicted numbers in the unit of the
            targets, shape `(layers, rows, 1)`. NaN at a layer without a probe.

        Raises:
            ValueError: The activations have another shape.
        """
        expected = (len(self.layers), values.shape[1] if len(values.shape) == 3 else "rows", self.in_features)
        if tuple(values.shape) != expected:
            raise ValueError(
                f"The probes of task '{self.task}' expect activations (layers, rows, features) = {expected}; got "
                f"{tuple(values.shape)}. Their layers are {', '.join(map(str, self.layers))}."
            )
        rows = values.shape[1]
        shape = (len(self.layers), rows, self.num_classes)
        logits = vectors_of(values).new_full(shape, torch.nan, dtype=torch.float32)
        if self.bank is not None and self.standardiser is not None:
            probed = torch.tensor([self.layers.index(layer) for layer in self.probed_layers])
            # (probed layers, replicas = 1, rows, classes) → (probed layers, rows, classes)
            outputs = row_batched_logits(self.bank, self.standardiser, as_float(layers_of(values, probed)))[:, 0]
            logits[probed] = outputs * self.target_deviation + self.target_mean
        return logits

    def predict(self, values: RowValues) -> Tensor:
        """Predict the target of every row from every layer.

        Args:
            values: As in `logits`.

        Returns:
            Class indices `(layers, rows)`, 0/1 entries `(layers, rows, labels)`, or numbers `(layers, rows)`. At a
            layer without a probe −1; NaN for regression.

        Raises:
            ValueError: The activations have another shape.
        """
        logits = self.logits(values)
        if self.kind == "regression":
            return logits[..., 0]
        predicted = logits.argmax(-1) if self.kind == "classification" else (logits > 0).long()
        missing = logits.isnan().any(-1) if self.kind == "classification" else logits.isnan()
        return torch.where(missing, -1, predicted)
