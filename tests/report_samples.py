"""Small matrices and results to report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from probes.report import RunLogger, report_run
from probes.values import BestLayers, Layer, LayerByTask, Reading, Result

LAST, MEAN = Reading("decoder", "residual", "last"), Reading("decoder", "residual", "mean")


def a_matrix(
    quantity: str = "probe/accuracy",
    *,
    layers: Sequence[Layer] = (0, 1, 2, "final"),
    tasks: Sequence[str] = ("sst2", "trec", "topic"),
    values: np.ndarray | None = None,
    reading: Reading = LAST,
    notes: Mapping[tuple[Layer, str], str] | None = None,
) -> LayerByTask:
    """A matrix of random values, `(layers, tasks)`, with intervals of ± 0.1 and a null mean of 0.5."""
    if values is None:
        values = np.random.default_rng(0).uniform(0.2, 1, (len(layers), len(tasks)))
    return LayerByTask(
        quantity=quantity,
        unit="share of rows",
        layers=tuple(layers),
        tasks=tuple(tasks),
        values=values,
        ci_low=values - 0.1,
        ci_high=values + 0.1,
        null_mean=np.full_like(values, 0.5),
        reading=reading,
        notes=notes or {},
    )


def best_at(layers: Mapping[str, Layer], possible: tuple[Layer, ...] | None = None) -> dict[str, BestLayers]:
    """Each task's best layer, which is alone in its set unless others are given."""
    sets = {task: (layer,) if possible is None else possible for task, layer in layers.items()}
    return {task: BestLayers(task, layer, sets[task], "macro_f1", 0.8, n=400) for task, layer in layers.items()}


def results_of(
    matrix: LayerByTask, metric: str = "accuracy", *, split: str = "test", control: str = ""
) -> list[Result]:
    """One result per cell, of 400 rows."""
    return [
        Result(
            task=task,
            stack=matrix.reading.stack,
            site=matrix.reading.site,
            pooling=matrix.reading.pooling,
            layer=layer,
            split=split,
            control=control,
            metric=metric,
            value=float(matrix.values[row, column]),
            ci_low=float(matrix.ci_low[row, column]),
            ci_high=float(matrix.ci_high[row, column]),
            n=400,
        )
        for row, layer in enumerate(matrix.layers)
        for column, task in enumerate(matrix.tasks)
    ]


def report_two_quantities(folder: Path, logger: RunLogger) -> tuple[list[LayerByTask], list[Path]]:
    """Report a matrix with a missing cell and one of another reading in an open run; the matrices and heatmaps."""
    values = np.random.default_rng(1).uniform(size=(4, 3))
    values[0, 1] = np.nan
    matrices = [a_matrix(values=values, notes={(0, "trec"): "constant layer"}), a_matrix(reading=MEAN)]
    heatmaps = report_run(
        folder,
        results=results_of(matrices[0]),
        matrices=matrices,
        best_layers=best_at({"sst2": "final", "topic": 0}),
        logger=logger,
        summary={"mean/accuracy": 0.5, "mean/unknown": float("nan")},
    )
    return matrices, heatmaps
