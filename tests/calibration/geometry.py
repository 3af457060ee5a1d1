"""Spectra, point clouds and separability of tasks: intervals about what the statistic is with so many rows.

All but `anisotropy` and `between_share` depend on the number of rows, so that the truth is their mean over many samples
of the same size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from calibration.similarity import FEATURES, decaying, normal, profile
from calibration.simulation import Claim, Simulation, covered
from torch import Tensor

from probes.analysis import (
    BetweenTasks,
    RowMeasure,
    SpectralMeasure,
    TaskRows,
    anisotropy,
    between_share,
    between_share_of_draws,
    effective_rank,
    group_identity_accuracy,
    interval_of,
    matrix_entropy,
    participation_ratio,
    silhouette,
    silhouette_of_draws,
    two_nn,
)

LAYERS = 50
"""Independent data sets of one call, which measures take as layers."""


def cloud(rows: int, features: int, *, seed: int, layers: int = LAYERS) -> Tensor:
    """Rows around a shared mean, of the t distribution with 8 degrees of freedom: some rows lie far out.

    The spectrum of few features is nearly flat; that of many falls as a language model's does, from 1 to 1e-4.
    """
    length = (
        torch.randn(8, layers, rows, 1, generator=torch.Generator().manual_seed(seed + 1)).square().mean(0)
    ).sqrt()
    spread = decaying() if features == FEATURES else torch.arange(1.0, features + 1).pow(-0.7)
    return 0.5 + normal(layers, rows, features, seed=seed) * spread / length


ROW_MEASURES: dict[str, Callable[[Tensor], Tensor]] = {
    "effective_rank": effective_rank,
    "participation_ratio": participation_ratio,
    "matrix_entropy": matrix_entropy,
    "intrinsic_dimension": two_nn,
    "anisotropy": anisotropy,
}


def row_measure_right(name: str, rows: int, features: int, seed: int) -> dict[str, np.ndarray]:
    measure = (
        SpectralMeasure()
        if name == "effective_rank"
        else RowMeasure(
            quantity=name,
            unit="",
            function=ROW_MEASURES[name],
            half_means="added" if name == "participation_ratio" else "ignored",
        )
    )
    layers = LAYERS if features == FEATURES else 10
    estimates = measure(TaskRows(cloud(rows, features, seed=seed // 2, layers=layers)))
    return {name: covered(*interval_of(profile(estimates)), expected_of_rows(name, rows, features))}


@cache
def expected_of_rows(name: str, rows: int, features: int) -> float:
    layers = 1500 if features == FEATURES else 25
    calls = 1 if features == FEATURES else 20
    clouds = (cloud(rows, features, seed=10**6 + 2 * call, layers=layers) for call in range(calls))
    return float(torch.cat([ROW_MEASURES[name](rows_of_layers) for rows_of_layers in clouds]).mean())


def tasks_apart(tasks: int, rows: int, distance: float, *, seed: int, layers: int = LAYERS) -> list[Tensor]:
    """Rows of each task, around means that lie `distance` apart in units of their own spread."""
    means = distance * normal(tasks, FEATURES, seed=tasks) / FEATURES**0.5
    return [means[task] + normal(layers, rows, FEATURES, seed=seed + task) * decaying() for task in range(tasks)]


SEPARABILITY: dict[str, Callable[..., Tensor]] = {
    "silhouette": silhouette,
    "between_share": between_share,
    "identity_accuracy": partial(group_identity_accuracy, seed=0),
}
OF_DRAWS = {"silhouette": silhouette_of_draws, "between_share": between_share_of_draws}


def separability_right(
    name: str, tasks: int, rows: int, distance: float, layers: int, seed: int
) -> dict[str, np.ndarray]:
    measure = BetweenTasks(
        quantity=name,
        unit="",
        function=SEPARABILITY[name],
        of_draws=OF_DRAWS.get(name),
        half_means="subtracted" if name in OF_DRAWS else "ignored",
    )
    estimates = measure(tasks_apart(tasks, rows, distance, seed=seed // 2, layers=layers))
    truth = expected_separability(name, tasks, rows, distance)
    return {f"task_separability/{name}": covered(*interval_of(profile(estimates)), truth)}


@cache
def expected_separability(name: str, tasks: int, rows: int, distance: float) -> float:
    layers = 400 if name == "identity_accuracy" else 1000
    rows_by_task = tasks_apart(tasks, rows, distance, seed=10**6, layers=layers)
    groups = torch.arange(tasks).repeat_interleave(rows)
    return float(SEPARABILITY[name](torch.cat(rows_by_task, dim=1), groups).mean())


def _separability(name: str, distance: float, *, short: int, long: int, claim: Claim = "equal") -> Simulation:
    words = "4 equal tasks" if distance == 0 else "4 tasks that differ"
    layers = 10 if name == "identity_accuracy" else LAYERS
    return Simulation(
        name=f"{name} {distance}",
        setting=f"{words}, 30 rows each",
        right=partial(separability_right, name, 4, 30, distance, layers),
        short=short,
        long=long,
        claim=claim,
    )


CLAIMS: dict[tuple[str, int], Claim] = {
    ("effective_rank", 100): "conservative",
    ("effective_rank", 300): "conservative",
}
"""Of measures on few rows, whose errors miss by more than the tolerance."""

SIMULATIONS = [
    *(
        Simulation(
            name=f"{name} {rows}" if features == FEATURES else f"{name} {rows} {features}",
            setting=f"{features} features, {rows} rows",
            right=partial(row_measure_right, name, rows, features),
            short=short,
            long=50 if rows == 400 else 20,
            claim=CLAIMS.get((name, rows), "equal"),
        )
        for name, short in (
            ("effective_rank", 4),
            ("participation_ratio", 0),
            ("matrix_entropy", 4),
            ("intrinsic_dimension", 3),
            ("anisotropy", 4),
        )
        for rows, features, short in ((100, FEATURES, short), (300, FEATURES, 2), (400, 576, 0))
        if (name, rows) != ("participation_ratio", 100)  # has no interval
    ),
    _separability("silhouette", 1.0, short=3, long=30),
    _separability("between_share", 1.0, short=4, long=40),
    _separability("between_share", 0.0, short=0, long=40),
    _separability("identity_accuracy", 1.0, short=5, long=80),
]
