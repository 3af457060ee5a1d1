"""What every figure shares: ticks, names, labels, coloured cells, and how it is saved."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch, Rectangle

from probes.files import replaced_file
from probes.values import Layer, LayerByLayer, LayerByTask

_SIGNED_WORDS = ("selectivity", "specificity", "gain", "difference")


def is_signed(quantity: str) -> bool:
    """Whether 0 is the middle of a quantity's scale, so that sign is what the eye should see.

    Example:
        >>> is_signed("specificity/label_cka"), is_signed("tuning_gain"), is_signed("probe/accuracy")
        (True, True, False)
    """
    return any(word in quantity for word in _SIGNED_WORDS)


def layer_ticks(layers: Sequence[Layer], *, at_most: int) -> list[int]:
    """Positions of the layers to name: every 1st, 2nd, 5th or 10th …, and always the last one.

    Example:
        >>> layer_ticks([*range(31), "final"], at_most=10)
        [0, 5, 10, 15, 20, 25, 31]
    """
    last = len(layers) - 1
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, len(layers)) if last // step < at_most)
    return [place for place in range(0, last, step) if step == 1 or last - place >= (step + 1) // 2 + 1] + [last]


def quantity_label(matrix: LayerByTask | LayerByLayer) -> str:
    """A quantity and its unit: `probe/accuracy (share of rows)`."""
    return f"{matrix.quantity} ({matrix.unit})" if matrix.unit else matrix.quantity


def readable_name(name: str, width: int, *, lines: int = 2) -> str:
    r"""A task's name over at most `lines` lines of `width` characters, broken after `_`, `-` or a blank.

    Example:
        >>> readable_name("definite_pronoun_resolution", 18)
        'definite_pronoun_\nresolution'
    """
    shown = [part.replace("_ ", "_") for part in textwrap.wrap(name.replace("_", "_ "), width)]
    if len(shown) > lines:
        shown = [*shown[: lines - 1], shown[lines - 1][: width - 1] + "…"]
    return "\n".join(shown)


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


_COMPRESSION = {"compress_level": 3}  # of 9; PIL's default, 6, takes three times as long and saves a tenth


def save_png(figure: Figure, path: Path) -> Path:
    """Save a figure whole or not at all.

    `Figure.savefig` would draw it twice, once unseen to lay it out; the layout alone is enough.
    """
    if (layout := figure.get_layout_engine()) is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")
    with replaced_file(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary, pil_kwargs=_COMPRESSION)
    return path
