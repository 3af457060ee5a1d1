"""What the probes of every layer predict for the test rows of a task, kept so that runs can be compared row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from probes.metrics.resampling import RowGroups
from probes.metrics.scores import METRICS, TargetKind
from probes.values import Layer, Reading

_OF_PREDICTIONS = {
    "classification": ("accuracy", "macro_f1"),
    "multilabel": ("subset_accuracy", "label_accuracy", "macro_f1"),
    "regression": ("mse", "r2", "spearman"),
}
"""Kind of task → the metrics that follow from predictions without their probabilities."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of one task's probes on its test rows.

    Classes are int32, labels bool, numbers float32.

    Attributes:
        task: Name of the task.
        kind: Kind of task.
        reading: Stack, site and pooling that the probes read.
        labels: Names of the classes or labels; empty for regression.
        layers: The layers with a probe.
        row_ids: Names of the rows.
        predicted: Shape `(layers, rows)`, of multi-label tasks `(layers, rows, labels)`.
        targets: Shape `(rows,)` or `(rows, labels)`.
        training_errors: Errors over training sets of the main metric, as `Estimates.errors`, shape `(sets, layers)`;
            without rows where probes were not refitted.
        training_seed: What decided the training sets; equal in two runs whose errors are paired.
        sentences: Number of each row's sentence, int32 `(rows,)`, where rows are words; without entries where rows are
            independent.
        group_numbers: Number of each row's value of `suite.group`, int32 `(rows,)`, where rows share one; without
            entries where they do not.
        depth: Number of blocks of the stack that was read; `None` where it is unknown.
    """

    task: str
    kind: TargetKind
    reading: Reading
    labels: tuple[str, ...]
    layers: tuple[Layer, ...]
    row_ids: tuple[str, ...]
    predicted: np.ndarray
    targets: np.ndarray
    training_errors: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    training_seed: str = ""
    sentences: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    group_numbers: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    depth: int | None = None

    @property
    def groups(self) -> RowGroups | None:
        """Sentences, or values of `suite.group`, that rows share; `None` where rows are independent."""
        for name, numbers in (("sentences", self.sentences), ("groups", self.group_numbers)):
            if len(numbers):
                return RowGroups(torch.from_numpy(numbers).long(), name)
        return None

    def __post_init__(self) -> None:
        expected = (len(self.layers), *self.targets.shape)
        if self.predicted.shape != expected or len(self.row_ids) != len(self.targets):
            raise ValueError(
                f"Predictions of task '{self.task}' expect the shape {expected} and a name for each of "
                f"{len(self.targets)} rows; got {self.predicted.shape} and {len(self.row_ids)} names."
            )

    @classmethod
    def of_logits(
        cls,
        logits: Tensor,
        targets: Tensor,
        *,
        task: str,
        kind: TargetKind,
        reading: Reading,
        labels: tuple[str, ...],
        layers: tuple[Layer, ...],
        row_ids: tuple[str, ...],
        groups: RowGroups | None = None,
        depth: int | None = None,
    ) -> Predictions:
        """The predictions that logits `(layers, rows, classes)` stand for; numbers in the unit of the targets."""
        if kind == "classification":
            predicted, dtype = logits.argmax(-1), np.int32
        elif kind == "multilabel":
            predicted, dtype = logits > 0, np.bool_
        else:
            predicted, dtype = logits[..., 0], np.float32
        none = np.empty(0, np.int32)
        numbers = none if groups is None else groups.number.numpy(force=True).astype(np.int32)
        of_words = groups is not None and groups.name == "sentences"
        return cls(
            task=task,
            kind=kind,
            reading=reading,
            labels=labels,
            layers=layers,
            row_ids=row_ids,
            predicted=predicted.numpy(force=True).astype(dtype),
            targets=targets.numpy(force=True).astype(dtype),
            sentences=numbers if of_words else none,
            group_numbers=none if of_words else numbers,
            depth=depth,
        )

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that can be computed from predictions, in the order of `METRICS`."""
        names = [metric.name for metric in METRICS if metric.kind == self.kind]
        return tuple(name for name in names if name in _OF_PREDICTIONS[self.kind])

    def logits(self, layers: Sequence[Layer] | None = None) -> Tensor:
        """Logits that stand for the predictions, float32 `(layers, rows, classes)`, to be scored by `score_rows`.

        Args:
            layers: The layers, which may repeat; all by default.
        """
        chosen = self.layers if layers is None else layers
        predicted = torch.from_numpy(self.predicted[[self.layers.index(layer) for layer in chosen]])
        if self.kind == "classification":
            return torch.nn.functional.one_hot(predicted.long(), len(self.labels)).float()
        return predicted.float() * 2 - 1 if self.kind == "multilabel" else predicted[..., None]

    def at_layers(self, layers: Sequence[Layer], *, names: Sequence[Layer] | None = None) -> Predictions:
        """The predictions of some layers, which may repeat.

        Args:
            layers: Which.
            names: What they are called, each once; by default as they are.
        """
        places = [self.layers.index(layer) for layer in layers]
        errors = self.training_errors
        return replace(
            self,
            layers=tuple(layers if names is None else names),
            predicted=self.predicted[places],
            training_errors=errors[:, places] if len(errors) else errors,
        )

    def target_tensor(self) -> Tensor:
        """Targets as `score_rows` expects them."""
        targets = torch.from_numpy(self.targets)
        return targets.long() if self.kind == "classification" else targets.float()
