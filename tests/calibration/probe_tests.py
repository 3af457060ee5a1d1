"""Trained probes of random labels: how often is a score called significant, and is the chosen layer's score honest?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from calibration.similarity import correlated_layers
from calibration.simulation import Claim, Simulation, covered

from probes.analysis import LayerTable, interval_of
from probes.analysis.between_tasks.tuning_gain import paired_difference
from probes.probe_measures.main_scores import main_score_estimates
from probes.seeds import derive_seed
from probes.training import TaskProbes, fit_probes
from probes.training.best_layers import best_layers_of
from probes.values import SIGNIFICANCE_LEVEL, Estimates, LayerProfile

FEATURES = 8
ROWS = {"x": 120, "x_validation": 60, "x_test": 100}


def fitted(layers: int, share: float, *, seed: int, signal: float = 0.0, **settings: object) -> TaskProbes:
    """Probes of layers that resemble their neighbours, and labels that follow the last layer by `signal`.

    Args:
        layers: How many.
        share: Share of rows with label 1.
        seed: Decides the data, and is that of the probes.
        signal: How far the mean of a feature of the last layer lies from 0 in rows with label 1.
        **settings: Of the probes.
    """
    generator = torch.Generator().manual_seed(seed)
    sides = {}
    for name, rows in ROWS.items():
        x = correlated_layers(layers, rows, FEATURES, 0.7, generator)
        y = (torch.rand(rows, generator=generator) < share).long()
        x[-1, :, 0] += signal * y
        sides |= {name: x, name.replace("x", "y", 1): y}
    return fit_probes(
        **sides, penalties=(0.01, 1.0), min_validation_rows=1, training_sets=0, seed=seed % 2**31, **settings
    )


def alarms(tasks: int, share: float, metrics: tuple[str, ...], seed: int) -> dict[str, np.ndarray]:
    """The share of cells of a heatmap that are significant by themselves, and whether any is after correction."""
    table = LayerTable()
    for task in range(tasks):
        fits = fitted(8, share, seed=derive_seed(seed, task), bootstrap_samples=0)
        table.add(replace(fits.profile(metric), task=str(task)) for metric in metrics)
    found = {}
    for metric in metrics:
        profiles = [p for p in table.findings().profiles if p.metric == metric and p.split == "test" and not p.control]
        alone, corrected = (
            np.stack([getattr(p.estimates, column) for p in profiles]) <= SIGNIFICANCE_LEVEL
            for column in ("p_cell", "p")
        )
        found[f"p of {metric}, one cell"] = np.array([alone.mean()])
        found[f"p of {metric}, any cell"] = np.array([corrected.any()])
    return found


def best_layer_right(seed: int) -> dict[str, np.ndarray]:
    """Accuracy at the layer that validation prefers: of labels that are fair coins, its population value is 1/2."""
    fits = fitted(20, 0.5, seed=seed, permutations=0, controls=0)
    best = fits.probes.layers.index(fits.validation_best_layer)
    low, high = interval_of(fits.profile("accuracy"))
    return {"accuracy at the best layer": covered(low[best : best + 1], high[best : best + 1], 0.5)}


def gain_alarms(rows: int, seed: int) -> dict[str, np.ndarray]:
    """The same of the gain of one model over another that is right as often, each row with probability 3/4."""
    generator, table = torch.Generator().manual_seed(seed), LayerTable()
    targets = torch.arange(rows) % 2

    def scores() -> Estimates:
        right = torch.rand(20, rows, generator=generator) < 0.75
        logits = torch.nn.functional.one_hot(torch.where(right, targets, 1 - targets), 2).float()
        return main_score_estimates(
            "classification", logits, targets, resamples=1000, permutations=1, seed=seed % 2**31
        )

    for task in range(10):
        gain = paired_difference(scores(), scores())
        layers = tuple(range(20))
        table.add([LayerProfile(quantity="probe_gain", unit="F1", layers=layers, task=str(task), estimates=gain)])
    estimates = [profile.estimates for profile in table.findings().profiles if profile.quantity == "probe_gain"]
    alone, corrected = (np.stack([getattr(one, column) for one in estimates]) for column in ("p_cell", "p"))
    return {
        "p of probe_gain, one cell": np.array([(alone <= SIGNIFICANCE_LEVEL).mean()]),
        "p of probe_gain, any cell": np.array([(corrected <= SIGNIFICANCE_LEVEL).any()]),
    }


@dataclass(frozen=True)
class Layers:
    """Scores of six layers: a row's prediction at a layer is right if a part of it that all share, and its own, are.

    Attributes:
        signals: Distance of the class means at each layer, in deviations of their noise.
        shared: Share of the noise's variance that all layers have in common.
    """

    signals: tuple[float, ...]
    shared: float = 0.5

    def draw(self, rows: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `(layers, rows, 2)` and targets of two balanced classes."""
        generator = torch.Generator().manual_seed(seed)
        targets = torch.randint(2, (rows,), generator=generator)
        own = torch.randn(len(self.signals), rows, generator=generator)
        common = torch.randn(rows, generator=generator)
        noise = self.shared**0.5 * common + (1 - self.shared) ** 0.5 * own
        evidence = torch.tensor(self.signals)[:, None] * (2 * targets - 1) + noise
        return torch.stack([-evidence, evidence], dim=2), targets


LAYERS = {
    "equal": (Layers((1.0,) * 6), "6 equally good layers"),
    "one better": (Layers((0.8, 0.9, 1.0, 1.15, 1.0, 0.9)), "6 layers, one of them better"),
}


def best_layers_right(name: str, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Whether the set of layers holds the best one; of equal ones, each stands for the best in turn."""
    layers, hits = LAYERS[name][0], []
    for number in range(20):
        logits, targets = layers.draw(rows, seed=derive_seed(seed, number))
        best = best_layers_of(
            "classification", logits, targets, task="task", layers=range(6), samples=1000, seed=number
        )
        truly_best = [i for i, signal in enumerate(layers.signals) if signal == max(layers.signals)]
        hits.append(truly_best[number % len(truly_best)] in best.layers)
    return {"best_layers": np.array(hits)}


def _alarms(share: float, metrics: tuple[str, ...], *, short: int, claim: Claim) -> Simulation:
    words = "balanced" if share == 0.5 else "85/15"
    return Simulation(
        name=f"probe p {share} {metrics}",
        setting=f"random labels, 2 classes, {words}, 3 tasks × 8 layers, {ROWS['x_test']} test rows",
        right=partial(alarms, 3, share, metrics),
        rate="false alarms",
        claim=claim,
        short=short,
        long=250,
    )


SIMULATIONS = [
    _alarms(0.5, ("auroc", "cross_entropy_bits", "selectivity"), short=15, claim="equal"),
    _alarms(0.5, ("macro_f1",), short=0, claim="conservative"),  # permutations that score the same count against it
    _alarms(0.15, ("macro_f1", "accuracy", "selectivity"), short=0, claim="conservative"),
    Simulation(
        name="p of probe_gain, 40 rows",
        setting="two equally good models, 10 tasks × 20 layers, 40 test rows",
        right=partial(gain_alarms, 40),
        rate="false alarms",
        claim="conservative",
        short=40,
        long=1000,
    ),
    Simulation(
        name="best layer",
        setting="random labels, chosen among 20 layers on validation",
        right=best_layer_right,
        short=30,
        long=400,
    ),
    *(
        Simulation(
            name=f"best layers, {name}",
            setting=f"{LAYERS[name][1]}, 200 validation rows",
            right=partial(best_layers_right, name, 200),
            claim="conservative",
            short=short,
            long=60,
        )
        for name, short in (("equal", 5), ("one better", 0))
    ),
]
