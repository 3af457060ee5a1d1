"""What several tasks show together: means over groups, specificity, agreement of two measures."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import torch
from calibration.similarity import FEATURES, decaying, profile
from calibration.simulation import Claim, Simulation, covered
from scipy.stats import spearmanr

from probes.analysis import LabelCKA, TaskRows, group_means, interval_of, rank_agreement
from probes.analysis.between_tasks.specificity import specificity_profiles
from probes.values import Estimates, LayerProfile

# Means over groups ---------------------------------------------------------------------------------------------------

EFFECTS = {"normal": "normal", "uniform": "uniform", "skewed": "exponentially distributed"}


def group_mean_right(tasks: int, effects: str, seed: int) -> dict[str, np.ndarray]:
    """Tasks are drawn from many whose mean is 0; 200 data sets as layers."""
    rng = np.random.default_rng(seed)
    draws = {"normal": rng.standard_normal, "uniform": lambda shape: rng.uniform(-1, 1, shape)}
    draw = draws.get(effects, lambda shape: rng.exponential(size=shape) - 1)
    values = draw((tasks, 200)) + 0.3 * rng.standard_normal((tasks, 200))
    profiles = [profile(Estimates(of_task, 100), task=str(task)) for task, of_task in enumerate(values)]
    (mean,) = group_means(profiles, dict.fromkeys(map(str, range(tasks)), "all"))
    return {"group_mean": covered(*interval_of(mean), 0.0)}


# Label CKA of several layers and tasks -------------------------------------------------------------------------------

SIGNALS = np.array([[0.2, 0.4, 0.8], [0.4, 0.4, 0.4], [0.9, 0.6, 0.5], [0.6, 1.0, 0.3]])
"""Weight of the label in each layer (row) and task (column)."""
SHARED = 0.6
"""Weight, in each layer, of noise that all layers of a task share."""


def layers_of_task(task: int, rows: int, *, seed: int) -> TaskRows:
    """Layers that hold the label of one task along one direction, with noise that they share."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (rows,), generator=generator)
    layers, scale = len(SIGNALS), decaying()
    shared = torch.randn(rows, FEATURES, generator=generator)
    own = torch.randn(layers, rows, FEATURES, generator=generator)
    x = scale * (SHARED * shared + (1 - SHARED**2) ** 0.5 * own)
    x[:, :, 0] += torch.tensor(SIGNALS[:, task], dtype=torch.float32)[:, None] * (2 * labels - 1)
    return TaskRows(x, labels)


def label_cka_of_population() -> np.ndarray:
    """‖Σ_xy‖² / (‖Σ_xx‖ ‖Σ_yy‖) of each cell, with one-hot labels of two equally frequent classes."""
    variances = decaying().double().numpy() ** 2
    first = SIGNALS**2 + variances[0]  # variance of the feature that holds the label
    norm_x = np.sqrt(first**2 + np.sum(variances[1:] ** 2))
    # covariances of the feature with both columns of the one-hot labels are ± signal / 2; ‖Σ_yy‖ = 1/2
    return 2 * (SIGNALS / 2) ** 2 / (norm_x * 0.5)


def _profiles(rows: int, seed: int) -> list[LayerProfile]:
    measure = LabelCKA(permutations=0)
    return [
        profile(measure(layers_of_task(task, rows, seed=seed + task)), task=str(task), quantity="label_cka")
        for task in range(SIGNALS.shape[1])
    ]


def specificity_right(rows: int, seed: int) -> dict[str, np.ndarray]:
    truth = label_cka_of_population()
    truth = truth - truth.mean(0) - truth.mean(1, keepdims=True) + truth.mean()
    shares = []
    for number in range(20):
        cells = [
            covered(*interval_of(specific), truth[:, task])
            for task, specific in enumerate(specificity_profiles(_profiles(rows, seed // 2 + 10 * number)))
        ]
        shares.append(np.mean(cells))
    return {"specificity/label_cka": np.array(shares)}


def mean_of_two_right(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Two tasks are held fixed, so that the mean is over their population values."""
    truth = label_cka_of_population()[:, :2].mean(1)
    shares = []
    for number in range(20):
        (mean,) = group_means(_profiles(rows, seed // 2 + 10 * number), {"0": "both", "1": "both"})
        shares.append(covered(*interval_of(mean), truth).mean())
    return {"group_mean": np.array(shares)}


# Agreement of two measures -------------------------------------------------------------------------------------------


def two_maps(tasks: int, relation: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two layer × task matrices of 8 layers whose tasks have levels and slopes, related between the two."""
    layers = np.linspace(-1, 1, 8)[:, None]
    common, first, second = rng.standard_normal((3, 2, tasks))
    weight = np.sqrt(1 - relation**2)
    maps = []
    for own in (first, second):
        level, slope = np.sqrt(abs(relation)) * common + np.sqrt(1 - abs(relation)) * own
        maps.append(level + (0.5 + slope) * layers + 0.3 * weight * rng.standard_normal((8, tasks)))
    return maps[0], maps[1]


def agreement_right(tasks: int, relation: float, seed: int) -> dict[str, np.ndarray]:
    rng, hits = np.random.default_rng(seed), []
    for _ in range(25):
        found = rank_agreement(*two_maps(tasks, relation, rng))
        hits.append(covered(np.array(found.ci_low), np.array(found.ci_high), population_agreement(relation)))
    return {"agreement": np.array(hits)}


@cache
def population_agreement(relation: float) -> float:
    """Spearman's correlation over the cells of very many tasks."""
    x, y = two_maps(40_000, relation, np.random.default_rng(0))
    return float(spearmanr(x.ravel(), y.ravel()).statistic)


def _group_mean(tasks: int, effects: str, *, short: int, claim: Claim = "equal") -> Simulation:
    return Simulation(
        name=f"group_mean {tasks} {effects}",
        setting=f"{tasks} tasks, effects {EFFECTS[effects]}",
        right=partial(group_mean_right, tasks, effects),
        short=short,
        long=20,
        claim=claim,
    )


SIMULATIONS = [
    _group_mean(3, "normal", short=3),
    _group_mean(5, "normal", short=3),
    _group_mean(3, "uniform", short=0),
    _group_mean(5, "uniform", short=0),
    _group_mean(3, "skewed", short=0, claim="limit"),
    _group_mean(5, "skewed", short=0, claim="limit"),
    Simulation(
        name="group_mean of two tasks",
        setting="2 tasks (held fixed), 100 rows each",
        right=partial(mean_of_two_right, 100),
        short=5,
        long=50,
    ),
    *(
        Simulation(
            name=f"specificity {rows}",
            setting=f"4 layers × 3 tasks, {rows} rows each",
            right=partial(specificity_right, rows),
            short=short,
            long=50,
        )
        for rows, short in ((60, 5), (200, 0))
    ),
    *(
        Simulation(
            name=f"agreement {tasks} {relation}",
            setting=f"8 layers × {tasks} tasks, correlation {population_agreement(relation):.2f}",
            right=partial(agreement_right, tasks, relation),
            short=short,
            long=120 if relation == 0 else 40,
        )
        for relation, tasks, short in (
            (0.0, 9, 0),
            (0.5, 9, 3),
            (0.5, 14, 0),
            (0.5, 26, 0),
            (0.9, 9, 0),
            (0.9, 26, 0),
        )
    ),
]
