"""Scores of trained probes: does the interval from test rows hold the probe's score on the population?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from calibration.simulation import Claim, Simulation, covered
from torch import Tensor

from probes.analysis import interval_of
from probes.analysis.between_tasks.tuning_gain import paired_difference
from probes.metrics import MAIN_METRIC, TargetKind, score_rows
from probes.seeds import derive_seed
from probes.training import TaskData, fit_probes
from probes.training.layer_probes import LayerProbes
from probes.training.scoring import SplitLogits, TaskScorer
from probes.training.task_data import LabelledActivations
from probes.values import Activations, LayerProfile, Reading

READING = Reading("decoder", "residual", "last")
POPULATION_ROWS = 60_000
TRAINING_ROWS = 300
DATA_SETS = 20
"""Test sets of one call of a simulation."""
TRAINED_PROBES = 3
"""Probes trained on different rows, to which test sets are drawn in turn."""


@dataclass(frozen=True)
class Population:
    """Gaussian features, of which the first follow the label.

    Attributes:
        kind: Kind of task.
        shares: Shares of the classes; for other kinds one entry for each label, or one in all.
        signal: Distance of a class mean from 0 in deviations of a feature; of a label or target, its weight.
        features: Number of features.
    """

    kind: TargetKind
    shares: tuple[float, ...]
    signal: float
    features: int = 12

    def draw(self, rows: int, *, seed: int, signal: float | None = None) -> tuple[Tensor, Tensor]:
        """Activations of one layer `(rows, features)`, and targets."""
        generator = torch.Generator().manual_seed(seed)
        signal = self.signal if signal is None else signal
        x = torch.randn(rows, self.features, generator=generator)
        outputs = len(self.shares)
        if self.kind == "classification":
            y = torch.multinomial(torch.tensor(self.shares), rows, replacement=True, generator=generator)
            x[torch.arange(rows), y] += signal
        elif self.kind == "multilabel":
            y = (torch.rand(rows, outputs, generator=generator) < torch.tensor(self.shares)).float()
            x[:, :outputs] += signal * y
        else:
            y = torch.randn(rows, generator=generator)
            x[:, 0] += signal * y
        return x, y


@dataclass(frozen=True)
class Trained:
    """A probe of the true labels, one of shuffled labels and one of a second, noisier layer, and their population."""

    population: Population
    probe: LayerProbes
    control: LayerProbes
    second: LayerProbes
    noise: float = 0.7
    """Deviation of the noise that the second layer adds to the first."""

    def test_logits(self, rows: int, *, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Logits `(1, rows, classes)` and targets of the three probes on new rows of the population."""
        x, y = self.population.draw(rows, seed=seed)
        generator = torch.Generator().manual_seed(derive_seed(seed, "noise"))
        noisy = x + self.noise * torch.randn(x.shape, generator=generator)
        shuffled = y[torch.randperm(rows, generator=generator)]
        return {
            "probe": (self.probe.logits(x[None]), y),
            "control": (self.control.logits(x[None]), shuffled),
            "second": (self.second.logits(noisy[None]), y),
        }

    def profiles(self, rows: int, *, seed: int) -> dict[str, LayerProfile]:
        """What a run reports of a test set of so many rows: every metric, `selectivity` and `probe_gain`."""
        logits = self.test_logits(rows, seed=seed)
        main = MAIN_METRIC[self.population.kind]
        first = _scored(self.population, logits["probe"], logits["control"], seed)
        second = _scored(self.population, logits["second"], logits["control"], seed)
        difference = paired_difference(first[main].estimates, second[main].estimates)
        gain = LayerProfile(quantity="probe_gain", unit="", layers=(0,), estimates=difference)
        return {**first, "probe_gain": gain}


@cache
def trained(population: Population, number: int) -> Trained:
    """Probes trained by the package on training rows of the population."""
    x, y = population.draw(TRAINING_ROWS, seed=derive_seed(number, "train"))
    generator = torch.Generator().manual_seed(derive_seed(number, "controls"))
    noisy = x + Trained.noise * torch.randn(x.shape, generator=generator)
    shuffled = y[torch.randperm(len(y), generator=generator)]
    sides = ((x, y), (x, shuffled), (noisy, y))
    return Trained(population, *(_probe(*side) for side in sides))


def _probe(x: Tensor, y: Tensor) -> LayerProbes:
    """A probe with a given penalty: nothing is chosen, so that validation and test rows do not matter."""
    rows = {"x_validation": x, "y_validation": y, "x_test": x, "y_test": y}
    fit = fit_probes(
        x, y, **rows, penalties=(0.01,), min_validation_rows=1, controls=0, bootstrap_samples=0, permutations=0
    )
    return fit.probes


@cache
def truth(population: Population, number: int) -> Mapping[str, float]:
    """Population values of every metric, of selectivity and of the gain from the second layer to the first."""
    fitted = trained(population, number)
    logits = fitted.test_logits(POPULATION_ROWS, seed=derive_seed(0, "population"))
    kind, main = population.kind, MAIN_METRIC[population.kind]
    by_probe = {
        name: {metric: float(value) for metric, value in score_rows(kind, *outputs).values.items()}
        for name, outputs in logits.items()
    }
    scores = by_probe["probe"]
    selectivity = scores[main] - by_probe["control"][main]
    return {**scores, "selectivity": selectivity, "probe_gain": scores[main] - by_probe["second"][main]}


def _scored(
    population: Population, probe: tuple[Tensor, Tensor], control: tuple[Tensor, Tensor], seed: int
) -> dict[str, LayerProfile]:
    logits = torch.stack([probe[0], control[0]], dim=1)  # (layers, 1 + controls, rows, classes)
    targets = torch.stack([probe[1], control[1]])
    scorer = TaskScorer(
        data=_task_data(population),
        probe="linear",
        probed_layers=(0,),
        penalties=(0.01,),
        remarks=("",),
        bootstrap_samples=1000,
        permutations=0,
        seed=seed,
    )
    profiles = scorer.profiles(SplitLogits("test", logits, targets))
    return {profile.metric: profile for profile in profiles if not profile.control}


@cache
def _task_data(population: Population) -> TaskData:
    """A task that names kind, classes and layers; the scorer is given logits, and reads no rows."""
    x, y = population.draw(TRAINING_ROWS, seed=0)
    split = LabelledActivations(Activations(x[None], (0,), tuple(map(str, range(len(y)))), READING), y)
    labels = () if population.kind == "regression" else tuple(map(str, range(len(population.shares))))
    return TaskData(task="task", kind=population.kind, labels=labels, train=split, validation=split, test=split)


def _right(population: Population, rows: int, metrics: tuple[str, ...], seed: int) -> dict[str, np.ndarray]:
    hits: dict[str, list[np.ndarray]] = {}
    for number in range(DATA_SETS):
        which = number % TRAINED_PROBES
        for metric, profile in trained(population, which).profiles(rows, seed=derive_seed(seed, number)).items():
            if not metrics or metric in metrics:
                hits.setdefault(metric, []).append(covered(*interval_of(profile), truth(population, which)[metric]))
    return {_name(metric, population): np.concatenate(values) for metric, values in hits.items()}


def _name(metric: str, population: Population) -> str:
    if metric in {"selectivity", "probe_gain"}:
        return f"{metric} ({MAIN_METRIC[population.kind]})"
    return f"{metric} of labels" if population.kind == "multilabel" else metric


def _simulation(
    name: str,
    rows: int,
    *,
    short: int = 0,
    data_sets: int = 1000,
    metrics: tuple[str, ...] = (),
    claim: Claim = "equal",
) -> Simulation:
    population, words = POPULATIONS[name]
    return Simulation(
        name=f"probe scores, {name}, {rows} rows, {metrics or 'all'}",
        setting=f"{words}, {rows} test rows",
        right=partial(_right, population, rows, metrics),
        short=short,
        long=data_sets // DATA_SETS,
        claim=claim,
    )


CLASSIFICATION = ("macro_f1", "accuracy", "cross_entropy_bits", "auroc", "selectivity", "probe_gain")

POPULATIONS = {
    "two": (Population("classification", (0.5, 0.5), 1.2), "2 classes"),
    "unbalanced": (Population("classification", (0.85, 0.15), 1.5), "2 classes, 85/15"),
    "six": (Population("classification", (1 / 6,) * 6, 2.0), "6 classes"),
    "easy": (Population("classification", (0.5, 0.5), 2.2), "2 classes, 3 % of rows wrong"),
    "numbers": (Population("regression", (1.0,), 1.0), "regression"),
    "labels": (Population("multilabel", (0.5, 0.4, 0.3), 1.5), "3 labels"),
}
"""Name → population, and what it is in words."""

SIMULATIONS = [
    _simulation("two", 60, short=5),
    _simulation("two", 200),
    _simulation("two", 400),
    _simulation("unbalanced", 60, data_sets=4000, metrics=("macro_f1", "accuracy", "auroc")),
    _simulation("unbalanced", 200, short=5),
    _simulation("unbalanced", 400),
    _simulation("six", 60),
    _simulation("six", 200, short=5),
    _simulation("six", 400),
    _simulation("easy", 60, metrics=("accuracy", "macro_f1", "selectivity", "probe_gain"), short=5),
    _simulation("easy", 60, metrics=("auroc",), claim="conservative"),
    _simulation("easy", 200),
    _simulation("numbers", 60, short=5, data_sets=4000, metrics=("r2", "mse", "spearman", "probe_gain")),
    _simulation("numbers", 60, data_sets=4000, metrics=("selectivity",), claim="conservative"),
    _simulation("numbers", 200),
    _simulation("numbers", 400),
    _simulation("labels", 60),
    _simulation("labels", 200, short=4),
]
