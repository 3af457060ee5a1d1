"""Probes from plain tensors, without any configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.metrics import Kind
from probes.values import Activations, Layer, Reading

from .fit_task import fit_task
from .seeds import derive_seed
from .settings import ProbeSettings
from .splits import fold_of_rows
from .task_data import LabelledActivations, TaskData
from .task_probes import TaskProbes
from .train_bank import TrainerFactory
from .trainer import default_trainer

Array = Tensor | np.ndarray | Sequence[Any]


def fit_probes(
    x: Array,
    y: Array,
    *,
    layers: Sequence[Layer] | None = None,
    labels: Sequence[str] | None = None,
    x_validation: Array | None = None,
    y_validation: Array | None = None,
    x_test: Array | None = None,
    y_test: Array | None = None,
    seed: int = 0,
    trainer_factory: TrainerFactory = default_trainer,
    **settings: Any,
) -> TaskProbes:
    """Probe every layer for one task.

    Args:
        x: Activations, shape `(layers, rows, features)`, or `(rows, features)` for one layer.
        y: Whole numbers 0, 1, … `(rows,)` are classes, 0/1 entries `(rows, labels)` are labels, real numbers `(rows,)`
            a regression target.
        layers: Names of the layers; 0, 1, … by default.
        labels: Names of the classes or labels; their numbers by default.
        x_validation: Rows to choose by; without them, choices are cross-validated on `x`.
        y_validation: Their targets.
        x_test: Rows to report; without them, a fifth of the rows of `x` is held out, seeded and stratified.
        y_test: Their targets.
        seed: Decides every random choice; 0 is a seed like any other.
        trainer_factory: Makes the Lightning trainers; one quiet CPU process by default.
        **settings: Fields of `ProbeSettings`.

    Raises:
        ValueError: Shapes or targets do not fit together.

    Example:
        >>> x = torch.randn(2, 100, 4, generator=torch.Generator().manual_seed(0))
        >>> fit = fit_probes(x, (x[1, :, 0] > 0).long())
        >>> fit.validation_best_layer
        1
    """
    train, test = (_layers_first(x), _targets(y)), _pair(x_test, y_test, "test")
    kind = _kind(train[1])
    if test is None:
        train, test = _hold_out(kind, *train, seed=seed)
    validation = _pair(x_validation, y_validation, "validation")
    if validation is None:
        validation = train[0][:, :0], train[1][:0]
    names = tuple(range(len(train[0]))) if layers is None else tuple(layers)
    splits = {
        split: _labelled(split, values, targets, names)
        for split, (values, targets) in (("train", train), ("validation", validation), ("test", test))
    }
    data = TaskData(task="task", kind=kind, labels=_labels(kind, train[1], labels), **splits)
    return fit_task(data, ProbeSettings(**settings), trainer_factory, seed)


def _layers_first(x: Array) -> Tensor:
    values = torch.as_tensor(x, dtype=torch.float32)
    return values[None] if values.ndim == 2 else values


def _targets(y: Array) -> Tensor:
    targets = torch.as_tensor(y)
    return targets.float() if targets.is_floating_point() or targets.ndim == 2 else targets.long()


def _pair(x: Array | None, y: Array | None, split: str) -> tuple[Tensor, Tensor] | None:
    if (x is None) != (y is None):
        raise ValueError(f"`x_{split}` and `y_{split}` come together; got only one of them.")
    return None if x is None or y is None else (_layers_first(x), _targets(y))


def _kind(targets: Tensor) -> Kind:
    if targets.ndim == 2:
        return "multilabel"
    return "regression" if targets.is_floating_point() else "classification"


def _labels(kind: Kind, targets: Tensor, labels: Sequence[str] | None) -> tuple[str, ...]:
    if kind == "regression":
        return ()
    count = targets.shape[1] if kind == "multilabel" else int(targets.max()) + 1
    return tuple(map(str, range(count))) if labels is None else tuple(labels)


def _hold_out(kind: Kind, x: Tensor, y: Tensor, *, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    fold = fold_of_rows(kind, y, 5, seed=derive_seed(seed, "test"))
    return (x[:, fold != 0], y[fold != 0]), (x[:, fold == 0], y[fold == 0])


def _labelled(split: str, values: Tensor, targets: Tensor, layers: tuple[Layer, ...]) -> LabelledActivations:
    ids = tuple(f"{split}/{row}" for row in range(values.shape[1]))
    return LabelledActivations(Activations(values, layers, ids, Reading("", "", "")), targets)
