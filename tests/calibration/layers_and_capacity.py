"""What is reported beside a probe's score: capacity, layers side by side, the expected layer, calibration, sizes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from calibration.codes import task_of
from calibration.measures_of_probes import QUICK, TWO, fitted
from calibration.probe_scores import READING, Population
from calibration.simulation import Simulation, covered

from probes.analysis import interval_of
from probes.analysis.significance import with_p_values
from probes.probe_measures import Calibration, ProbeCapacity, ProbedTask, SampleEfficiency
from probes.probe_measures.layer_choice import concatenation, mixtures_up_to, train_mixtures
from probes.seeds import derive_seed
from probes.training import LabelledActivations, TaskData, TaskProbes
from probes.training.train_bank import TrainedBank
from probes.values import SIGNIFICANCE_LEVEL, Activations, LayerProfile

DATA_SETS = 20
"""Data sets of one call of a simulation."""
TRAINED = 3
"""Training sets, to which test sets are drawn in turn."""
TEST_ROWS, POPULATION_ROWS = 200, 20_000
THREE = Population("classification", (1 / 3,) * 3, 1.2)


def in_layers(train: int, rows: int, seed: int) -> ProbedTask:
    """Four layers with parts of the classes in noise of their own; training rows depend on `train` alone."""
    strengths = torch.tensor([0.0, 0.3, 0.6, 0.5])
    splits = {}
    for split, count, own in (("train", 150, train), ("validation", 200, train), ("test", rows, seed)):
        generator = torch.Generator().manual_seed(derive_seed(own, split))
        y = torch.randint(2, (count,), generator=generator)
        x = torch.randn(4, count, 8, generator=generator)
        x[:, :, 0] += strengths[:, None] * (2.0 * y - 1)
        names = tuple(map(str, range(count)))
        splits[split] = LabelledActivations(Activations(x, (0, 1, 2, 3), names, READING), y)
    data = TaskData(task="task", kind="classification", labels=("a", "b"), **splits)
    return fitted(replace(task_of(TWO, (60, 20, 20), 0), data=data, seed=train))


@cache
def _mixtures(train: int) -> TrainedBank:
    return train_mixtures(in_layers(train, 10, 0), [0, 1, 2, 3], halves=0, max_epochs=20)


def _side_by_side(train: int, rows: int, seed: int) -> Iterable[LayerProfile]:
    """The mixtures are trained once for each training set; the probe of all layers is solved anew."""
    task = in_layers(train, rows, seed)
    task = replace(task, settings=replace(QUICK, bootstrap_samples=300))
    yield from mixtures_up_to(task, _mixtures(train), [0, 1, 2, 3])
    yield from concatenation(task)


def _capacity(measure: ProbeCapacity, train: int, rows: int, seed: int) -> Iterable[LayerProfile]:
    """One layer of three classes."""
    splits = {}
    for split, count, own in (("train", 150, train), ("validation", 200, train), ("test", rows, seed)):
        x, y = THREE.draw(count, seed=derive_seed(own, split))
        names = tuple(map(str, range(count)))
        splits[split] = LabelledActivations(Activations(x[None], (0,), names, READING), y)
    data = TaskData(task="task", kind="classification", labels=("a", "b", "c"), **splits)
    task = fitted(replace(task_of(TWO, (60, 20, 20), 0), data=data, seed=train))
    task = replace(task, settings=replace(QUICK, bootstrap_samples=300))
    yield from (item for item in measure(task) if isinstance(item, LayerProfile))


_OF_TRAINED = {
    "layers": _side_by_side,
    "sparse": partial(_capacity, ProbeCapacity(sparse=(1, 4), ranks=(), widths=())),
    "minibatches": partial(_capacity, ProbeCapacity(sparse=(), ranks=(1,), widths=(16,), max_epochs=8)),
}


@cache
def _truth(which: str, train: int) -> dict[str, np.ndarray]:
    found = _OF_TRAINED[which](train, POPULATION_ROWS, derive_seed(0, "population"))
    return {profile.quantity: profile.estimates.values for profile in found}


def _right(which: str, seed: int) -> dict[str, np.ndarray]:
    """Intervals about the trained probes."""
    hits: dict[str, list[np.ndarray]] = {}
    for number in range(DATA_SETS // 4 if which == "minibatches" else DATA_SETS):
        train = number % TRAINED
        for profile in _OF_TRAINED[which](train, TEST_ROWS, derive_seed(seed, number)):
            own = covered(*interval_of(profile), _truth(which, train)[profile.quantity])
            hits.setdefault(profile.quantity, []).append(np.atleast_1d(np.nanmean(own)))
    return {quantity: np.concatenate(values) for quantity, values in hits.items()}


def _rows_needed(seed: int, test_rows: int) -> LayerProfile:
    found = SampleEfficiency()(fitted(task_of(TWO, (150, 200, test_rows), seed)))
    return next(item for item in found if isinstance(item, LayerProfile))


@cache
def _rows_truth() -> float:
    found = [_rows_needed(derive_seed(1, "truth", number), 2000).estimates.values[0] for number in range(100)]
    return float(np.nanmean(found))


def _rows_right(seed: int) -> dict[str, np.ndarray]:
    found = [_rows_needed(derive_seed(seed, number), TEST_ROWS) for number in range(DATA_SETS)]
    return {"rows_to_90_percent": np.concatenate([covered(*interval_of(one), _rows_truth()) for one in found])}


def _answers(rows: int, seed: int, sharpened: float) -> dict[str, LayerProfile]:
    """Answers of three classes that are right as often as they say, or of a probe that is too sure of them."""
    task = task_of(THREE, (60, 4, rows), seed)
    generator = torch.Generator().manual_seed(derive_seed(seed, "logits"))
    logits = 1.5 * torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    targets = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    data = replace(task.data, test=LabelledActivations(task.data.test.activations, targets))
    probes = SimpleNamespace(logits=lambda _: sharpened * logits[None])
    fit = cast("TaskProbes", SimpleNamespace(probes=probes, validation_best_layer=None))
    found: Any = Calibration()(replace(task, data=data, fit=fit))
    return {profile.quantity: profile for profile in found}


@cache
def _excess(sharpened: float) -> float:
    return float(_answers(400_000, 0, sharpened)["over_confidence"].estimates.values[0])


def _calibration_right(sharpened: float, seed: int) -> dict[str, np.ndarray]:
    found = [_answers(TEST_ROWS, derive_seed(seed, number), sharpened) for number in range(DATA_SETS)]
    hits = [covered(*interval_of(one["over_confidence"]), _excess(sharpened)) for one in found]
    return {"over_confidence": np.concatenate(hits)}


def _calibration_alarms(seed: int) -> dict[str, np.ndarray]:
    alarms: dict[str, list[float]] = {}
    for number in range(DATA_SETS):
        for quantity, profile in _answers(TEST_ROWS, derive_seed(seed, number), 1.0).items():
            (tested,) = with_p_values([profile])
            assert tested.estimates.p_cell is not None
            alarms.setdefault(f"p of {quantity}", []).append(float(tested.estimates.p_cell[0] < SIGNIFICANCE_LEVEL))
    return {quantity: np.array(values) for quantity, values in alarms.items()}


SIMULATIONS = [
    Simulation(
        name="beside scores, layers",
        setting=f"4 layers with parts of the signal, 150 training rows, {TEST_ROWS} test rows",
        right=partial(_right, "layers"),
        short=1,
        long=50,
        claim="conservative",
    ),
    *(
        Simulation(
            name=f"beside scores, {which}",
            setting=f"3 classes, 150 training rows, {TEST_ROWS} test rows",
            right=partial(_right, which),
            short=short,
            long=long,
            claim="conservative",
        )
        for which, short, long in (("sparse", 3, 50), ("minibatches", 0, 40))
    ),
    Simulation(
        name="beside scores, rows needed",
        setting=f"2 classes, 150 training rows, {TEST_ROWS} test rows",
        right=_rows_right,
        short=0,
        long=25,
    ),
    *(
        Simulation(
            name=f"beside scores, over-confidence {sharpened:g}",
            setting=f"3 classes, logits {sharpened:g} times as large as they should be, {TEST_ROWS} test rows",
            right=partial(_calibration_right, sharpened),
            short=10,
            long=50,
        )
        for sharpened in (1.0, 2.0)
    ),
    Simulation(
        name="beside scores, calibrated answers",
        setting=f"3 classes, calibrated probabilities, {TEST_ROWS} test rows",
        right=_calibration_alarms,
        short=10,
        long=50,
        rate="false alarms",
    ),
]
