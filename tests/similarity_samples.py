"""Small layer × layer matrices, curves over layers and maps to draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from probes.report.figures.band_profiles import Curve
from probes.report.figures.task_maps import TaskMap
from probes.values import Layer, LayerByLayer, Reading

LAST = Reading("decoder", "residual", "last")


def a_layer_by_layer(
    task: str = "sst2",
    *,
    quantity: str = "cka",
    x_layers: Sequence[Layer] = (0, 1, 2, "final"),
    y_layers: Sequence[Layer] | None = None,
    values: np.ndarray | None = None,
    names: tuple[str, str] = ("control", "experimental"),
) -> LayerByLayer:
    """Values that fall off with the distance in relative depth, of 400 examples."""
    y_layers = x_layers if y_layers is None else y_layers
    if values is None:
        x, y = (np.linspace(0, 1, len(layers)) for layers in (x_layers, y_layers))
        values = np.exp(-3 * np.abs(x[:, None] - y[None, :]))
    return LayerByLayer(
        quantity=quantity,
        unit="",
        task=task,
        x_name=names[0],
        y_name=names[1],
        x_layers=tuple(x_layers),
        y_layers=tuple(y_layers),
        values=values,
        reading=LAST,
        n=400,
    )


def a_curve(
    name: str = "sst2", *, layers: Sequence[Layer] = (0, 1, 2, 3), values: np.ndarray | None = None, seed: int = 0
) -> Curve:
    """Values that wander upwards, with intervals of 0.05 to both sides."""
    if values is None:
        values = np.cumsum(np.random.default_rng(seed).normal(0.02, 0.04, len(layers)))
    return Curve(name, tuple(layers), values, values - 0.05, values + 0.05)


def a_map(
    layer: Layer = 3, *, tasks: Sequence[str] = ("sst2", "trec"), rows: int = 12, silhouette: float = 0.25
) -> TaskMap:
    """A cloud of `rows` points a task."""
    rng = np.random.default_rng(len(tasks))
    centres = np.repeat(rng.normal(scale=8, size=(len(tasks), 2)), rows, axis=0)
    names = tuple(task for task in tasks for _ in range(rows))
    return TaskMap(layer, centres + rng.normal(size=centres.shape), names, silhouette)
