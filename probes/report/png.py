"""Pictures on disk."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from probes.report.atomic import whole_file


def save_png(figure: Figure, path: Path) -> Path:
    """Save a figure whole or not at all."""
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
