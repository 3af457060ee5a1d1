"""The activations and targets of one task, checked before anything is trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from probes.metrics import RowGroups, TargetKind
from probes.token_values import TokenActivations
from probes.training.ragged import RaggedRows, RowValues
from probes.training.streamed_rows import StreamedRows
from probes.values import SPLITS, Activations, Layer, Reading


class LabelledActivations(NamedTuple):
    """Activations `(layers, rows, features)`, or of the tokens of each row, and the targets of the rows.

    Targets are class indices `(rows,)`, 0/1 entries `(rows, labels)`, or real numbers `(rows,)`.
    """

    activations: Activations | TokenActivations
    targets: Tensor

    @property
    def values(self) -> RowValues:
        """The activations as probes are trained on them."""
        if isinstance(self.activations, TokenActivations):
            return RaggedRows(self.activations.values, self.activations.lengths)
        return self.activations.values


@dataclass(frozen=True)
class TaskData:
    """One task at one reading.

    Targets are stored as int64 class indices for classification, else as float32.

    Attributes:
        task: Name of the task.
        kind: `classification`, `multilabel` or `regression`.
        labels: Names of the classes or labels; empty for regression.
        train: Activations and targets of the training rows.
        validation: The same; without rows, all choices are made by cross-validation.
        test: The same.
        ordered: Whether the labels of a classification are in order, so that Spearman's correlation is reported too.
        sentences: Split → number of each row's sentence, int64 `(rows,)`, where rows are words: those of a sentence are
            not independent, so that sentences are resampled, permuted and held out as a whole. `None`: rows are
            independent.
        word_types: Split → the word of each row as it is written, where rows are words: the controls give a word the
            same random label wherever it occurs. `None`: the controls' labels are shuffled.
        groups: `train` and `validation` → number of each row's group, int64 `(rows,)`, equal in both for equal groups:
            rows of one text, or one value of `suite.group`, which folds and halves of the rows do not divide. `None`:
            no two rows are of one group.
        group_values: Split → number of each row's value of `suite.group`, int64 `(rows,)`, where rows of a split share
            one; scores resample and permute these as wholes. `None`: test rows are independent.

    Raises:
        ValueError: The kind has no probes; splits differ in layers, reading or width; a target is out of range; a class
            has no training rows, or every training row; a split is empty; an activation is NaN or infinite.
    """

    task: str
    kind: TargetKind
    labels: tuple[str, ...]
    train: LabelledActivations
    validation: LabelledActivations
    test: LabelledActivations
    ordered: bool = False
    sentences: Mapping[str, Tensor] | None = None
    word_types: Mapping[str, tuple[str, ...]] | None = None
    groups: Mapping[str, Tensor] | None = None
    group_values: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        kinds = get_args(TargetKind)
        if self.kind not in kinds:
            raise ValueError(
                f"Task '{self.task}' is of kind '{self.kind}', which has no probes. Kinds with probes are "
                f"{', '.join(kinds)}."
            )
        for split in SPLITS:
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
    def depth(self) -> int | None:
        """Number of blocks of the stack; `None` where it is unknown."""
        return getattr(self.train.activations, "depth", None)  # vectors of all tokens do not say

    @property
    def reading(self) -> Reading:
        """Stack, site and pooling."""
        return self.train.activations.reading

    @property
    def in_features(self) -> int:
        """Width of one layer's activations."""
        return self.train.activations.values.shape[-1]

    @property
    def streamed(self) -> bool:
        """Whether the training rows stay on disk."""
        return isinstance(self.train.values, StreamedRows)

    @property
    def of_tokens(self) -> bool:
        """Whether a row has a vector for each of its tokens."""
        return isinstance(self.train.activations, TokenActivations)

    @property
    def num_classes(self) -> int:
        """Width of the logits: number of classes or labels, or 1 for regression."""
        return 1 if self.kind == "regression" else len(self.labels)

    def groups_of(self, *splits: str) -> Tensor | None:
        """Number of the group of each row of some splits, one after the other; `None` without groups, and of test."""
        if self.groups is None or "test" in splits:
            return None
        return torch.cat([self.groups[split] for split in splits])

    def row_groups(self, *splits: str) -> RowGroups | None:
        """What the rows of some splits, one after the other, are resampled with; `None` where they are independent."""
        name, numbers = ("sentences", self.sentences) if self.sentences is not None else ("groups", self.group_values)
        if numbers is None:
            return None
        parts: list[Tensor] = []
        for split in splits:
            before = 1 + max((int(part.max()) for part in parts if len(part)), default=-1)
            parts.append(numbers[split] + before)
        found = RowGroups(torch.cat(parts), name)
        return None if name == "groups" and found.count == len(found.number) else found

    def independent_rows(self, split: str, *, seed: int = 0) -> tuple[Activations, Tensor]:
        """Rows of one vector that are independent of each other, and their targets: all rows, or a word a sentence.

        Args:
            split: Name of the split.
            seed: Decides which word of each sentence.
        """
        activations, targets = getattr(self, split)
        if self.sentences is None:
            return activations, targets
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(targets), generator=generator)
        _, first = np.unique(self.sentences[split][order].numpy(), return_index=True)
        rows = order[torch.from_numpy(first)]
        some = replace(
            activations,
            values=activations.values[:, rows],
            row_ids=tuple(activations.row_ids[row] for row in rows.tolist()),
        )
        return some, targets[rows]

    def _check_shape(self, split: str) -> None:
        activations, targets = getattr(self, split)
        here = (activations.layers, activations.reading, activations.values.shape[-1])
        expected = (self.layers, self.reading, self.in_features)
        if here != expected:
            raise ValueError(
                f"Task '{self.task}': layers, reading and width of {split} differ from train: {here} is not {expected}."
            )
        rows = len(activations.row_ids)
        shape = (rows, len(self.labels)) if self.kind == "multilabel" else (rows,)
        if tuple(targets.shape) != shape:
            raise ValueError(
                f"Task '{self.task}': {split} expects targets of shape {shape}; got {tuple(targets.shape)}."
            )
        if rows == 0 and split != "validation":
            raise ValueError(f"Task '{self.task}' has no {split} rows; a probe expects both train and test rows.")

    def _check_targets(self, split: str) -> None:
        targets = getattr(self, split).targets
        if self.kind == "regression":
            in_range = targets.isfinite()
        elif self.kind == "multilabel":
            in_range = ((targets == 0) | (targets == 1)).all(1)
        else:
            in_range = (targets >= 0) & (targets < len(self.labels))
        if not in_range.all():
            row = int((~in_range).nonzero()[0])
            raise ValueError(
                f"Task '{self.task}': target {targets[row].tolist()} of {split} row "
                f"'{getattr(self, split).activations.row_ids[row]}' is out of range for {self._target_range()}."
            )

    def _target_range(self) -> str:
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
        shares = targets.mean(0) if self.kind == "multilabel" else _class_shares(targets, len(self.labels))
        absent = [name for name, share in zip(self.labels, shares.tolist(), strict=True) if share == 0]
        constant = [name for name, share in zip(self.labels, shares.tolist(), strict=True) if share == 1]
        if absent or constant:
            what = f"no training row of {_quoted(absent)}" if absent else f"only training rows of {_quoted(constant)}"
            raise ValueError(
                f"Task '{self.task}' has {what}; its labels are {_quoted(self.labels)}. Drop or regroup labels."
            )

    def _check_finite(self, split: str) -> None:
        activations = getattr(self, split).activations
        if isinstance(activations.values, StreamedRows):
            return  # the extraction refused them, and the pass over the rows does
        for layer, values in zip(activations.layers, activations.values, strict=True):
            if values.numel() == 0 or values.sum().isfinite():  # a sum needs no mask of the size of the layer
                continue
            bad = (~values.isfinite().all(1)).nonzero()[:, 0].tolist()
            if isinstance(activations, TokenActivations):
                bad = activations.text_of_token[bad].unique().tolist()
            if bad:  # none if finite values overflowed in the sum
                ids = ", ".join(activations.row_ids[row] for row in bad[:5]) + (", …" if len(bad) > 5 else "")
                raise ValueError(
                    f"Task '{self.task}': activations at layer {layer} are NaN or infinite in {len(bad)} {split} "
                    f"rows ({ids}). Try `backbone.dtype=float32`, or omit the layer from `backbone.layers`."
                )


def _class_shares(targets: Tensor, classes: int) -> Tensor:
    """Share of the rows that belong to each class, shape `(classes,)`."""
    return torch.bincount(targets, minlength=classes) / len(targets)


def _quoted(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)
