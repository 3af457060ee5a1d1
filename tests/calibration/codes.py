"""Measures in bits: does the interval of an online code, or of V-information, hold its mean over data sets?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import cast

import numpy as np
import torch
from calibration.probe_scores import READING, Population
from calibration.simulation import Simulation, covered

from probes.analysis import interval_of
from probes.analysis.significance import with_p_values
from probes.probe_measures import DescriptionLength, ProbedTask, VInformation
from probes.seeds import derive_seed
from probes.tasks import Split, Task
from probes.training import LabelledActivations, ProbeSettings, TaskData, TaskProbes, default_trainer
from probes.values import SIGNIFICANCE_LEVEL, Activations, LayerProfile

DATA_SETS = 10
"""Data sets of one call of a simulation."""
TRUTH_DATA_SETS = 300
"""Data sets over which a truth is the mean."""
ROWS = (150, 200, 200)
"""Training, validation and test rows."""
SETTINGS = ProbeSettings(penalties=(0.01, 0.1, 1.0), controls=0, permutations=0)

POPULATIONS = {
    "two": (Population("classification", (0.5, 0.5), 0.8), "2 classes"),
    "unbalanced": (Population("classification", (0.85, 0.15), 1.0), "2 classes, 85/15"),
    "six": (Population("classification", (1 / 6,) * 6, 1.5), "6 classes"),
    "labels": (Population("multilabel", (0.5, 0.3), 1.0), "2 labels"),
    "noise": (Population("classification", (0.5, 0.5), 0.0), "2 classes without signal"),
}


def task_of(population: Population, rows: tuple[int, int, int], seed: int) -> ProbedTask:
    """A task of one layer; these measures solve their own probes, so that it has none."""
    splits, prompts = {}, {}
    for split, count in zip(("train", "validation", "test"), rows, strict=True):
        x, y = population.draw(count, seed=derive_seed(seed, split))
        names = tuple(map(str, range(count)))
        splits[split] = LabelledActivations(Activations(x[None], (0,), names, READING), y)
        prompts[split] = Split(names, tuple(y.tolist()), names)
    labels = tuple(map(str, range(len(population.shares))))
    data = TaskData(task="task", kind=population.kind, labels=labels, **splits)
    return ProbedTask(
        task=Task("task", population.kind, labels, prompts),
        data=data,
        fit=cast("TaskProbes", None),
        settings=SETTINGS,
        trainer=default_trainer,
        seed=seed,
    )


def _measured(population: Population, seed: int, *, test_rows: int = 0) -> dict[str, LayerProfile]:
    rows = ROWS if test_rows == 0 else (*ROWS[:2], test_rows)
    probed = task_of(population, rows, seed)
    found = [*DescriptionLength()(probed), *VInformation()(probed)]
    profiles = [item for item in found if isinstance(item, LayerProfile) and not item.control]
    return {profile.quantity: profile for profile in profiles}


@cache
def _truth(population: Population) -> Mapping[str, float]:
    values: dict[str, list[float]] = {}
    torch.set_num_threads(1)
    for number in range(TRUTH_DATA_SETS):
        found = _measured(population, derive_seed(1, "truth", number), test_rows=2000)
        for quantity, profile in found.items():
            values.setdefault(quantity, []).append(float(profile.estimates.values[0]))
    return {quantity: float(np.mean(numbers)) for quantity, numbers in values.items()}


def _right(population: Population, quantities: tuple[str, ...], seed: int) -> dict[str, np.ndarray]:
    hits: dict[str, list[np.ndarray]] = {}
    truth = _truth(population)
    for number in range(DATA_SETS):
        for quantity, profile in _measured(population, derive_seed(seed, number)).items():
            if quantity in quantities:
                hits.setdefault(quantity, []).append(covered(*interval_of(profile), truth[quantity]))
    return {quantity: np.concatenate(values) for quantity, values in hits.items()}


def _alarms(population: Population, seed: int) -> dict[str, np.ndarray]:
    alarms: dict[str, list[float]] = {}
    for number in range(DATA_SETS):
        found = _measured(population, derive_seed(seed, number))
        for quantity in ("code_saved", "v_information"):
            (tested,) = with_p_values([found[quantity]])
            p = tested.estimates.p_cell
            assert p is not None
            alarms.setdefault(quantity, []).append(float(p[0] < SIGNIFICANCE_LEVEL))
    return {quantity: np.array(values) for quantity, values in alarms.items()}


def _simulation(name: str, quantities: tuple[str, ...], *, short: int = 0) -> Simulation:
    population, words = POPULATIONS[name]
    return Simulation(
        name=f"codes, {name}, {', '.join(quantities)}",
        setting=f"{words}, {ROWS[0]} training rows, {ROWS[2]} test rows",
        right=partial(_right, population, quantities),
        short=short,
        long=20,
        claim="conservative",
    )


CODES = ("description_length", "compression")

SIMULATIONS = [
    *(_simulation(name, (*CODES, "v_information")) for name in ("two", "unbalanced", "six", "labels")),
    Simulation(
        name="codes, no signal",
        setting=f"{POPULATIONS['noise'][1]}, {ROWS[0]} training rows, {ROWS[2]} test rows",
        right=partial(_alarms, POPULATIONS["noise"][0]),
        short=6,
        long=20,
        rate="false alarms",
        claim="conservative",
    ),
]
