"""Every layer of one backbone against every layer of another, as pictures: value → figure; nothing is computed."""

from __future__ import annotations

import math
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
    readable_name,
    value_range,
)
from probes.values import LayerByLayer

_PANELS_A_ROW = 4
_CHARACTER = 0.08  # inches, of names
_LINE = 0.15  # inches, of names
_NARROWEST = 1.4  # inches a side of a panel


def layer_by_layer_heatmap(matrix: LayerByLayer) -> Figure:
    """Draw one matrix; see `layer_by_layer_heatmaps`."""
    return layer_by_layer_heatmaps([matrix])


def layer_by_layer_heatmaps(matrices: Sequence[LayerByLayer]) -> Figure:
    """Draw one panel a task, all with the same colours: rows are `x_layers`, layer 0 at the bottom.

    Signed quantities (`is_signed`) take a diverging map with white at 0, others a perceptually uniform one. A thin line
    joins equal layers, or equal relative depths where the two backbones have different layers. Cells without a value
    are hatched grey.

    Args:
        matrices: One a task; all of one quantity, reading, pair of backbones and list of layers.

    Raises:
        ValueError: There are no matrices or no cells, or the matrices differ in more than task, values and n.
    """
    _check(matrices)
    first = matrices[0]
    rows, columns = _grid(len(matrices))
    wide, tall = _panel_size(first, alone=len(matrices) == 1)
    named_rows = 1 if len(matrices) == rows * columns else 2  # where a column ends early, its layers are named there
    names = named_rows * (0.2 + _LINE * len(_backbone(first.y_name, wide).splitlines()))
    size = max(4.2, 1.9 + (wide + 0.25) * columns), 0.9 + (tall + 0.5) * rows + names
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for spare in panels[len(matrices) :]:
        spare.remove()
    panels = panels[: len(matrices)]
    values = np.concatenate([matrix.values.ravel() for matrix in matrices])
    limits = value_range(values, signed=is_signed(first.quantity))
    images = [draw_cells(panel, matrix, limits) for panel, matrix in zip(panels, matrices, strict=True)]
    for panel, matrix in zip(panels, matrices, strict=True):
        panel.set_title(_title(matrix, wide), fontsize=8.5, pad=4)
    _name_layers(panels, first, columns, (wide, tall))
    figure.suptitle(f"{first.quantity}  ·  {first.reading}", fontsize=11)
    add_colour_bar(figure, images[0], panels, first)
    handles = [_draw_diagonals(panels, first), *_mark_missing(panels, matrices)]
    figure.legend(handles=handles, loc="outside lower left", ncols=2, fontsize=8, frameon=False)
    return figure


def _check(matrices: Sequence[LayerByLayer]) -> None:
    if not matrices or any(matrix.values.size == 0 for matrix in matrices):
        empty = [f"task '{matrix.task}'" for matrix in matrices if matrix.values.size == 0]
        raise ValueError(
            f"Layer-by-layer heatmaps expect matrices with cells; got none for {', '.join(empty) or 'any'}."
        )
    for name in ("quantity", "unit", "reading", "x_name", "y_name", "x_layers", "y_layers"):
        found = list(dict.fromkeys(str(getattr(matrix, name)) for matrix in matrices))
        if len(found) > 1:
            raise ValueError(
                f"Panels share colours and axes, so matrices expect the same `{name}`; got {' and '.join(found[:2])}. "
                "Draw them in figures of their own."
            )


def _grid(panels: int) -> tuple[int, int]:
    columns = min(_PANELS_A_ROW, panels) if panels <= _PANELS_A_ROW else min(_PANELS_A_ROW, math.isqrt(panels - 1) + 1)
    return math.ceil(panels / columns), columns


def _panel_size(matrix: LayerByLayer, *, alone: bool) -> tuple[float, float]:
    """Width and height in inches; cells are square, unless a side would be too short to name."""
    height, width = matrix.values.shape
    cell = min(0.5, (4.6 if alone else 2.1) / max(height, width))
    return max(_NARROWEST, cell * width), max(_NARROWEST, cell * height)


def _name_layers(panels: Sequence[Axes], matrix: LayerByLayer, columns: int, size: tuple[float, float]) -> None:
    """Name backbone and layers under the lowest panel of each column and left of the first of each row."""
    wide, tall = size
    for axis, layers, inches in ((panels[0].xaxis, matrix.y_layers, wide), (panels[0].yaxis, matrix.x_layers, tall)):
        places = layer_ticks(layers, at_most=max(2, int(inches / 0.22)))
        axis.set_ticks(places, [str(layers[place]) for place in places])
    for panel in panels:
        panel.tick_params(labelsize=7.5)
    for panel in panels[max(0, len(panels) - columns) :]:
        panel.tick_params(labelbottom=True)
        panel.set_xlabel(_backbone(matrix.y_name, wide), fontsize=8.5)
    for panel in panels[::columns]:
        panel.set_ylabel(_backbone(matrix.x_name, tall), fontsize=8.5)


def _title(matrix: LayerByLayer, inches: float) -> str:
    """Task and number of examples, on one line where they fit."""
    width, count = int(inches / _CHARACTER), f"(n = {matrix.n:,})"
    task = readable_name(matrix.task, width)
    return f"{task}  {count}" if len(task.splitlines()[-1]) + 2 + len(count) <= width else f"{task}\n{count}"


def _backbone(name: str, inches: float) -> str:
    return readable_name(f"layer of {name}", int(inches / _CHARACTER), lines=4)


def _mark_missing(panels: Sequence[Axes], matrices: Sequence[LayerByLayer]) -> list[Patch]:
    pairs = zip(panels, matrices, strict=True)
    count = sum(len(hatch_missing(panel, matrix.values)) for panel, matrix in pairs)
    return [missing_entry(f"{count} {'cell' if count == 1 else 'cells'} without a value")] if count else []


def _draw_diagonals(panels: Sequence[Axes], matrix: LayerByLayer) -> Line2D:
    """A white line in a black one, which shows on every colour."""
    height, width = matrix.values.shape
    for panel in panels:
        for colour, thickness in (("black", 1.3), ("white", 0.6)):
            ends = [-0.5, width - 0.5], [-0.5, height - 0.5]
            panel.plot(*ends, color=colour, linewidth=thickness, alpha=0.8, gid="diagonal", zorder=3)
    label = "same layer" if matrix.x_layers == matrix.y_layers else "same relative depth"
    return Line2D([], [], color="black", linewidth=1, label=label)
