"""Everything a run's numbers leave behind: files, pictures, and one hand-over of each quantity to the tracker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from probes.report.csv_files import file_stem, write_layer_by_task, write_results
from probes.report.heatmap_figure import heatmap
from probes.report.pictures import Drawing, save_pictures
from probes.report.profile_figure import profiles
from probes.report.tracker import Tracker
from probes.values import Layer, LayerByTask, Reading, Result


def report_run(
    output_dir: Path,
    *,
    results: Iterable[Result],
    matrices: Sequence[LayerByTask],
    best_layers: Mapping[str, Layer],
    tracker: Tracker,
    summary: Mapping[str, float | int | str] | None = None,
) -> list[Path]:
    """Write `results.csv`, `layer_by_task/*.csv` and `figures/*.png`, and log each quantity once.

    The reading of the first matrix is the run's primary one: its quantities come first, their files carry no reading in
    their names, the curves over layers of those with intervals are drawn too, but for specificity
    (`figures/<quantity>_profiles.png`), and the best layers, which were chosen for it, are marked in its figures alone.

    Args:
        output_dir: The run's folder.
        results: All rows of `results.csv`.
        matrices: The quantities, each once a reading.
        best_layers: Each task's layer chosen on validation.
        tracker: Told each quantity, the summary (`best_layer/<task>`, `mean/<metric>` of `mean_at_best_layer`), then
            offered the CSV files and the folder `probes`.
        summary: More summary values; they win over those of the same name.

    Returns:
        The heatmaps, primary reading first, otherwise in the order of `matrices`.

    Raises:
        ValueError: Two matrices would be one file.
    """
    primary = matrices[0].reading if matrices else None
    ordered = sorted(matrices, key=lambda matrix: matrix.reading != primary)
    _refuse_one_file_for_two(ordered, primary)
    files = [write_results(results, output_dir / "results.csv")]
    heatmaps, drawings = [], {}
    for matrix in ordered:
        first = matrix.reading == primary
        files.append(write_layer_by_task(matrix, output_dir / "layer_by_task", primary=first))
        own = _drawings(output_dir / "figures", matrix, best_layers if first else None)
        heatmaps.append(next(reversed(own)))
        drawings |= own
    save_pictures(drawings)
    for matrix, picture in zip(ordered, heatmaps, strict=True):
        tracker.log_matrix(matrix, picture, primary=matrix.reading == primary)
    of_primary = [matrix for matrix in ordered if matrix.reading == primary]
    best = {f"best_layer/{task}": layer for task, layer in best_layers.items()}
    tracker.summarize({**best, **mean_at_best_layer(of_primary, best_layers), **(summary or {})})
    tracker.log_artifacts([*files, *(folder for folder in [output_dir / "probes"] if folder.is_dir())])
    return heatmaps


def mean_at_best_layer(matrices: Iterable[LayerByTask], best_layers: Mapping[str, Layer]) -> dict[str, float]:
    """Mean over tasks of each probe score at the task's best layer, as `mean/<metric>`; empty cells are left out."""
    means = {}
    for matrix in matrices:
        cells = [
            matrix.values[matrix.layers.index(best_layers[task]), column]
            for column, task in enumerate(matrix.tasks)
            if best_layers.get(task) in matrix.layers
        ]
        known = [value for value in cells if np.isfinite(value)]
        if known and matrix.quantity.startswith("probe/"):
            means[f"mean/{matrix.quantity.removeprefix('probe/')}"] = float(np.mean(known))
    return means


def _drawings(folder: Path, matrix: LayerByTask, best_layers: Mapping[str, Layer] | None) -> dict[Path, Drawing]:
    """The pictures of a quantity, its heatmap last."""
    stem = file_stem(matrix, primary=best_layers is not None)
    drawings: dict[Path, Drawing] = {}
    if best_layers is not None and np.isfinite(matrix.ci_low).any() and "specificity" not in matrix.quantity:
        drawings[folder / f"{stem}_profiles.png"] = partial(profiles, matrix, best_layer=best_layers)
    return drawings | {folder / f"{stem}.png": partial(heatmap, matrix, best_layer=best_layers)}


def _refuse_one_file_for_two(matrices: Iterable[LayerByTask], primary: Reading | None) -> None:
    owners: dict[str, LayerByTask] = {}
    for matrix in matrices:
        stem = file_stem(matrix, primary=matrix.reading == primary)
        if stem in owners:
            raise ValueError(
                f"'{owners[stem].quantity}' and '{matrix.quantity}' of {matrix.reading} would both be {stem}.csv. "
                "Hand over each quantity once a reading, under names that differ."
            )
        owners[stem] = matrix
