"""What several figures share: colours, labels of layers and tasks, coloured cells, and grids of panels."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch, Rectangle

from probes.values import Layer, LayerByLayer, LayerByTask

OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9", "#6b6b00")
"""Colours that colour-blind readers can tell apart; olive replaces their yellow, which is too faint on white."""

_SIGNED_WORDS = (
    "selectivity",
    "specificity",
    "gain",
    "difference",
    "effect",
    "usedness",
    "collateral",
    "steering",
    "patching",
    "log_odds",
    "path_to",
)
_MISSING = {"facecolor": "#d9d9d9", "edgecolor": "#8c8c8c", "hatch": "////", "linewidth": 0.0}


def is_signed(quantity: str) -> bool:
    """Whether a quantity can be negative, so that 0 is the centre of its colour scale and is drawn beside its curves.

    Example:
        >>> is_signed("specificity/label_cka"), is_signed("tuning_gain"), is_signed("probe/accuracy")
        (True, True, False)
    """
    return any(word in quantity for word in _SIGNED_WORDS)


def quantity_label(matrix: LayerByTask | LayerByLayer) -> str:
    """A quantity and its unit: `probe/accuracy (share of rows)`."""
    return f"{matrix.quantity} ({matrix.unit})" if matrix.unit else matrix.quantity


def layer_ticks(layers: Sequence[Layer], *, at_most: int) -> list[int]:
    """Positions of the layers to label: every 1st, 2nd, 5th, 10th, … layer, and always the last one.

    Example:
        >>> layer_ticks([*range(31), "final"], at_most=10)
        [0, 5, 10, 15, 20, 25, 31]
    """
    last = len(layers) - 1
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, len(layers)) if last // step < at_most)
    clear = 1 if step == 1 else (step + 1) // 2 + 1  # closer to the last layer, the labels would touch
    return [position for position in range(0, last, step) if last - position >= clear] + [last]


def readable_name(name: str, width: int, *, lines: int = 2) -> str:
    r"""A name on at most `lines` lines of `width` characters, broken after `_`, `-` or a space, for matplotlib.

    Two `$` would enclose a formula, so each is escaped.

    Example:
        >>> readable_name("definite_pronoun_resolution", 18)
        'definite_pronoun_\nresolution'
    """
    wrapped = [line.replace("_ ", "_") for line in textwrap.wrap(name.replace("_", "_ "), width)]
    if not wrapped:
        return "(no name)"
    if len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], wrapped[lines - 1][: width - 1] + "…"]
    return "\n".join(wrapped).replace("$", r"\$")


def panel_grid(panels: int, *, columns: int) -> tuple[int, int]:
    """Rows and columns of a grid of panels: one row if they fit, else about square with at most `columns` columns.

    Example:
        >>> panel_grid(4, columns=5), panel_grid(7, columns=5), panel_grid(40, columns=5)
        ((1, 4), (3, 3), (8, 5))
    """
    used = panels if panels <= columns else min(columns, math.ceil(math.sqrt(panels)))
    return math.ceil(panels / used), used


def value_range(values: np.ndarray, *, signed: bool) -> tuple[float, float]:
    """Ends of a colour scale: the smallest and largest finite value; symmetric about 0 for a signed quantity."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if signed:
        high = max(-low, high)
        low = -high
    if low < high:
        return low, high
    return low - 0.5, high + 0.5  # a single value gets the middle colour


def draw_cells(axes: Axes, matrix: LayerByTask | LayerByLayer, limits: tuple[float, float]) -> AxesImage:
    """Colour each cell, row 0 at the bottom: signed quantities on a diverging map, others on a sequential one."""
    colours = "RdBu_r" if is_signed(matrix.quantity) else "viridis"
    values = np.ma.masked_invalid(matrix.values)
    image = axes.imshow(values, cmap=colours, norm=Normalize(*limits), aspect="auto", origin="lower")
    axes.spines[:].set_visible(False)
    return image


def hatch_missing(axes: Axes, values: np.ndarray) -> list[tuple[int, int]]:
    """Hatch the cells without a finite value, and return them as (row, column)."""
    missing = [(int(row), int(column)) for row, column in np.argwhere(~np.isfinite(values))]
    for row, column in missing:
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **_MISSING, gid="missing"))
    return missing


def missing_entry(label: str) -> Patch:
    """The legend entry of cells without a value."""
    return Patch(**_MISSING, label=label)


def add_colour_bar(figure: Figure, image: AxesImage, axes: Sequence[Axes], matrix: LayerByTask | LayerByLayer) -> None:
    """Add a colour bar, labelled with the quantity and its unit, to the right of the axes."""
    bar = figure.colorbar(image, ax=axes, fraction=0.06, pad=0.02, aspect=30)
    bar.set_label(quantity_label(matrix).replace(" (", "\n("))
    bar.outline.set_visible(False)  # type: ignore[operator]  # a Spine; matplotlib's stubs say otherwise
