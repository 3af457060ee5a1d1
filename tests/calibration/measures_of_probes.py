"""Other measures of probes: learning curves, probes of classes in order, and centres of gravity over layers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from calibration.codes import SETTINGS, task_of
from calibration.probe_scores import READING, Population
from calibration.simulation import Simulation, covered

from probes.analysis import interval_of
from probes.probe_measures import LayerChoice, OrdinalProbe, ProbedTask
from probes.probe_measures.sample_efficiency import learning_curve
from probes.seeds import derive_seed
from probes.training import LabelledActivations, TaskData, fit_task
from probes.values import Activations, LayerProfile

DATA_SETS = 10
TRUTH_DATA_SETS = 200
GRADES = torch.tensor([-0.84, -0.25, 0.25, 0.84])
TWO = Population("classification", (0.5, 0.5), 0.8)
QUICK = replace(SETTINGS, bootstrap_samples=100, training_sets=0)


def fitted(task: ProbedTask) -> ProbedTask:
    return replace(task, settings=QUICK, fit=fit_task(task.data, QUICK, task.trainer, task.seed))


def in_order(train: int, rows: int, seed: int) -> ProbedTask:
    """Five grades of a number that four features hold; training rows depend on `train` alone, test rows on `seed`."""
    splits = {}
    for split, count, own in (("train", 150, train), ("validation", 200, train), ("test", rows, seed)):
        generator = torch.Generator().manual_seed(derive_seed(own, split))
        x = torch.randn(count, 12, generator=generator)
        y = torch.bucketize(x[:, :4].sum(1) / 2 + 0.7 * torch.randn(count, generator=generator), GRADES)
        names = tuple(map(str, range(count)))
        splits[split] = LabelledActivations(Activations(x[None], (0,), names, READING), y)
    data = TaskData(task="task", kind="classification", labels=tuple("abcde"), ordered=True, **splits)
    return fitted(replace(task_of(TWO, (60, 20, 20), 0), data=data, seed=train))


def _ordinal(train: int, rows: int, seed: int) -> dict[str, LayerProfile]:
    return {profile.quantity: profile for profile in OrdinalProbe()(in_order(train, rows, seed))}


@cache
def _ordinal_truth(train: int) -> dict[str, float]:
    found = _ordinal(train, 20_000, derive_seed(0, "population"))
    return {quantity: float(profile.estimates.values[0]) for quantity, profile in found.items()}


def _ordinal_right(seed: int) -> dict[str, np.ndarray]:
    hits: dict[str, list[np.ndarray]] = {}
    for number in range(DATA_SETS):
        train = number % 3
        for quantity, profile in _ordinal(train, 150, derive_seed(seed, number)).items():
            hits.setdefault(quantity, []).append(covered(*interval_of(profile), _ordinal_truth(train)[quantity]))
    return {quantity: np.concatenate(values) for quantity, values in hits.items()}


def _curve(seed: int, test_rows: int):
    return learning_curve(fitted(task_of(TWO, (150, 200, test_rows), seed)), [37, 75], subsets=8)


@cache
def _curve_truth() -> np.ndarray:
    curves = [_curve(derive_seed(1, "truth", number), 2000) for number in range(TRUTH_DATA_SETS)]
    return np.mean([curve.values[0] for curve in curves], axis=0)


def _curve_right(seed: int) -> dict[str, np.ndarray]:
    hits = []
    for number in range(DATA_SETS):
        curve = _curve(derive_seed(seed, number), 200)
        hits.append(covered(curve.low[0], curve.high[0], _curve_truth()))
    return {f"learning curve, {size} rows": np.array(hits)[:, i] for i, size in enumerate((37, 75, 150))}


def in_layers(seed: int) -> ProbedTask:
    """Four layers, of which the last two hold the classes in noise."""
    strengths = torch.tensor([0.0, 0.0, 0.8, 0.5])
    splits = {}
    for split, count in (("train", 150), ("validation", 100), ("test", 100)):
        generator = torch.Generator().manual_seed(derive_seed(seed, split))
        y = torch.randint(2, (count,), generator=generator)
        x = torch.randn(4, count, 8, generator=generator)
        x[:, :, 0] += 2 * strengths[:, None] * (2.0 * y - 1)
        names = tuple(map(str, range(count)))
        splits[split] = LabelledActivations(Activations(x, (0, 1, 2, 3), names, READING), y)
    data = TaskData(task="task", kind="classification", labels=("a", "b"), **splits)
    return fitted(replace(task_of(TWO, (60, 20, 20), 0), data=data, seed=seed))


_MIXTURE = ("layer_choice/centre_of_gravity", "scalar_mix_weight")


def _mixture(seed: int) -> dict[str, LayerProfile]:
    found = LayerChoice(depths=2, concatenate=False)(in_layers(seed))
    return {profile.quantity: profile for profile in found if profile.quantity in _MIXTURE}


@cache
def _mixture_truth() -> dict[str, np.ndarray]:
    found = [_mixture(derive_seed(1, "truth", number)) for number in range(40)]
    return {name: np.mean([one[name].estimates.values for one in found], axis=0) for name in _MIXTURE}


def _mixture_right(seed: int) -> dict[str, np.ndarray]:
    found = [_mixture(derive_seed(seed, number)) for number in range(DATA_SETS)]
    return {
        name: np.array([np.mean(covered(*interval_of(one[name]), _mixture_truth()[name])) for one in found])
        for name in _MIXTURE
    }


SIMULATIONS = [
    Simulation(
        name="measures of probes, ordinal",
        setting="5 grades, 150 training rows, 150 test rows",
        right=_ordinal_right,
        short=0,
        long=20,
        claim="conservative",
    ),
    Simulation(
        name="measures of probes, learning curves",
        setting="2 classes, subsets of 150 training rows, 200 test rows",
        right=_curve_right,
        short=0,
        long=20,
        claim="conservative",
    ),
    Simulation(
        name="measures of probes, centre of gravity",
        setting="4 layers, 2 of them with signal, 150 training rows",
        right=_mixture_right,
        short=0,
        long=20,
        claim="conservative",
    ),
]
