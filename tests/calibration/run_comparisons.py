"""Two sets of probes on the same test rows: intervals of their difference, and how often it is called significant."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from calibration.similarity import correlated_layers
from calibration.simulation import Simulation, covered

from probes.analysis import LayerTable, paired_score_difference
from probes.metrics import Predictions
from probes.seeds import derive_seed
from probes.training import fit_probes
from probes.values import SIGNIFICANCE_LEVEL, LayerProfile, Reading

READING = Reading("decoder", "residual", "last")
EASY = 0.6  # share of rows on which probes are better than chance; the others make their errors correlated


def drawn(rng: np.random.Generator, rows: int, layers: int, right: float, easy: np.ndarray) -> Predictions:
    """Two-class predictions that are right on easy rows with this probability, on the others by chance."""
    targets = (np.arange(rows) % 2).astype(np.int16)
    correct = rng.random((layers, rows)) < np.where(easy, right, 0.5)
    return Predictions(
        task="task",
        kind="classification",
        reading=READING,
        labels=("no", "yes"),
        layers=tuple(range(layers)),
        row_ids=tuple(map(str, range(rows))),
        predicted=np.where(correct, targets, 1 - targets).astype(np.int16),
        targets=targets,
    )


def interval_right(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Errors are symmetric and the classes balanced, so that the population's macro-F1 is the accuracy."""
    rng = np.random.default_rng(seed)
    easy = rng.random(rows) < EASY
    one, other = drawn(rng, rows, 1, 0.8, easy), drawn(rng, rows, 1, 0.95, easy)
    found = {}
    for metric in ("macro_f1", "accuracy"):
        estimates = paired_score_difference(one, other, metric=metric, exchanges=2, seed=seed % 2**31)
        assert estimates.interval is not None
        found[f"difference of {metric}"] = covered(*estimates.interval, EASY * (0.95 - 0.8))
    return found


def trained_interval_right(training_sets: int, seed: int) -> dict[str, np.ndarray]:
    """Two views of the same rows are equally good on average over training sets, so that the true difference is 0."""
    generator = torch.Generator().manual_seed(seed)
    sides: list[dict[str, torch.Tensor]] = [{}, {}]
    for name, rows in {"x": 150, "x_validation": 60, "x_test": 200}.items():
        y = torch.arange(rows) % 2
        for side in sides:
            x = correlated_layers(1, rows, 16, 0.0, generator)
            x[0, :, 0] += 1.2 * y
            side |= {name: x, name.replace("x", "y", 1): y}
    settings = {"penalties": (0.1,), "min_validation_rows": 1, "controls": 0, "permutations": 0}
    fits = [fit_probes(**side, training_sets=training_sets, seed=seed % 2**31, **settings) for side in sides]
    one, other = (fit.predictions for fit in fits)
    assert one is not None
    assert other is not None
    estimates = paired_score_difference(one, other, exchanges=2, seed=seed % 2**31)
    assert estimates.interval is not None
    return {"difference of macro_f1 of trained probes": covered(*estimates.interval, 0.0)}


def alarms(rows: int, seed: int) -> dict[str, np.ndarray]:
    """For equally good probes, the share of significant cells, and whether any is after correction."""
    rng, table = np.random.default_rng(seed), LayerTable()
    for task in range(3):
        easy = rng.random(rows) < EASY
        pair = [drawn(rng, rows, 8, 0.9, easy) for _ in range(2)]
        estimates = paired_score_difference(*pair, resamples=20, exchanges=200, seed=derive_seed(seed, task) % 2**31)
        quantity = "difference/macro_f1"
        table.add(
            [LayerProfile(quantity=quantity, unit="F1", task=str(task), layers=tuple(range(8)), estimates=estimates)]
        )
    profiles = table.findings().profiles
    alone = np.stack([profile.estimates.p_cell for profile in profiles]) <= SIGNIFICANCE_LEVEL
    corrected = np.stack([profile.estimates.p for profile in profiles]) <= SIGNIFICANCE_LEVEL
    return {
        "p of a difference, one cell": np.array([alone.mean()]),
        "p of a difference, any cell": np.array([corrected.any()]),
    }


SIMULATIONS = [
    *(
        Simulation(
            name=f"difference of two runs, {rows} rows",
            setting=f"two probes with correlated errors, {rows} test rows",
            right=partial(interval_right, rows),
            short=short,
            long=1500,
        )
        for rows, short in ((60, 0), (200, 100), (400, 0))
    ),
    Simulation(
        name="difference of trained probes",
        setting="two equally good views of 150 training and 200 test rows, 20 training sets",
        right=partial(trained_interval_right, 20),
        short=0,
        long=300,
    ),
    Simulation(
        name="difference of trained probes held fixed",
        setting="the same, without training sets: intervals hold the trained probes fixed",
        right=partial(trained_interval_right, 0),
        claim="limit",
        short=0,
        long=300,
    ),
    Simulation(
        name="p of differences",
        setting="two equally good probes, 3 tasks × 8 layers, 200 test rows",
        right=partial(alarms, 200),
        rate="false alarms",
        short=15,
        long=400,
    ),
]
