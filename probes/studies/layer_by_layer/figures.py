"""The pictures of a layer-by-layer study besides its heatmaps: profiles with their noise, and maps of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student_t

from probes.analysis import Band, Findings, silhouette, tsne_points
from probes.report import RunLogger, TaskMap, band_profiles, curve_of, save_png, task_maps, write_task_maps
from probes.studies.layer_by_layer.comparison import CONTROL_CKA, GAIN, Comparison
from probes.studies.suite_activations import SuiteActivations
from probes.tasks import Suite
from probes.values import Layer, Reading


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    """Which layers are drawn in the plane.

    Attributes:
        layers: How many, spread evenly from the output of the first block to the last; 0 for no maps.
        rows_per_task: Rows of each task, the first of its test split.
        perplexity: Of t-SNE: about how many neighbours of each point count.
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
    findings: Findings,
    maps: MapSettings,
    *,
    logger: RunLogger,
) -> list[Path]:
    """Draw the pictures of the primary reading.

    Returns:
        `figures/control_models.png`: means over tasks of the control models' CKA with the base, the experimental model
        and a control of another seed, with the bands found in the CKA with the experimental model.
        `tuning_gain_groups.png`: seen and unseen tasks, and clusters, over the noise of another seed.
        `map_<role>.png` and `maps/<role>.csv`: rows of all tasks in the plane.
    """
    reading, suite = comparison.reading, comparison.suite
    bands = findings.bands_of(CONTROL_CKA[1], reading)
    figures = {
        "control_models": _control_figure(comparison, bands),
        "tuning_gain_groups": _gain_figure(comparison, bands),
    }
    for role, activations in roles.items() if maps.layers > 0 else ():
        group_of = {task.name: "unseen" if task.unseen else "seen" for task in suite.tasks}
        of_role = _maps(suite, activations, reading, maps)
        write_task_maps(of_role, output_dir / "maps" / f"{role}.csv")
        figures[f"map_{role}"] = task_maps(of_role, group_of=group_of)
    paths = []
    for name, figure in figures.items():
        paths.append(save_png(figure, output_dir / "figures" / f"{name}.png"))
        logger.log_picture(name, paths[-1])
    return paths


def _control_figure(comparison: Comparison, bands: Sequence[Band]) -> Any:
    means = {name: comparison.mean_over_tasks(name) for name in CONTROL_CKA}
    curves = [
        curve_of(mean, name.removeprefix("cka/").replace("_", " ")) for name, mean in means.items() if mean is not None
    ]
    return band_profiles(curves, quantity="CKA with control models", bands=bands)


def _gain_figure(comparison: Comparison, bands: Sequence[Band]) -> Any:
    curves = [curve_of(mean, mean.task.replace("_", " ")) for mean in comparison.group_means(GAIN)]
    known = [noise for noise in map(comparison.noise, ("control", "experimental")) if noise[1]]
    # Seeds of control and experimental model vary independently, so their variances add.
    reach = np.sqrt(sum((student_t.ppf(0.975, freedom) * deviation) ** 2 for deviation, freedom in known))
    noise = (-reach, reach) if known else None
    overall = comparison.mean_over_tasks(GAIN)
    mean = None if overall is None else curve_of(overall, "all tasks")
    return band_profiles(curves, mean=mean, quantity=f"{GAIN} (CKA)", bands=bands, noise=noise)


def _maps(suite: Suite, activations: SuiteActivations, reading: Reading, settings: MapSettings) -> list[TaskMap]:
    layers = activations.layers[reading]
    first = min(1, len(layers) - 1)  # layer 0 is often constant: prompts end in the same token
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
