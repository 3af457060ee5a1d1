"""The chosen probe of every layer: applied to activations, saved, and loaded to the same predictions."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from probes.files import replaced_file
from probes.metrics import TargetKind
from probes.training.bank.probe_bank import Architecture, ProbeBank
from probes.training.bank.probe_module import Standardiser, row_batched_logits
from probes.values import Layer, Reading

FORMAT = "probes/1"


@dataclass(frozen=True)
class LayerProbes:
    """One trained probe a layer.

    Attributes:
        task: Name of the task.
        kind: Kind of task.
        labels: Names of the classes or labels; empty for regression.
        layers: Names of all layers, in order.
        constant: Those among them that have no probe, for their activations were all the same in training.
        reading: Stack, site and pooling the activations must be of.
        penalties: λ of each layer; NaN where there is no probe.
        in_features: Width of one layer's activations.
        architecture: Gives one probe; a class or a partial of one, importable by name.
        bank: Probes of the layers that have one; `None` if none has.
        standardiser: Statistics of the training rows, for the same layers.
        target_mean: Training mean of a regression target; else 0.
        target_deviation: Training standard deviation of a regression target; else 1.
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
    architecture: Architecture
    bank: ProbeBank | None
    standardiser: Standardiser | None
    target_mean: float = 0.0
    target_deviation: float = 1.0
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Width of the logits."""
        return 1 if self.kind == "regression" else len(self.labels)

    def logits(self, values: Tensor) -> Tensor:
        """Apply every layer's probe.

        Args:
            values: Raw activations, shape `(layers, rows, features)`; layers in the order of `layers`.

        Returns:
            Logits, or predicted numbers in the unit of the targets, shape `(layers, rows, classes)`; NaN at a constant
            layer.

        Raises:
            ValueError: The shape is another one.
        """
        wanted = (len(self.layers), values.shape[1] if values.ndim == 3 else "rows", self.in_features)
        if tuple(values.shape) != wanted:
            raise ValueError(
                f"The probes of task '{self.task}' expect activations (layers, rows, features) = {wanted}; got "
                f"{tuple(values.shape)}. Their layers are {', '.join(map(str, self.layers))}."
            )
        live = [i for i, layer in enumerate(self.layers) if layer not in self.constant]
        logits = values.new_full((*values.shape[:2], self.num_classes), torch.nan, dtype=torch.float32)
        if self.bank is not None and self.standardiser is not None:
            own = row_batched_logits(self.bank, self.standardiser, values[live].float())[:, 0]
            logits[live] = own * self.target_deviation + self.target_mean
        return logits

    def predict(self, values: Tensor) -> Tensor:
        """Predict classes (index, −1 at a constant layer), labels (0/1, −1 likewise) or numbers (NaN likewise).

        Args:
            values: Raw activations, shape `(layers, rows, features)`.

        Returns:
            Shape `(layers, rows)`, or `(layers, rows, labels)` for multi-label tasks.
        """
        logits = self.logits(values)
        if self.kind == "regression":
            return logits[..., 0]
        predicted = logits.argmax(-1) if self.kind == "classification" else (logits > 0).long()
        missing = logits.isnan()
        return torch.where(missing.any(-1) if self.kind == "classification" else missing, -1, predicted)

    def save(self, path: str | Path, metadata: Mapping[str, Any] | None = None) -> Path:
        """Write the probes to one safetensors file.

        Args:
            path: The file; its folder is made if need be.
            metadata: Anything that turns into JSON, kept beside what `metadata` holds already.

        Returns:
            The path.

        Raises:
            ValueError: The architecture has no importable name, or arguments that JSON cannot hold.
        """
        target, own = describe_architecture(self.architecture)
        description = {
            "format": FORMAT, "task": self.task, "kind": self.kind, "labels": self.labels, "layers": self.layers,
            "constant": self.constant, "reading": vars(self.reading), "in_features": self.in_features,
            "penalties": [None if p != p else p for p in self.penalties], "architecture": target, "arguments": own,
            "target_mean": self.target_mean, "target_deviation": self.target_deviation,
            "metadata": {**self.metadata, **(metadata or {})},
        }  # fmt: skip
        tensors: dict[str, Tensor] = {}
        for part, module in (("bank", self.bank), ("standardiser", self.standardiser)):
            state = {} if module is None else module.state_dict()
            tensors |= {f"{part}.{name}": value.detach().cpu().contiguous() for name, value in state.items()}
        path = Path(path)
        with replaced_file(path) as temporary:
            save_file(tensors, temporary, metadata={"probes": json.dumps(description)})
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: The file holds something else.
            ImportError: The architecture's module cannot be imported.
        """
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("probes")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(text) if text is not None else {}
        if about.get("format") != FORMAT:
            raise ValueError(f"'{path}' holds no probes in the format {FORMAT}; it was written by something else.")
        architecture = functools.partial(_imported(about["architecture"]), **about["arguments"])
        bank, standardiser = _restored(about, architecture, tensors)
        return cls(
            task=about["task"],
            kind=about["kind"],
            labels=tuple(about["labels"]),
            layers=tuple(about["layers"]),
            constant=tuple(about["constant"]),
            reading=Reading(**about["reading"]),
            penalties=tuple(float("nan") if p is None else p for p in about["penalties"]),
            in_features=about["in_features"],
            architecture=architecture,
            bank=bank,
            standardiser=standardiser,
            target_mean=about["target_mean"],
            target_deviation=about["target_deviation"],
            metadata=about["metadata"],
        )


def load_probes(path: str | Path) -> LayerProbes:
    """Read probes that `LayerProbes.save` wrote: same predictions, whatever class they are of."""
    return LayerProbes.load(path)


def describe_architecture(architecture: Architecture) -> tuple[str, dict[str, Any]]:
    """Return the importable name of an architecture and its own arguments.

    Raises:
        ValueError: It has no such name, or arguments that JSON cannot hold.
    """
    own: dict[str, Any] = {}
    target: Any = architecture
    if isinstance(architecture, functools.partial):
        target, own = architecture.func, dict(architecture.keywords)
    name = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
    try:
        found = _imported(name)
        json.dumps(own)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(
            f"Probes of {architecture!r} can't be saved: {error}. Use an importable class and plain arguments."
        ) from error
    if found is not target:
        raise ValueError(f"Probes of {architecture!r} can't be saved: '{name}' names something else.")
    return name, own


def _restored(
    about: Mapping[str, Any], architecture: Architecture, tensors: Mapping[str, Tensor]
) -> tuple[ProbeBank, Standardiser] | tuple[None, None]:
    live = [layer for layer in about["layers"] if layer not in about["constant"]]
    if not live:
        return None, None
    classes = 1 if about["kind"] == "regression" else len(about["labels"])
    bank = ProbeBank(architecture, about["in_features"], classes, layers=live)
    bank.load_state_dict({name[5:]: value for name, value in tensors.items() if name.startswith("bank.")})
    return bank.eval(), Standardiser(tensors["standardiser.mean"], tensors["standardiser.deviation"])


def _imported(name: str) -> Any:
    """Import a class by its dotted name; a nested class comes after its module."""
    module, _, qualname = name.rpartition(".")
    while True:
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError:
            module, _, outer = module.rpartition(".")
            if not module:
                raise
            qualname = f"{outer}.{qualname}"
            continue
        return functools.reduce(getattr, qualname.split("."), found)
