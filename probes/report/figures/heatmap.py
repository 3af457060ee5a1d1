"""A layer × task matrix as a heatmap."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
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
    readable_name,
    value_range,
)
from probes.values import SIGNIFICANCE_LEVEL, BestLayers, LayerByTask

CELL_TEXTS_UP_TO = 60  # cells; in a larger matrix numbers would be too small to read

_REASONS_SHOWN = 3  # in the legend, of those why cells have no value


def heatmap(
    matrix: LayerByTask,
    *,
    best_layers: Mapping[str, BestLayers] | None = None,
    limits: tuple[float, float] | None = None,
    by_column: bool = False,
) -> Figure:
    """Draw a matrix with one row per layer, layer 0 at the bottom, and one column per task; clusters stand together.

    Scores use a sequential colour map, signed quantities (`is_signed`) a diverging one with white at 0; both suit
    colour-blind readers. Cells without a value are hatched in grey, and the legend gives the reasons. A dot marks
    `LayerByTask.significant` cells, a small ring those that are only `significant_alone`. Up to `CELL_TEXTS_UP_TO`
    cells show their numbers.

    Args:
        matrix: What to draw.
        best_layers: Each task's layers chosen on validation; the best layer's cell is framed, and brackets beside the
            column enclose the ranges of layers that validation rows cannot tell from it.
        limits: Ends of the colour scale; by default those of the matrix' own values.
        by_column: Colour each task from the lowest to the highest of its own values, where one task would otherwise
            take most of the scale.

    Raises:
        ValueError: The matrix has no cells.
    """
    if matrix.values.size == 0:
        raise ValueError(f"'{matrix.quantity}' has no cells to draw: layers {matrix.layers}, tasks {matrix.tasks}.")
    matrix = by_cluster(matrix)
    with_numbers = matrix.values.size <= CELL_TEXTS_UP_TO
    figure = Figure(figsize=_figure_size(matrix, with_numbers=with_numbers), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    shades = _share_of_own_range(matrix) if by_column else matrix
    if limits is None or by_column:
        limits = value_range(shades.values, signed=is_signed(shades.quantity))
    image = draw_cells(axes, shades, limits)
    _separate_cells(axes, matrix.values.shape)
    _separate_clusters(axes, matrix)
    _label_axes(axes, matrix)
    add_colour_bar(figure, image, [axes], shades)
    handles = [
        *_mark_best(axes, matrix, best_layers or {}),
        *_mark_significant(axes, matrix, shades, image, corner=with_numbers),
        *_mark_missing(figure, axes, matrix),
    ]
    if with_numbers:
        _write_values(axes, matrix, shades, image)
    if handles:
        figure.legend(handles=handles, loc="outside lower left", fontsize=8, frameon=False)
    return figure


def by_cluster(matrix: LayerByTask) -> LayerByTask:
    """The same columns with the tasks of a cluster side by side, clusters in the order of their first tasks."""
    first = {cluster: place for place, cluster in reversed([*enumerate(matrix.clusters)])}
    order = sorted(range(len(matrix.clusters)), key=lambda column: first[matrix.clusters[column]])
    return matrix.of_tasks([matrix.tasks[column] for column in order]) if order else matrix


def _share_of_own_range(matrix: LayerByTask) -> LayerByTask:
    """Each value as its place between the lowest (0) and the highest (1) of its task."""
    finite = np.where(np.isfinite(matrix.values), matrix.values, np.nan)
    known = np.isfinite(finite).any(0)
    low, high = np.full((2, finite.shape[1]), np.nan)
    low[known], high[known] = np.nanmin(finite[:, known], axis=0), np.nanmax(finite[:, known], axis=0)
    with np.errstate(invalid="ignore"):
        shares = np.where(high > low, (finite - low) / (high - low), np.where(np.isfinite(finite), 0.5, np.nan))
    return replace(matrix, values=shares, quantity="share of each task's range", unit="")


def _separate_clusters(axes: Axes, matrix: LayerByTask) -> None:
    """Draw a thick line between clusters, and write their names above their columns."""
    if len(set(matrix.clusters)) < 2:
        return
    runs = [(cluster, len(list(columns))) for cluster, columns in groupby(matrix.clusters)]
    start = 0
    for cluster, width in runs:
        if start > 0:
            axes.axvline(start - 0.5, color="white", linewidth=4, zorder=3, gid="cluster edge")
            axes.axvline(start - 0.5, color="#444444", linewidth=1, zorder=3)
        name = readable_name(cluster or "no cluster", 20, lines=1)
        place = (start + width / 2 - 0.5, 1.0)
        axes.annotate(
            name,
            place,
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 3),
            textcoords="offset points",
            rotation=30,
            ha="left",
            va="bottom",
            fontsize=7,
            color="#444444",
            gid="cluster",
        )
        start += width


def _figure_size(matrix: LayerByTask, *, with_numbers: bool) -> tuple[float, float]:
    """Width and height in inches: cells of readable size, and space for labels, colour bar and legend."""
    layers, tasks = matrix.values.shape
    width, height = (0.72, 0.42) if with_numbers else (0.44, 0.21)
    longest = max(map(len, matrix.tasks))
    return max(4.8, 2.2 + width * tasks), max(3.2, 1.7 + height * layers + 0.05 * longest)


def _separate_cells(axes: Axes, shape: tuple[int, int]) -> None:
    """Draw white lines between cells; minor ticks with a grid would look the same but take ten times as long."""
    rows, columns = shape
    lines = [[(x - 0.5, -0.5), (x - 0.5, rows - 0.5)] for x in range(columns + 1)]
    lines += [[(-0.5, y - 0.5), (columns - 0.5, y - 0.5)] for y in range(rows + 1)]
    axes.add_collection(LineCollection(lines, colors="white", linewidths=0.6, zorder=1.5), autolim=False)


def _label_axes(axes: Axes, matrix: LayerByTask) -> None:
    axes.set_xticks(range(len(matrix.tasks)), [readable_name(task, 18) for task in matrix.tasks])
    axes.tick_params(axis="x", labelrotation=45, labelsize=9)
    for label in axes.get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")
    positions = layer_ticks(matrix.layers, at_most=20)
    axes.set_yticks(positions, [str(matrix.layers[position]) for position in positions])
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylabel("layer (0 = input of the first block)")
    above_clusters = 46 if len(set(matrix.clusters)) > 1 else 6  # points
    axes.set_title(f"{matrix.quantity}  ·  {matrix.reading}", fontsize=11, loc="left", pad=above_clusters)


def _mark_best(axes: Axes, matrix: LayerByTask, best_layers: Mapping[str, BestLayers]) -> list[Patch | Line2D]:
    """Frame each task's best layer, bracket those that may be as good, and return the entries of the legend."""
    marked, brackets = False, []
    for column, task in enumerate(matrix.tasks):
        best = best_layers.get(task)
        if best is None or best.layer not in matrix.layers:
            continue
        row = matrix.layers.index(best.layer)
        brackets += [_bracket(column, *ends) for ends in _ranges_of_rows(matrix, best)]
        for colour, width in (("black", 3.2), ("white", 1.2)):  # a white line inside a black one shows on every colour
            frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=colour, linewidth=width, zorder=4)
            frame.set(gid="best", clip_on=False)
            axes.add_patch(frame)
        marked = True
    for colour, width, gid in (("white", 2.6, "possibly best, edge"), ("black", 1.2, "possibly best")):
        axes.add_collection(
            LineCollection(brackets, colors=colour, linewidths=width, zorder=3.5, gid=gid), autolim=False
        )
    entries: list[Patch | Line2D] = []
    if marked:
        label = "best layer (chosen on validation)"
        entries.append(Patch(fill=False, edgecolor="black", linewidth=1.4, label=label))
    if brackets:
        label = "layers that validation rows cannot tell from it (95 %)"
        entries.append(Line2D([], [], color="black", linewidth=1.2, marker="$[$", linestyle="none", label=label))
    return entries


def _ranges_of_rows(matrix: LayerByTask, best: BestLayers) -> list[tuple[int, int]]:
    """First and last row of each range of adjacent rows whose layers may be the best."""
    ranges: list[tuple[int, int]] = []
    for row in (row for row, layer in enumerate(matrix.layers) if layer in (best.layers or ())):
        if ranges and ranges[-1][1] == row - 1:
            ranges[-1] = (ranges[-1][0], row)
        else:
            ranges.append((row, row))
    return ranges


def _bracket(column: int, first: int, last: int) -> list[tuple[float, float]]:
    """A square bracket along the left edge of a column's cells, inside them."""
    left, tip, low, high = column - 0.43, column - 0.28, first - 0.36, last + 0.36
    return [(tip, low), (left, low), (left, high), (tip, high)]


def _mark_significant(
    axes: Axes, matrix: LayerByTask, shades: LayerByTask, image: AxesImage, *, corner: bool
) -> list[Line2D]:
    """Mark the cells that differ from their null, in a corner where they also show a number; return legend entries."""
    kinds = (
        ("significant", matrix.significant, 6, f"p < {SIGNIFICANCE_LEVEL}, corrected for all cells of the figure"),
        ("alone", matrix.significant_alone & ~matrix.significant, 5, f"p < {SIGNIFICANCE_LEVEL} for this cell alone"),
    )
    entries = []
    for name, marked, area, label in kinds:
        rows, columns = np.nonzero(marked & np.isfinite(matrix.values))
        if len(rows) == 0:
            continue
        ink = [_ink(image, shades.values[cell]) for cell in zip(rows, columns, strict=True)]
        shift = 0.36 if corner else 0.0
        style: dict[str, Any] = {"facecolors": ink, "linewidths": 0.0}
        if name == "alone":
            style = {"facecolors": "none", "edgecolors": ink, "linewidths": 0.5}
        axes.scatter(columns + shift, rows + shift * 0.8, s=area, zorder=5, gid=name, **style)
        fill = "none" if name == "alone" else "black"
        marker: dict[str, Any] = {"marker": "o", "markersize": 3.2, "markerfacecolor": fill, "markeredgewidth": 0.6}
        entries.append(Line2D([], [], linestyle="none", color="black", label=label, **marker))
    return entries


def _mark_missing(figure: Figure, axes: Axes, matrix: LayerByTask) -> list[Patch]:
    """Hatch the cells without a value, and return a legend entry with the reasons."""
    missing = [(matrix.layers[row], matrix.tasks[column]) for row, column in hatch_missing(axes, matrix.values)]
    reasons = Counter(matrix.notes.get(cell) or "no value" for cell in missing)
    lines = [f"{count} {'cell' if count == 1 else 'cells'}: {reason}" for reason, count in reasons.items()]
    if len(lines) > _REASONS_SHOWN:
        lines[_REASONS_SHOWN:] = [f"and {len(lines) - _REASONS_SHOWN} more reasons, see results.csv"]
    width = round(11 * figure.get_figwidth()) - 8  # characters that fit into a line of the legend
    return [missing_entry("\n".join(textwrap.fill(line, width) for line in lines))] if lines else []


def _write_values(axes: Axes, matrix: LayerByTask, shades: LayerByTask, image: AxesImage) -> None:
    largest = np.nanmax(np.abs(matrix.values), initial=0)
    decimals = 2 if largest < 10 else 1 if largest < 100 else 0
    form = f"{'+' if is_signed(matrix.quantity) else ''}z.{decimals}f"  # z: no minus before what rounds to zero
    for (row, column), value in np.ndenumerate(matrix.values):
        if np.isfinite(value):
            text = format(value, form).replace("-", "\N{MINUS SIGN}")
            ink = _ink(image, float(shades.values[row, column]))
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)


def _ink(image: AxesImage, value: float) -> str:
    """Black or white, whichever is legible on the colour of `value`."""
    red, green, blue, _ = image.to_rgba(np.array([value]))[0]
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    return "black" if luminance > 0.5 else "white"
