"""A layer × task matrix as curves over layers, one small panel per task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probes.report.figures.axes import OKABE_ITO, is_signed, layer_ticks, panel_grid, quantity_label, readable_name
from probes.values import BestLayers, LayerByTask

_VALUE_COLOUR, _BEST_COLOUR, _NULL_COLOUR = OKABE_ITO[0], OKABE_ITO[1], "#555555"


def profiles(matrix: LayerByTask, *, best_layers: Mapping[str, BestLayers] | None = None) -> Figure:
    """Draw each task's values over layers with their 95 % intervals and their null; all panels share both axes.

    The null is drawn as its mean and, where it has draws, the range that holds 95 % of them. Layers are evenly spaced
    in the order of `matrix.layers`; a gap is a cell without a value.

    Args:
        matrix: What to draw.
        best_layers: Each task's layers chosen on validation; the best layer is ringed, and a bar at the bottom of the
            panel lies under the layers that validation rows cannot tell from it.

    Raises:
        ValueError: The matrix has no cells.
    """
    if matrix.values.size == 0:
        raise ValueError(f"'{matrix.quantity}' has no cells to draw: layers {matrix.layers}, tasks {matrix.tasks}.")
    rows, columns = panel_grid(len(matrix.tasks), columns=5)
    size = (max(4.8, 0.8 + 2.1 * columns), 1.5 + 1.65 * rows)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for column, panel in enumerate(panels[: len(matrix.tasks)]):
        _draw_profile(panel, matrix, column)
        _mark_best(panel, matrix, column, best_layers or {})
    _label_lowest(panels, len(matrix.tasks), columns)
    _label(figure, panels[0], matrix)
    return figure


def _draw_profile(panel: Axes, matrix: LayerByTask, column: int) -> None:
    positions = np.arange(len(matrix.layers))
    low, high = matrix.ci_low[:, column], matrix.ci_high[:, column]
    null, null_low, null_high = matrix.null_mean[:, column], matrix.null_low[:, column], matrix.null_high[:, column]
    if is_signed(matrix.quantity):
        panel.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    interval = f"95 % interval over {matrix.interval_over}"
    panel.fill_between(positions, low, high, color=_VALUE_COLOUR, alpha=0.25, linewidth=0, label=interval)
    if np.isfinite(null_low).any():
        label = "95 % of values by chance"
        panel.fill_between(positions, null_low, null_high, color=_NULL_COLOUR, alpha=0.15, linewidth=0, label=label)
    panel.plot(positions, null, color=_NULL_COLOUR, linewidth=1, linestyle=(0, (3, 2)), label="mean by chance")
    values = matrix.values[:, column]
    panel.plot(positions, values, color=_VALUE_COLOUR, linewidth=1.3, marker="o", markersize=1.8, label="value")
    panel.set_title(readable_name(matrix.tasks[column], 30), fontsize=8.5, pad=4)


def _mark_best(panel: Axes, matrix: LayerByTask, column: int, best_layers: Mapping[str, BestLayers]) -> None:
    best = best_layers.get(matrix.tasks[column])
    if best is None or best.layer not in matrix.layers:
        return
    row = matrix.layers.index(best.layer)
    label = "best layer (chosen on validation)"
    ring: dict[str, Any] = {"marker": "o", "markersize": 6.5, "markerfacecolor": "none", "markeredgewidth": 1.4}
    panel.plot([row], [matrix.values[row, column]], color=_BEST_COLOUR, linestyle="none", label=label, zorder=3, **ring)
    possible = [position for position, layer in enumerate(matrix.layers) if layer in (best.layers or ())]
    if possible:
        label = "layers that validation rows cannot tell from it (95 %)"
        spans = [(position - 0.5, 1.0) for position in possible]
        bar: dict[str, Any] = {"facecolors": _BEST_COLOUR, "transform": panel.get_xaxis_transform(), "linewidth": 0}
        panel.broken_barh(spans, (0.0, 0.035), label=label, zorder=3, **bar)


def _label_lowest(panels: list[Axes], tasks: int, columns: int) -> None:
    """Label the layers under the lowest panel of each column, and remove the panels without a task."""
    for panel in panels[max(0, tasks - columns) : tasks]:
        panel.tick_params(labelbottom=True)
        panel.set_xlabel("layer", fontsize=8.5)
    for unused in panels[tasks:]:
        unused.remove()


def _label(figure: Figure, first: Axes, matrix: LayerByTask) -> None:
    positions = layer_ticks(matrix.layers, at_most=7)
    first.set_xticks(positions, [str(matrix.layers[position]) for position in positions])  # shared by all panels
    for panel in figure.axes:
        panel.tick_params(labelsize=7.5)
        panel.grid(alpha=0.25, linewidth=0.5)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{matrix.quantity}  ·  {matrix.reading}", fontsize=11)
    figure.supylabel(quantity_label(matrix).replace(" (", "\n("), fontsize=9)
    entries = {label: handle for panel in figure.axes for handle, label in _legend_entries(panel)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower left", ncols=2, fontsize=8, frameon=False)


def _legend_entries(panel: Axes) -> list[tuple[Any, str]]:
    handles, labels = panel.get_legend_handles_labels()
    return [(handle, str(label)) for handle, label in zip(handles, labels, strict=True)]
