"""A layer × task matrix as curves over layers, one small panel a task."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probes.report.figures.axes import is_signed, layer_ticks, quantity_label, readable_name
from probes.values import Layer, LayerByTask

_VALUE, _NULL, _BEST = "#0072b2", "#555555", "#d55e00"  # Okabe and Ito: told apart by colour-blind readers


def profiles(matrix: LayerByTask, *, best_layer: Mapping[str, Layer] | None = None) -> Figure:
    """Draw each task's values over layers with their 95 % intervals and null means; all panels share both axes.

    Layers stand at equal steps in the order of `matrix.layers`; a gap is a cell without a value.

    Args:
        matrix: What to draw.
        best_layer: Each task's layer chosen on validation; it is ringed.

    Raises:
        ValueError: The matrix has no cells.
    """
    if matrix.values.size == 0:
        raise ValueError(f"'{matrix.quantity}' has no cells to draw: layers {matrix.layers}, tasks {matrix.tasks}.")
    rows, columns = _grid(len(matrix.tasks))
    size = (max(4.8, 0.8 + 2.1 * columns), 1.5 + 1.65 * rows)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for column, panel in enumerate(panels[: len(matrix.tasks)]):
        _draw_profile(panel, matrix, column)
        _ring_best(panel, matrix, column, best_layer or {})
    _name_layers(panels, len(matrix.tasks), columns)
    _label(figure, panels[0], matrix)
    return figure


def _grid(tasks: int) -> tuple[int, int]:
    """Rows and columns of panels; at most 5 a row."""
    columns = min(5, tasks) if tasks <= 5 else min(5, math.ceil(math.sqrt(tasks)))
    return math.ceil(tasks / columns), columns


def _draw_profile(panel: Axes, matrix: LayerByTask, column: int) -> None:
    places = np.arange(len(matrix.layers))
    low, high, null = matrix.ci_low[:, column], matrix.ci_high[:, column], matrix.null_mean[:, column]
    if is_signed(matrix.quantity):
        panel.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    panel.fill_between(places, low, high, color=_VALUE, alpha=0.25, linewidth=0, label="95 % interval")
    panel.plot(places, null, color=_NULL, linewidth=1, linestyle=(0, (3, 2)), label="null mean")
    values = matrix.values[:, column]
    panel.plot(places, values, color=_VALUE, linewidth=1.3, marker="o", markersize=1.8, label="value")
    panel.set_title(readable_name(matrix.tasks[column], 30), fontsize=8.5, pad=4)


def _ring_best(panel: Axes, matrix: LayerByTask, column: int, best_layer: Mapping[str, Layer]) -> None:
    layer = best_layer.get(matrix.tasks[column])
    if layer is None or layer not in matrix.layers:
        return
    place = matrix.layers.index(layer)
    label = "best layer (chosen on validation)"
    ring = {"marker": "o", "markersize": 6.5, "markerfacecolor": "none", "markeredgewidth": 1.4, "linestyle": "none"}
    panel.plot([place], [matrix.values[place, column]], color=_BEST, label=label, zorder=3, **ring)


def _name_layers(panels: list[Axes], tasks: int, columns: int) -> None:
    """Name the layers under the lowest panel of each column; take the panels without a task out."""
    for panel in panels[max(0, tasks - columns) : tasks]:
        panel.tick_params(labelbottom=True)
        panel.set_xlabel("layer", fontsize=8.5)
    for spare in panels[tasks:]:
        spare.remove()


def _label(figure: Figure, first: Axes, matrix: LayerByTask) -> None:
    places = layer_ticks(matrix.layers, at_most=7)
    first.set_xticks(places, [str(matrix.layers[place]) for place in places])
    for panel in figure.axes:
        panel.tick_params(labelsize=7.5)
        panel.grid(alpha=0.25, linewidth=0.5)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{matrix.quantity}  ·  {matrix.reading}", fontsize=11)
    figure.supylabel(quantity_label(matrix).replace(" (", "\n("), fontsize=9)
    handles = {label: handle for panel in figure.axes for handle, label in zip(*_entries(panel), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=2, fontsize=8, frameon=False)


def _entries(panel: Axes) -> tuple[list, list[str]]:
    handles, labels = panel.get_legend_handles_labels()
    return handles, [str(label) for label in labels]
