"""How alike are two backbones, layer by layer, on the texts of each task? No probe, no training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from probes.activations import ExtractionSettings
from probes.analysis import cka_pairs, join_rows
from probes.backbones import FrozenBackbone
from probes.callbacks import MatrixAnalysis
from probes.report import RunLogger, layer_table, print_screen, report_layer_by_layer
from probes.studies.run_context import Provenance
from probes.studies.suite_activations import described, facts_of, labels_of_test_rows, matching_test_rows, read_suite
from probes.tasks import Suite, Task
from probes.values import Activations, LayerByLayer, Result


def compare_study(
    *,
    backbone: Callable[[], FrozenBackbone],
    reference_backbone: Callable[[], FrozenBackbone] | None,
    suite: Callable[[], Suite],
    extraction: ExtractionSettings,
    callbacks: Callable[..., MatrixAnalysis],
    logger: RunLogger,
    cache_dir: Path,
    output_dir: Path,
    config: Mapping[str, Any],
    name: str = "compare",
) -> float:
    """Read the test rows of every task with two backbones; leave CKA of all pairs of layers and profiles over layers.

    Args:
        backbone: Loads the backbone whose layers are the rows.
        reference_backbone: Loads the one whose layers are the columns.
        suite: Loads and checks the tasks; labels are not needed.
        extraction: Poolings, sites, lengths, for both.
        callbacks: Makes the analysis: which quantities are measured layer against matched layer.
        logger: Where numbers are logged besides files.
        cache_dir: Activations are kept under it.
        output_dir: Everything the run leaves.
        config: The whole config, for the record.
        name: Stands in `results.csv`.

    Returns:
        Mean debiased CKA of matched layers over layers and tasks; NaN if it was not among the measures.

    Raises:
        ValueError: There is no reference backbone; or what the rooms raise on bad input.
    """
    if reference_backbone is None:
        raise ValueError("`study=compare` expects a second model: set `reference_backbone` to an option of `backbone`.")
    provenance = Provenance(output_dir / "provenance.json")
    with provenance.stage("tasks"):
        loaded = suite()
    with logger.run(config, output_dir):
        sides = []
        for load in (backbone, reference_backbone):
            with provenance.stage("backbones"):
                model = load()
            with provenance.stage("activations"):
                sides.append(read_suite(loaded, model, extraction, cache_dir, splits=("test",)))
            del model
        x, y = sides
        provenance.record({**facts_of(loaded, x), "reference": facts_of(loaded, y)})
        reference = matching_test_rows(y, loaded, like=x)
        analysis = callbacks(reference=reference)
        pairs: list[LayerByLayer] = []
        for reading, task in ((reading, task) for reading in x.layers for task in loaded.tasks):
            with provenance.stage("analysis"):
                rows = x.rows(task, "test", reading)
                pairs.append(_all_pairs(task, rows, reference(task.name, reading), names=(x.backbone, y.backbone)))
                analysis.add_rows(task.name, rows, labels_of_test_rows(task))
        with provenance.stage("report"):
            common = Result(study=name, backbone=x.backbone, reference=y.backbone, suite=loaded.name)
            describe = partial(described, common=common, suite=loaded)
            found = analysis.finish(output_dir, logger=logger, describe=describe)
            primary = next(iter(x.layers))
            pictures = report_layer_by_layer(output_dir, pairs, logger=logger, primary=primary)
    lines = (f"picture: {pictures[0]}", f"everything: {output_dir}")
    print_screen(layer_table(found.results, "reference_cka"), *lines)
    values = [result.value for result in found.results if result.metric == "reference_cka"]
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _all_pairs(task: Task, x: Activations, y: Activations, *, names: tuple[str, str]) -> LayerByLayer:
    joined = join_rows(x, y)
    return LayerByLayer(
        quantity="cka",
        unit="CKA",
        task=task.name,
        x_name=names[0],
        y_name=names[1],
        x_layers=x.layers,
        y_layers=y.layers,
        values=cka_pairs(joined.x.values, joined.y.values).numpy(force=True),
        reading=x.reading,
        n=len(joined.x.row_ids),
    )
