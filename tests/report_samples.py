"""Small matrices and results to report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from probes.values import Layer, LayerByTask, Reading, Result

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
