"""A layer × task matrix as a picture: value → figure; nothing is computed but colours and places."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from probes.report.figures.axes import (
    add_colour_bar,
    draw_cells,
    hatch_missing,
    is_signed,
    layer_ticks,
    missing_entry,
    part_cells,
    readable_name,
    value_range,
)
from probes.values import Layer, LayerByTask

CELL_TEXTS_UP_TO = 60  # cells; beyond, numbers would be too small to read
LEVEL = 0.05  # of a cell's p
_REASONS_SHOWN = 3


def heatmap(matrix: LayerByTask, *, best_layer: Mapping[str, Layer] | None = None) -> Figure:
    """Draw a matrix with layer 0 at the bottom and one column a task.

    Scores use a perceptually uniform map; signed quantities (`is_signed`) a diverging one with white at 0. Both are
    safe for colour-blind readers. Cells without a value are hatched grey, their reasons in the legend. A dot marks
    cells that pass their null (`passing_cells`). At most `CELL_TEXTS_UP_TO` cells show their numbers.

    Args:
        matrix: What to draw.
        best_layer: Each task's layer chosen on validation; its cell is framed.

    Raises:
        ValueError: The matrix has no cells.
    """
    if matrix.values.size == 0:
        raise ValueError(f"'{matrix.quantity}' has no cells to draw: layers {matrix.layers}, tasks {matrix.tasks}.")
    texts = matrix.values.size <= CELL_TEXTS_UP_TO
    figure = Figure(figsize=_heatmap_size(matrix, texts=texts), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    image = draw_cells(axes, matrix, value_range(matrix.values, signed=is_signed(matrix.quantity)))
    part_cells(axes, matrix.values.shape)
    _label_axes(axes, matrix)
    add_colour_bar(figure, image, [axes], matrix)
    handles = [
        *_mark_best(axes, matrix, best_layer or {}),
        *_mark_passing(axes, matrix, image, corner=texts),
        *_mark_missing(figure, axes, matrix),
    ]
    if texts:
        _write_values(axes, matrix, image)
    if handles:
        _legend_below(figure, handles)
    return figure


def _heatmap_size(matrix: LayerByTask, *, texts: bool) -> tuple[float, float]:
    """Inches: cells of readable size, and room for labels, colour bar and legend."""
    layers, tasks = matrix.values.shape
    width, height = (0.72, 0.42) if texts else (0.44, 0.21)
    longest = max(map(len, matrix.tasks))
    return max(4.8, 2.2 + width * tasks), max(3.2, 1.7 + height * layers + 0.05 * longest)


def _label_axes(axes: Axes, matrix: LayerByTask) -> None:
    axes.set_xticks(range(len(matrix.tasks)), [readable_name(task, 18) for task in matrix.tasks])
    axes.tick_params(axis="x", labelrotation=45, labelsize=9)
    for label in axes.get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")
    places = layer_ticks(matrix.layers, at_most=20)
    axes.set_yticks(places, [str(matrix.layers[place]) for place in places])
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylabel("layer (0 = input of the first block)")
    axes.set_title(f"{matrix.quantity}  ·  {matrix.reading}", fontsize=11, loc="left")


def _mark_best(axes: Axes, matrix: LayerByTask, best_layer: Mapping[str, Layer]) -> list[Patch]:
    drawn = False
    for column, task in enumerate(matrix.tasks):
        if task not in best_layer or best_layer[task] not in matrix.layers:
            continue
        row = matrix.layers.index(best_layer[task])
        for colour, width in (("black", 3.2), ("white", 1.2)):  # a white line in a black one shows on every colour
            frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=colour, linewidth=width, zorder=4)
            frame.set(gid="best", clip_on=False)
            axes.add_patch(frame)
        drawn = True
    return [Patch(fill=False, edgecolor="black", linewidth=1.4, label="best layer (chosen on validation)")] * drawn


def passing_cells(matrix: LayerByTask) -> np.ndarray:
    """Whether each cell passes its null; bool, `(layers, tasks)`; false where nothing is known.

    A cell with a p passes below 0.05, any other where its 95 % interval excludes its null mean.
    """
    excludes = (matrix.ci_low > matrix.null_mean) | (matrix.ci_high < matrix.null_mean)
    return np.where(np.isnan(matrix.p), excludes, matrix.p < LEVEL)


def _mark_passing(axes: Axes, matrix: LayerByTask, image: AxesImage, *, corner: bool) -> list[Line2D]:
    rows, columns = np.nonzero(passing_cells(matrix) & np.isfinite(matrix.values))
    if len(rows) == 0:
        return []
    colours = [_ink(image, matrix.values[cell]) for cell in zip(rows, columns, strict=True)]
    shift = 0.36 if corner else 0.0  # out of the number's way
    axes.scatter(columns + shift, rows + shift * 0.8, s=5, c=colours, linewidths=0, zorder=5, gid="passing")
    tested = np.isfinite(matrix.p).any()
    label = f"p < {LEVEL} under the null" if tested else "95 % interval excludes the null mean"
    return [Line2D([], [], linestyle="none", marker="o", markersize=3.2, color="black", label=label)]


def _mark_missing(figure: Figure, axes: Axes, matrix: LayerByTask) -> list[Patch]:
    reasons: dict[str, int] = {}
    for row, column in hatch_missing(axes, matrix.values):
        reason = matrix.notes.get((matrix.layers[row], matrix.tasks[column])) or "no value"
        reasons[reason] = reasons.get(reason, 0) + 1
    lines = [f"{count} {'cell' if count == 1 else 'cells'}: {reason}" for reason, count in reasons.items()]
    width = round(11 * figure.get_figwidth()) - 8  # characters that fit
    if len(lines) > _REASONS_SHOWN:
        lines[_REASONS_SHOWN:] = [f"and {len(lines) - _REASONS_SHOWN} reasons more, see results.csv"]
    return [missing_entry("\n".join(textwrap.fill(line, width) for line in lines))] if lines else []


def _write_values(axes: Axes, matrix: LayerByTask, image: AxesImage) -> None:
    largest = np.nanmax(np.abs(matrix.values), initial=0)
    decimals = 2 if largest < 10 else 1 if largest < 100 else 0
    form = f"{'+' if is_signed(matrix.quantity) else ''}.{decimals}f"
    for (row, column), value in np.ndenumerate(matrix.values):
        if np.isfinite(value):
            text = format(value, form).replace("-", "\N{MINUS SIGN}")
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=_ink(image, value))


def _ink(image: AxesImage, value: float) -> str:
    """Black or white, whichever reads on the colour of `value`."""
    red, green, blue, _ = image.to_rgba(np.array([value]))[0]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def _legend_below(figure: Figure, handles: list[Patch | Line2D]) -> None:
    figure.legend(handles=handles, loc="outside lower left", fontsize=8, frameon=False)
