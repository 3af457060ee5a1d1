"""A matrix as coloured cells, rows from the bottom up: what heatmaps of every kind share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch, Rectangle

from probes.report.axes import is_signed, quantity_label
from probes.values import LayerByLayer, LayerByTask

_MISSING = {"facecolor": "#d9d9d9", "edgecolor": "#8c8c8c", "hatch": "////", "linewidth": 0.0}


def value_range(values: np.ndarray, *, signed: bool) -> tuple[float, float]:
    """Ends of the colour scale: those of the finite values; of a signed quantity alike on both sides of 0."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if signed:
        high = max(-low, high)
        low = -high
    if low < high:
        return low, high
    return low - 0.5, high + 0.5  # one value only: its colour is the middle


def draw_cells(axes: Axes, matrix: LayerByTask | LayerByLayer, limits: tuple[float, float]) -> AxesImage:
    """Colour each cell: signed quantities on a diverging map, others on a perceptually uniform one."""
    colours = "RdBu_r" if is_signed(matrix.quantity) else "viridis"
    shown = np.ma.masked_invalid(matrix.values)
    image = axes.imshow(shown, cmap=colours, norm=Normalize(*limits), aspect="auto", origin="lower")
    axes.spines[:].set_visible(False)
    return image


def part_cells(axes: Axes, shape: tuple[int, int]) -> None:
    """White lines between cells; ticks with a grid would look alike and take ten times as long."""
    rows, columns = shape
    lines = [[(x - 0.5, -0.5), (x - 0.5, rows - 0.5)] for x in range(columns + 1)]
    lines += [[(-0.5, y - 0.5), (columns - 0.5, y - 0.5)] for y in range(rows + 1)]
    axes.add_collection(LineCollection(lines, colors="white", linewidths=0.6, zorder=1.5), autolim=False)


def hatch_missing(axes: Axes, values: np.ndarray) -> list[tuple[int, int]]:
    """Hatch the cells without a value, and say which these are, as rows and columns."""
    missing = [(int(row), int(column)) for row, column in np.argwhere(~np.isfinite(values))]
    for row, column in missing:
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **_MISSING, gid="missing"))
    return missing


def missing_entry(label: str) -> Patch:
    """What stands for cells without a value in a legend."""
    return Patch(**_MISSING, label=label)


def add_colour_bar(figure: Figure, image: AxesImage, axes: Sequence[Axes], matrix: LayerByTask | LayerByLayer) -> None:
    """A colour bar with quantity and unit right of the axes."""
    bar = figure.colorbar(image, ax=axes, fraction=0.06, pad=0.02, aspect=30)
    bar.set_label(quantity_label(matrix))
    bar.outline.set_visible(False)  # type: ignore[operator]  # a Spine; matplotlib's stubs say otherwise
