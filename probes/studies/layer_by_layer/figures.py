"""The pictures of a layer-by-layer study besides its heatmaps: profiles with their noise, and maps of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student_t

from probes.analysis import Column, ColumnTable, Segments, find_segments, silhouette, tsne_points
from probes.callbacks import curve_of
from probes.report import Curve, RunLogger, TaskMap, band_profiles, save_png, task_maps
from probes.studies.layer_by_layer.comparison import GAIN, Comparison
from probes.studies.suite_activations import SuiteActivations
from probes.tasks import Suite
from probes.values import Layer, Reading

ALL_COMPARED = ("cka/control_vs_base", "cka/control_vs_experimental", "cka/control_vs_control")


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    """Which layers are drawn in the plane.

    Attributes:
        layers: How many, spread evenly from the output of the first block to the last; 0 for no maps.
        rows_per_task: Rows of each task, the first of its test split.
        perplexity: About how many neighbours a point attends to.
        seed: Of t-SNE.
    """

    layers: int = 4
    rows_per_task: int = 60
    perplexity: float = 30.0
    seed: int = 0


def report_figures(
    output_dir: Path,
    comparison: Comparison,
    roles: Mapping[str, SuiteActivations],
    table: ColumnTable,
    maps: MapSettings,
    *,
    logger: RunLogger,
) -> list[Path]:
    """Draw the pictures of the primary reading.

    Returns:
        `figures/control_models.png`: means over tasks of the control models' CKA with the base, the experimental model
        and a control of another seed, with bands of layers. `tuning_gain_groups.png`: seen and unseen tasks, and
        clusters, before the noise of another seed. `map_<role>.png`: rows of all tasks in the plane.
    """
    reading, suite = comparison.reading, comparison.suite
    figures = {
        "control_models": _control_figure(comparison),
        "tuning_gain_groups": _gain_figure(comparison, table, reading),
    }
    for role, activations in roles.items() if maps.layers > 0 else ():
        group_of = {task.name: "unseen" if task.unseen else "seen" for task in suite.tasks}
        figures[f"map_{role}"] = task_maps(_maps(suite, activations, reading, maps), group_of=group_of)
    paths = []
    for name, figure in figures.items():
        paths.append(save_png(figure, output_dir / "figures" / f"{name}.png"))
        logger.log_picture(name, paths[-1])
    return paths


def _control_figure(comparison: Comparison) -> Any:
    curves = [_mean_curve(name, comparison.columns[name]) for name in ALL_COMPARED if name in comparison.columns]
    return band_profiles(curves, quantity="CKA with control models", bands=_segments(comparison).bands)


def _gain_figure(comparison: Comparison, table: ColumnTable, reading: Reading) -> Any:
    columns = table.columns(f"group_mean/{GAIN}", reading)
    deviation, freedom = comparison.noise()
    reach = student_t.ppf(0.975, freedom) * deviation if freedom else None
    noise = None if reach is None else (-reach, reach)
    return band_profiles(
        [replace(curve_of(column), name=column.task.replace("_", " ")) for column in columns],
        quantity=f"{GAIN} (CKA)",
        bands=_segments(comparison).bands,
        noise=noise,
    )


def _segments(comparison: Comparison) -> Segments:
    columns = comparison.columns["cka/control_vs_experimental"]
    return find_segments(np.stack([c.estimates.values for c in columns], axis=1), layers=comparison.layers)


def _mean_curve(name: str, columns: Sequence[Column]) -> Curve:
    """Mean over tasks; the interval is Student's over tasks, from three of them up."""
    values = np.stack([column.estimates.values for column in columns])
    mean, count = values.mean(0), len(columns)
    reach = np.full(len(mean), np.nan)
    if count >= 3:
        reach = student_t.ppf(0.975, count - 1) * values.std(0, ddof=1) / np.sqrt(count)
    label = name.removeprefix("cka/").replace("_", " ")
    return Curve(label, columns[0].layers, mean, mean - reach, mean + reach)


def _maps(suite: Suite, activations: SuiteActivations, reading: Reading, settings: MapSettings) -> list[TaskMap]:
    layers = activations.layers[reading]
    first = min(1, len(layers) - 1)  # layer 0 is often constant: prompts end alike
    chosen = sorted({round(place) for place in np.linspace(first, len(layers) - 1, settings.layers)})
    parts = [activations.rows(task, "test", reading).values[chosen, : settings.rows_per_task] for task in suite.tasks]
    names = tuple(task.name for task, part in zip(suite.tasks, parts, strict=True) for _ in range(part.shape[1]))
    rows, groups = torch.cat(parts, dim=1), torch.arange(len(parts))
    groups = groups.repeat_interleave(torch.tensor([part.shape[1] for part in parts]))
    apart = silhouette(rows, groups).tolist() if len(parts) > 1 else [float("nan")] * len(chosen)
    return [_map(layers[place], rows[number], names, apart[number], settings) for number, place in enumerate(chosen)]


def _map(layer: Layer, rows: torch.Tensor, names: tuple[str, ...], apart: float, settings: MapSettings) -> TaskMap:
    points = tsne_points(rows, perplexity=settings.perplexity, seed=settings.seed)
    return TaskMap(layer, points, names, apart)
