"""What a run's findings leave behind: files, figures, and each quantity handed to the logger once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from probes.analysis import Findings, SegmentedQuantity, group_means, interval_of, layer_by_task, result_rows
from probes.files import file_name
from probes.report.audit import AUDIT_FILE, audit_table, write_audit
from probes.report.csv_files import (
    file_stem,
    write_best_layers,
    write_layer_by_layer,
    write_layer_by_task,
    write_results,
)
from probes.report.figures.axes import is_signed, value_range
from probes.report.figures.band_profiles import Curve, band_profiles
from probes.report.figures.channel_removal import channel_removal
from probes.report.figures.decodable_used import decodable_and_used
from probes.report.figures.dose_response import dose_response
from probes.report.figures.heatmap import heatmap
from probes.report.figures.layer_pairs import layer_by_layer_heatmaps
from probes.report.figures.lenses import lens_curves
from probes.report.figures.model_patching import model_patching
from probes.report.figures.profiles import profiles
from probes.report.loggers.run_logger import RunLogger
from probes.report.pictures import Drawing, save_pictures, save_png
from probes.values import BestLayers, Layer, LayerByLayer, LayerByTask, LayerProfile, Reading, Result, RunNames


class RunReport(NamedTuple):
    """What was reported: the rows of `results.csv`, and the heatmaps in the order of the findings' matrices."""

    results: list[Result]
    heatmaps: list[Path]


def report_findings(
    output_dir: Path,
    findings: Findings,
    *,
    names: RunNames,
    logger: RunLogger,
    best_layers: Mapping[str, BestLayers] | None = None,
) -> RunReport:
    """Write and log everything a run has found; see `report_run` and `report_bands`.

    Args:
        output_dir: The run's folder.
        findings: All profiles, and what follows from them.
        names: What all rows of `results.csv` share.
        logger: Receives each quantity once.
        best_layers: Each task's layers chosen on validation.
    """
    results = result_rows(findings.profiles, names)
    matrices = [layer_by_task(result_rows(group, names)) for group in findings.matrices]
    primary = matrices[0].reading if matrices else None
    heatmaps = report_run(
        output_dir,
        results=results,
        matrices=matrices,
        best_layers=best_layers or {},
        logger=logger,
        summary=findings.summary(primary, {task: best.layer for task, best in (best_layers or {}).items()}),
    )
    report_bands(output_dir, findings.segmented, logger=logger, primary=primary)
    return RunReport(results, heatmaps)


def curve_of(profile: LayerProfile, name: str | None = None) -> Curve:
    """A profile as a curve with its 95 % intervals, named after its task unless a name is given."""
    layers = tuple(layer for layer in profile.layers if layer is not None)
    return Curve(profile.task if name is None else name, layers, profile.estimates.values, *interval_of(profile))


def report_run(
    output_dir: Path,
    *,
    results: Sequence[Result],
    matrices: Sequence[LayerByTask],
    best_layers: Mapping[str, BestLayers],
    logger: RunLogger,
    summary: Mapping[str, float | int | str] | None = None,
) -> list[Path]:
    """Write `results.csv`, `best_layers.csv`, `layer_by_task/*.csv` and `figures/*.png`, and log each quantity once.

    An audit for nuisances is also written as `audit.csv`.

    The reading of the first matrix is the run's primary one. Its quantities come first and their files carry no reading
    in their names. Those with intervals, except specificity, are also drawn as curves over layers
    (`figures/<quantity>_profiles.png`). The best layers were chosen for it, so only its figures mark them.

    Args:
        output_dir: The run's folder.
        results: All rows of `results.csv`.
        matrices: The quantities, each once per reading.
        best_layers: Each task's layers chosen on validation.
        logger: Receives each quantity, then the summary, then the run's files except pictures as artifacts.
        summary: Summary values besides `best_layer/<task>` and `best_layers/<task>`.

    Returns:
        The heatmaps, primary reading first, otherwise in the order of `matrices`.

    Raises:
        ValueError: Two matrices would be one file.
    """
    primary = matrices[0].reading if matrices else None
    ordered = sorted(matrices, key=lambda matrix: matrix.reading != primary)
    _refuse_one_file_for_two(ordered, primary)
    files = [write_results(results, output_dir / "results.csv")]
    if best_layers:
        files.append(write_best_layers(best_layers.values(), output_dir / "best_layers.csv"))
    if audit := audit_table(results):
        files.append(write_audit(audit, output_dir / AUDIT_FILE))
    heatmaps, drawings, limits = [], {}, shared_limits(ordered, {row.role for row in results})
    for matrix in ordered:
        first = matrix.reading == primary
        files.append(write_layer_by_task(matrix, output_dir / "layer_by_task", primary=first))
        own = _drawings(output_dir / "figures", matrix, best_layers if first else None, limits[limits_key(matrix)])
        heatmaps.append(next(reversed(own)))
        drawings |= own
    save_pictures(drawings)
    for matrix, picture in zip(ordered, heatmaps, strict=True):
        logger.log_matrix(matrix, picture, primary=matrix.reading == primary)
    best: dict[str, Layer] = {f"best_layer/{task}": best.layer for task, best in best_layers.items()}
    best |= {f"best_layers/{task}": best.text for task, best in best_layers.items()}
    logger.summarize({**best, **(summary or {})})
    beside = (output_dir / name for name in ("config.yaml", "provenance.json", "probes", "predictions"))
    logger.log_artifacts([*files, *(path for path in beside if path.exists())])
    return heatmaps


def shared_limits(matrices: Iterable[LayerByTask], roles: set[str]) -> dict[str, tuple[float, float]]:
    """Ends of the colour scale by quantity: quantities that differ in their role alone share them."""
    groups: dict[tuple[str, Reading], list[LayerByTask]] = {}
    for matrix in matrices:
        role = next((role for role in roles if role and matrix.quantity.startswith(f"{role}/")), "")
        groups.setdefault((matrix.quantity.removeprefix(f"{role}/"), matrix.reading), []).append(matrix)
    limits = {}
    for group in groups.values():
        values = np.concatenate([matrix.values.ravel() for matrix in group])
        ends = value_range(values, signed=is_signed(group[0].quantity))
        limits |= {limits_key(matrix): ends for matrix in group}
    return limits


def limits_key(matrix: LayerByTask) -> str:
    """Names a quantity and its reading."""
    return f"{matrix.quantity}@{matrix.reading}"


def _drawings(
    folder: Path,
    matrix: LayerByTask,
    best_layers: Mapping[str, BestLayers] | None,
    limits: tuple[float, float],
) -> dict[Path, Drawing]:
    """The pictures of a quantity, its heatmap last."""
    stem = file_stem(matrix, primary=best_layers is not None)
    drawings: dict[Path, Drawing] = {}
    if best_layers is not None and np.isfinite(matrix.ci_low).any() and "specificity" not in matrix.quantity:
        drawings[folder / f"{stem}_profiles.png"] = partial(profiles, matrix, best_layers=best_layers)
    return drawings | {folder / f"{stem}.png": partial(heatmap, matrix, best_layers=best_layers, limits=limits)}


def _refuse_one_file_for_two(matrices: Iterable[LayerByTask], primary: Reading | None) -> None:
    owners: dict[str, LayerByTask] = {}
    for matrix in matrices:
        stem = file_stem(matrix, primary=matrix.reading == primary)
        if stem in owners:
            raise ValueError(
                f"'{owners[stem].quantity}' and '{matrix.quantity}' of {matrix.reading} would both be {stem}.csv. "
                "Give each quantity of a reading a name of its own."
            )
        owners[stem] = matrix


def report_bands(
    output_dir: Path, segmented: Sequence[SegmentedQuantity], *, logger: RunLogger, primary: Reading | None
) -> list[Path]:
    """Draw each quantity over layers with its bands as `figures/bands_<quantity>.png`, and log the picture.

    Args:
        output_dir: The run's folder.
        segmented: The quantities, a profile for each task, with their bands.
        logger: Receives each picture once.
        primary: The reading whose files carry none in their names.
    """
    pictures = []
    for quantity in segmented:
        if not any(np.isfinite(profile.estimates.values).any() for profile in quantity.profiles):
            continue
        first = quantity.profiles[0]
        name = first.name if first.reading == primary else f"{first.name}@{first.reading}"
        (mean,) = group_means(quantity.profiles, {profile.task: "mean" for profile in quantity.profiles})
        figure = band_profiles(
            [curve_of(profile) for profile in quantity.profiles],
            mean=curve_of(mean),
            quantity=f"{first.name} ({first.unit})",
            bands=quantity.segments.all_bands,
        )
        path = save_png(figure, output_dir / "figures" / f"bands_{_stem(name)}.png")
        logger.log_picture(f"bands/{name}", path)
        pictures.append(path)
    return pictures


def _stem(name: str) -> str:
    """The name of a quantity, and of its reading after `@` if it has one, as a file name."""
    quantity, *reading = name.rsplit("@", 1)
    return "@".join([file_name(quantity.replace("/", "_")), *reading])


def report_decodable_and_used(
    output_dir: Path,
    decodable: Sequence[LayerProfile],
    used: Sequence[LayerProfile],
    *,
    logger: RunLogger,
    name: str = "decodable_and_used",
) -> Path:
    """Draw what probes decode beside what the model uses as `figures/<name>.png`, and log the picture.

    Args:
        output_dir: The run's folder.
        decodable: Scores of probes, a profile for each task.
        used: Used-ness, of the same tasks in the same order.
        logger: Receives the picture.
        name: Of the picture.
    """
    labels = [f"{group[0].name} ({group[0].unit})" for group in (decodable, used)]
    figure = decodable_and_used(
        [curve_of(profile) for profile in decodable],
        [curve_of(profile) for profile in used],
        decodable_label=labels[0],
        used_label=labels[1],
    )
    path = save_png(figure, output_dir / "figures" / f"{name}.png")
    logger.log_picture(name, path)
    return path


def report_dose_response(output_dir: Path, results: Sequence[Result], *, logger: RunLogger) -> Path:
    """Draw how answers change with the dose of steering as `figures/dose_response.png`, and log the picture."""
    path = save_png(dose_response(results), output_dir / "figures" / "dose_response.png")
    logger.log_picture("dose_response", path)
    return path


def report_lenses(output_dir: Path, results: Sequence[Result], *, logger: RunLogger) -> Path:
    """Draw what lenses see over layers as `figures/lenses.png`, and log the picture."""
    path = save_png(lens_curves(results), output_dir / "figures" / "lenses.png")
    logger.log_picture("lenses", path)
    return path


def report_channel_removal(output_dir: Path, results: Sequence[Result], *, logger: RunLogger) -> Path:
    """Draw what is lost without channels between heads as `figures/channel_removal.png`, and log the picture."""
    path = save_png(channel_removal(results), output_dir / "figures" / "channel_removal.png")
    logger.log_picture("channel_removal", path)
    return path


def report_model_patching(output_dir: Path, profiles: Sequence[LayerProfile], *, logger: RunLogger) -> list[Path]:
    """Draw patches between models as `figures/model_patching_<measure>_<positions>.png`, and log the pictures.

    Args:
        output_dir: The run's folder.
        profiles: All of a run; those of quantities `model_patching/…` are drawn, a panel for each role.
        logger: Receives each picture once.

    Returns:
        The pictures; none without such quantities, or where no share is known.
    """
    groups: dict[str, dict[str, list[LayerProfile]]] = {}
    for profile in profiles:
        if profile.quantity.startswith("model_patching/") and np.isfinite(profile.estimates.values).any():
            groups.setdefault(profile.quantity, {}).setdefault(profile.role, []).append(profile)
    pictures = []
    for quantity, by_role in groups.items():
        panels = {role: [curve_of(profile) for profile in own] for role, own in by_role.items()}
        unit = next(iter(by_role.values()))[0].unit
        name = quantity.replace("/", "_")
        path = save_png(model_patching(panels, label=f"{quantity} ({unit})"), output_dir / "figures" / f"{name}.png")
        logger.log_picture(name, path)
        pictures.append(path)
    return pictures


def report_layer_by_layer(
    output_dir: Path, matrices: Sequence[LayerByLayer], *, logger: RunLogger, primary: Reading
) -> list[Path]:
    """Write `layer_by_layer/<quantity>/<task>.csv` and `figures/layer_by_layer_<quantity>.png`, and log each quantity.

    Args:
        output_dir: The run's folder.
        matrices: Any number of quantities, readings and tasks; each once.
        logger: Receives each quantity once.
        primary: The reading whose files carry none in their names.

    Returns:
        One picture for each quantity and reading, with a panel for each task.
    """
    groups: dict[str, list[LayerByLayer]] = {}
    for matrix in matrices:
        name = matrix.quantity if matrix.reading == primary else f"{matrix.quantity}@{matrix.reading}"
        groups.setdefault(name, []).append(matrix)
    pictures = []
    for name, group in groups.items():
        stem = _stem(name)
        for matrix in group:
            write_layer_by_layer(matrix, output_dir / "layer_by_layer" / stem)
        picture = save_png(layer_by_layer_heatmaps(group), output_dir / "figures" / f"layer_by_layer_{stem}.png")
        logger.log_layer_by_layer(name, group, picture)
        pictures.append(picture)
    return pictures
