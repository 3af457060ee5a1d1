"""Pictures on disk."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from probes.report.atomic import whole_file

_COMPRESSION = {"compress_level": 3}  # of 9; PIL's default, 6, takes three times as long and saves a tenth


def save_png(figure: Figure, path: Path) -> Path:
    """Save a figure whole or not at all.

    `Figure.savefig` would draw it twice, once unseen to lay it out; the layout alone is enough.
    """
    if (layout := figure.get_layout_engine()) is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")
    with whole_file(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary, pil_kwargs=_COMPRESSION)
    return path
