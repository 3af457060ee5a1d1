"""Reads back what a matplotlib figure shows: its pixels, its legends and its marks."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle


def pixels(figure: Figure) -> np.ndarray:
    """The rendered figure; a warning while rendering, such as of a layout that does not fit, is an error in tests."""
    file = BytesIO()
    figure.savefig(file, format="png")
    file.seek(0)
    return imread(file)


def assert_border_is_white(figure: Figure) -> None:
    """Nothing is cut off at the edges of the figure."""
    image = pixels(figure)
    np.testing.assert_array_equal(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]), 1.0)


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def marked_cells(axes: Axes, gid: str) -> set[tuple[int, int]]:
    """Cells with a rectangle of that kind, as (row, column)."""
    patches = [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_gid() == gid]
    return {(round(patch.get_y() + 0.5), round(patch.get_x() + 0.5)) for patch in patches}
