"""Layers of one backbone against layers of another: files, one picture a quantity, one hand-over to the logger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from probes.analysis.bands.segments import Band
from probes.report.csv_files import file_stem, write_layer_by_layer, write_layer_by_task, write_results
from probes.report.figures.axes import save_png
from probes.report.figures.band_profiles import Curve, band_profiles
from probes.report.figures.heatmap import heatmap
from probes.report.figures.layer_pairs import layer_by_layer_heatmaps
from probes.report.figures.profiles import profiles
from probes.report.pictures import Drawing, save_pictures
from probes.report.run_logger import RunLogger
from probes.values import Layer, LayerByLayer, LayerByTask, Reading, Result


def report_run(
    output_dir: Path,
    *,
    results: Iterable[Result],
    matrices: Sequence[LayerByTask],
    best_layers: Mapping[str, Layer],
    logger: RunLogger,
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
        logger: Told each quantity, the summary (`best_layer/<task>`, `mean/<metric>` of `mean_at_best_layer`), then
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
        logger.log_matrix(matrix, picture, primary=matrix.reading == primary)
    of_primary = [matrix for matrix in ordered if matrix.reading == primary]
    best = {f"best_layer/{task}": layer for task, layer in best_layers.items()}
    logger.summarize({**best, **mean_at_best_layer(of_primary, best_layers), **(summary or {})})
    logger.log_artifacts([*files, *(folder for folder in [output_dir / "probes"] if folder.is_dir())])
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


@dataclass(frozen=True)
class BandedProfiles:
    """One quantity's curves, a task each, and the bands that layers fall into.

    Attributes:
        quantity: Its name.
        unit: Its unit.
        reading: Stack, site and pooling.
        curves: One a task.
        bands: As `find_segments` gives them.
    """

    quantity: str
    unit: str
    reading: Reading
    curves: tuple[Curve, ...]
    bands: tuple[Band, ...]


def report_bands(
    output_dir: Path, profiles: Sequence[BandedProfiles], *, logger: RunLogger, primary: Reading | None
) -> list[Path]:
    """Draw each as `figures/bands_<quantity>.png`, with its reading in the name unless that is the primary one."""
    pictures = []
    for profile in profiles:
        name = profile.quantity if profile.reading == primary else f"{profile.quantity}@{profile.reading}"
        figure = band_profiles(profile.curves, quantity=f"{profile.quantity} ({profile.unit})", bands=profile.bands)
        path = save_png(figure, output_dir / "figures" / f"bands_{name.replace('/', '_')}.png")
        logger.log_picture(f"bands/{name}", path)
        pictures.append(path)
    return pictures


def report_layer_by_layer(
    output_dir: Path, matrices: Sequence[LayerByLayer], *, logger: RunLogger, primary: Reading
) -> list[Path]:
    """Write `layer_by_layer/<quantity>/<task>.csv` and `figures/layer_by_layer_<quantity>.png`, and log each quantity.

    Args:
        output_dir: The run's folder.
        matrices: Any number of quantities, readings and tasks; each once.
        logger: Told each quantity once.
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
        logger.log_layer_by_layer(name, group, picture)
        pictures.append(picture)
    return pictures
