"""Every layer of one backbone against every layer of another, as heatmaps: one panel per task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from probes.report.figures.axes import (
    add_colour_bar,
    draw_cells,
    hatch_missing,
    is_signed,
    layer_ticks,
    missing_entry,
    panel_grid,
    readable_name,
    value_range,
)
from probes.values import LayerByLayer

_CHARACTER = 0.08  # inches, width of a character in names
_LINE = 0.15  # inches, height of a line of a name
_SMALLEST = 1.4  # inches, side of a panel


def layer_by_layer_heatmaps(matrices: Sequence[LayerByLayer]) -> Figure:
    """Draw one panel per task, all with the same colour scale: rows are `x_layers`, layer 0 at the bottom.

    Signed quantities (`is_signed`) use a diverging map with white at 0, others a sequential one. A thin line joins
    equal layers, or equal relative depths if the two backbones have different layers. Cells without a value are
    hatched in grey.

    Args:
        matrices: One per task; all of one quantity, reading, pair of backbones and list of layers.

    Raises:
        ValueError: There are no matrices or no cells, or the matrices differ in more than task, values and n.
    """
    _check(matrices)
    first = matrices[0]
    rows, columns = panel_grid(len(matrices), columns=4)
    width, height = _panel_size(first, alone=len(matrices) == 1)
    labelled_rows = 1 if len(matrices) == rows * columns else 2  # a short column has its labels one row higher
    labels = labelled_rows * (0.2 + _LINE * len(_axis_label(first.y_name, width).splitlines()))
    size = max(4.2, 1.9 + (width + 0.25) * columns), 0.9 + (height + 0.5) * rows + labels
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for unused in panels[len(matrices) :]:
        unused.remove()
    panels = panels[: len(matrices)]
    values = np.concatenate([matrix.values.ravel() for matrix in matrices])
    limits = value_range(values, signed=is_signed(first.quantity))
    images = [draw_cells(panel, matrix, limits) for panel, matrix in zip(panels, matrices, strict=True)]
    for panel, matrix in zip(panels, matrices, strict=True):
        panel.set_title(_title(matrix, width), fontsize=8.5, pad=4)
    _label_layers(panels, first, columns, (width, height))
    figure.suptitle(f"{first.quantity}  ·  {first.reading}", fontsize=11)
    add_colour_bar(figure, images[0], panels, first)
    handles = [_draw_diagonals(panels, first), *_mark_missing(panels, matrices)]
    figure.legend(handles=handles, loc="outside lower left", ncols=2, fontsize=8, frameon=False)
    return figure


def _check(matrices: Sequence[LayerByLayer]) -> None:
    if not matrices or any(matrix.values.size == 0 for matrix in matrices):
        empty = [f"task '{matrix.task}'" for matrix in matrices if matrix.values.size == 0]
        raise ValueError(
            f"Layer-by-layer heatmaps expect matrices with cells; got none for {', '.join(empty) or 'any task'}."
        )
    for name in ("quantity", "unit", "reading", "x_name", "y_name", "x_layers", "y_layers"):
        found = list(dict.fromkeys(str(getattr(matrix, name)) for matrix in matrices))
        if len(found) > 1:
            raise ValueError(
                f"Panels share colours and axes, so all matrices must have the same `{name}`; got "
                f"{' and '.join(found[:2])}. Draw them in separate figures."
            )


def _panel_size(matrix: LayerByLayer, *, alone: bool) -> tuple[float, float]:
    """Width and height in inches; cells are square, unless a side would be too short for its labels."""
    rows, columns = matrix.values.shape
    cell = min(0.5, (4.6 if alone else 2.1) / max(rows, columns))
    return max(_SMALLEST, cell * columns), max(_SMALLEST, cell * rows)


def _label_layers(panels: Sequence[Axes], matrix: LayerByLayer, columns: int, size: tuple[float, float]) -> None:
    """Label backbone and layers below the lowest panel of each column and to the left of the first of each row."""
    width, height = size
    x_axis, y_axis = panels[0].xaxis, panels[0].yaxis  # all panels share them
    for axis, layers, inches in ((x_axis, matrix.y_layers, width), (y_axis, matrix.x_layers, height)):
        positions = layer_ticks(layers, at_most=max(2, int(inches / 0.22)))
        axis.set_ticks(positions, [str(layers[position]) for position in positions])
    for panel in panels:
        panel.tick_params(labelsize=7.5)
    for panel in panels[max(0, len(panels) - columns) :]:
        panel.tick_params(labelbottom=True)
        panel.set_xlabel(_axis_label(matrix.y_name, width), fontsize=8.5)
    for panel in panels[::columns]:
        panel.set_ylabel(_axis_label(matrix.x_name, height), fontsize=8.5)


def _title(matrix: LayerByLayer, inches: float) -> str:
    """Task and number of examples, on one line if they fit."""
    width, count = int(inches / _CHARACTER), f"(n = {matrix.n:,})"
    task = readable_name(matrix.task, width)
    return f"{task}  {count}" if len(task.splitlines()[-1]) + 2 + len(count) <= width else f"{task}\n{count}"


def _axis_label(backbone: str, inches: float) -> str:
    return readable_name(f"layer of {backbone}", int(inches / _CHARACTER), lines=4)


def _mark_missing(panels: Sequence[Axes], matrices: Sequence[LayerByLayer]) -> list[Patch]:
    """Hatch the cells without a value, and return a legend entry with their number over all panels."""
    pairs = zip(panels, matrices, strict=True)
    count = sum(len(hatch_missing(panel, matrix.values)) for panel, matrix in pairs)
    return [missing_entry(f"{count} {'cell' if count == 1 else 'cells'} without a value")] if count else []


def _draw_diagonals(panels: Sequence[Axes], matrix: LayerByLayer) -> Line2D:
    """Join opposite corners with a white line inside a black one, which shows on every colour; return its entry."""
    height, width = matrix.values.shape
    for panel in panels:
        for colour, thickness in (("black", 1.3), ("white", 0.6)):
            corners = [-0.5, width - 0.5], [-0.5, height - 0.5]
            panel.plot(*corners, color=colour, linewidth=thickness, alpha=0.8, gid="diagonal", zorder=3)
    label = "same layer" if matrix.x_layers == matrix.y_layers else "same relative depth"
    return Line2D([], [], color="black", linewidth=1, label=label)
