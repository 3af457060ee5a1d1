"""Tasks whose label is planted in the activations of one layer, and the probes fitted to them."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from probes.architectures import MLPProbe
from probes.training import ProbeSettings, TaskData, TaskProbes, default_trainer, fit_task
from probes.values import Activations, Layer, Reading, Result

READING = Reading("decoder", "residual", "last")
PLANTED = 2
"""The layer whose activations hold the label; the other layers hold noise."""
FEATURES = 10

MLP = partial(MLPProbe, hidden_features=8, dropout=0.2)
MINIBATCH = ProbeSettings(
    name="mlp",
    architecture=MLP,
    penalties=(0.0,),
    learning_rate=0.02,
    batch_size=32,
    max_epochs=15,
    min_validation_rows=50,
    bootstrap_samples=100,
)
EXACT = ProbeSettings(bootstrap_samples=100, min_validation_rows=50, training_sets=0)


def planted_rows(
    rows: int, *, classes: int, seed: int, kind: str = "classification", planted: bool = True, noise: float = 0.3
) -> tuple[Activations, Tensor]:
    """Activations of four layers with their targets; without `planted`, no layer holds the label."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(4, rows, FEATURES, generator=generator) * 4 + 7
    hidden = torch.randn(rows, classes, generator=generator)
    if planted:
        values[PLANTED, :, :classes] = 4 * (hidden + noise * torch.randn(rows, classes, generator=generator)) + 7
    targets = {"classification": hidden.argmax(1), "multilabel": (hidden > 0).float(), "regression": 50 * hidden[:, 0]}
    ids = tuple(f"{seed}-{row}" for row in range(rows))
    return Activations(values, tuple(range(4)), ids, READING), targets[kind]


def planted_task(
    *,
    classes: int = 2,
    kind: str = "classification",
    rows: tuple[int, int, int] = (240, 100, 160),
    seed: int = 0,
    **options: bool | float,
) -> TaskData:
    """A task of rows `(train, validation, test)`; `options` are those of `planted_rows`."""
    splits = {
        split: planted_rows(count, classes=classes, seed=10 * seed + i, kind=kind, **options)
        for i, (split, count) in enumerate(zip(("train", "validation", "test"), rows, strict=True))
    }
    labels = () if kind == "regression" else tuple(f"label-{k}" for k in range(classes))
    return TaskData(task="planted", kind=kind, labels=labels, **splits)


def fit(data: TaskData, settings: ProbeSettings = EXACT, *, seed: int = 0) -> TaskProbes:
    return fit_task(data, settings, default_trainer, seed)


def result(
    fitted: TaskProbes, metric: str, layer: Layer = PLANTED, *, split: str = "test", control: str = ""
) -> Result:
    """The only result of a metric in one cell."""
    (found,) = [
        r for r in fitted.results if (r.metric, r.layer, r.split, r.control) == (metric, layer, split, control)
    ]  # fmt: skip
    return found


def state(fitted: TaskProbes) -> dict[str, Tensor]:
    """The tensors of the chosen probes and their standardiser."""
    return {**fitted.probes.bank.state_dict(), **fitted.probes.standardiser.state_dict()}
