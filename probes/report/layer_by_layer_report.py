"""Layers of one backbone against layers of another: files, one picture a quantity, one hand-over to the tracker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from probes.report.csv_files import write_layer_by_layer
from probes.report.layer_by_layer_figure import layer_by_layer_heatmaps
from probes.report.png import save_png
from probes.report.tracker import Tracker
from probes.values import LayerByLayer, Reading


def report_layer_by_layer(
    output_dir: Path, matrices: Sequence[LayerByLayer], *, tracker: Tracker, primary: Reading
) -> list[Path]:
    """Write `layer_by_layer/<quantity>/<task>.csv` and `figures/layer_by_layer_<quantity>.png`, and log each quantity.

    Args:
        output_dir: The run's folder.
        matrices: Any number of quantities, readings and tasks; each once.
        tracker: Told each quantity once.
        primary: The reading whose files carry none in their names.

    Returns:
        One picture a quantity and reading, a panel a task.
    """
    groups: dict[str, list[LayerByLayer]] = {}
    for matrix in matrices:
        name = matrix.quantity if matrix.reading == primary else f"{matrix.quantity}@{matrix.reading}"
        groups.setdefault(name, []).append(matrix)
    pictures = []
    for name, group in groups.items():
        stem = name.replace("/", "_")
        for matrix in group:
            write_layer_by_layer(matrix, output_dir / "layer_by_layer" / stem)
        picture = save_png(layer_by_layer_heatmaps(group), output_dir / "figures" / f"layer_by_layer_{stem}.png")
        tracker.log_layer_by_layer(name, group, picture)
        pictures.append(picture)
    return pictures
