"""The activations and targets of one task, checked before anything is trained on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from probes.metrics import TargetKind
from probes.values import Activations, Layer, Reading

KINDS = ("classification", "multilabel", "regression")


class LabelledActivations(NamedTuple):
    """Activations `(layers, rows, features)` and their rows' targets.

    Targets are int64 class indices `(rows,)`, 0/1 entries `(rows, labels)`, or real numbers `(rows,)`.
    """

    activations: Activations
    targets: Tensor


@dataclass(frozen=True)
class TaskData:
    """One task at one reading.

    Attributes:
        task: Its name.
        kind: `classification`, `multilabel` or `regression`.
        labels: Names of the classes or labels; empty for regression.
        train: A pair of activations and targets.
        validation: The same; may hold no rows, then everything is chosen by cross-validation.
        test: The same.

    Raises:
        ValueError: Splits differ in layers, reading or width; a target is out of range; a class has no training rows; a
            split is empty; an activation is NaN or infinite.
    """

    task: str
    kind: TargetKind
    labels: tuple[str, ...]
    train: LabelledActivations
    validation: LabelledActivations
    test: LabelledActivations

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"Task '{self.task}' is of kind '{self.kind}', which has no probes. Kinds: {', '.join(KINDS)}."
            )
        for split in ("train", "validation", "test"):
            activations, targets = getattr(self, split)
            dtype = torch.long if self.kind == "classification" else torch.float32
            object.__setattr__(self, split, LabelledActivations(activations, torch.as_tensor(targets).to(dtype)))
            self._check_shape(split)
            self._check_targets(split)
            self._check_finite(split)
        self._check_train_labels()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Names of the layers."""
        return self.train.activations.layers

    @property
    def reading(self) -> Reading:
        """Stack, site and pooling."""
        return self.train.activations.reading

    @property
    def in_features(self) -> int:
        """Width of one layer's activations."""
        return self.train.activations.values.shape[-1]

    @property
    def num_classes(self) -> int:
        """Width of the logits: classes, labels, or 1 for regression."""
        return 1 if self.kind == "regression" else len(self.labels)

    def _check_shape(self, split: str) -> None:
        activations, targets = getattr(self, split)
        same = (activations.layers, activations.reading, activations.values.shape[-1])
        if same != (self.layers, self.reading, self.in_features):
            raise ValueError(
                f"Task '{self.task}': layers, reading and width of {split} differ from train: {same} is not "
                f"{(self.layers, self.reading, self.in_features)}."
            )
        rows = len(activations.row_ids)
        wanted = (rows, len(self.labels)) if self.kind == "multilabel" else (rows,)
        if tuple(targets.shape) != wanted:
            raise ValueError(
                f"Task '{self.task}': {split} expects targets of shape {wanted}; got {tuple(targets.shape)}."
            )
        if rows == 0 and split != "validation":
            raise ValueError(f"Task '{self.task}' has no {split} rows; a probe expects both train and test rows.")

    def _check_targets(self, split: str) -> None:
        targets = getattr(self, split).targets
        if self.kind == "regression":
            right = targets.isfinite()
        elif self.kind == "multilabel":
            right = ((targets == 0) | (targets == 1)).all(1)
        else:
            right = (targets >= 0) & (targets < len(self.labels))
        if not right.all():
            row = int((~right).nonzero()[0])
            raise ValueError(
                f"Task '{self.task}': target {targets[row].tolist()} of {split} row "
                f"'{getattr(self, split).activations.row_ids[row]}' is out of range for {self._range()}."
            )

    def _range(self) -> str:
        if self.kind == "classification":
            return f"the labels {', '.join(f'{i} ({name})' for i, name in enumerate(self.labels))}"
        return "finite numbers" if self.kind == "regression" else f"0/1 entries of the labels {', '.join(self.labels)}"

    def _check_train_labels(self) -> None:
        targets = self.train.targets
        if self.kind == "regression":
            if (targets == targets[0]).all():
                raise ValueError(
                    f"Task '{self.task}': all training targets are {targets[0].item()}; nothing to predict."
                )
            return
        if self.kind == "classification" and len(self.labels) < 2:
            raise ValueError(f"Task '{self.task}' has {len(self.labels)} class; a probe expects at least 2.")
        share = targets.mean(0) if self.kind == "multilabel" else _frequencies(targets, len(self.labels))
        absent = [name for name, s in zip(self.labels, share.tolist(), strict=True) if s == 0]
        always = [name for name, s in zip(self.labels, share.tolist(), strict=True) if s == 1]
        if absent or always:
            what = f"no training row of {_quoted(absent)}" if absent else f"only training rows of {_quoted(always)}"
            raise ValueError(
                f"Task '{self.task}' has {what}; its labels are {_quoted(self.labels)}. Drop or regroup labels."
            )

    def _check_finite(self, split: str) -> None:
        activations = getattr(self, split).activations
        for layer, values in zip(activations.layers, activations.values, strict=True):
            if values.numel() == 0 or values.sum().isfinite():
                continue
            bad = (~values.isfinite().all(1)).nonzero()[:, 0].tolist()
            if bad:
                ids = ", ".join(activations.row_ids[row] for row in bad[:5]) + (", …" if len(bad) > 5 else "")
                raise ValueError(
                    f"Task '{self.task}': activations at layer {layer} are NaN or infinite in {len(bad)} {split} "
                    f"rows ({ids}). Try `backbone.dtype=float32`, or leave the layer out of `backbone.layers`."
                )


def _frequencies(targets: Tensor, classes: int) -> Tensor:
    return torch.bincount(targets, minlength=classes) / len(targets)


def _quoted(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)
