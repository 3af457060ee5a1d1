"""Measures without labels: altered copies of texts, tokens of prompts, and pairs of texts."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from calibration.codes import task_of
from calibration.probe_scores import READING, Population
from calibration.simulation import Simulation, covered
from torch import Tensor

from probes.analysis import interval_of
from probes.analysis.significance import with_p_values
from probes.probe_measures import LabelFreePanel, ProbedTask, TextPairs
from probes.probe_measures.label_free.text_pairs import PairSettings, pair_profiles
from probes.seeds import derive_seed
from probes.training import TaskProbes
from probes.values import SIGNIFICANCE_LEVEL, Estimates, LayerProfile

DATA_SETS = 20
"""Data sets of one call of a simulation."""
TEXTS, FEATURES = 48, 12
PAIRS = 100
WORDS = np.array([f"word{number}" for number in range(60)])


def _panel(seed: int) -> dict[str, LayerProfile]:
    """The panel of 48 texts with three altered copies each, whose vectors differ by noise, and of as many paths."""
    task = task_of(Population("classification", (0.5, 0.5), 0.8), (20, 4, TEXTS), seed)
    generator = torch.Generator().manual_seed(derive_seed(seed, "copies"))
    test = task.data.test.activations
    copies = {}
    for number in range(3):
        noise = 0.7 * torch.randn(test.values.shape, generator=generator)
        altered = task.data.test._replace(activations=replace(test, values=test.values + noise))
        copies[f"altered copy {number}"] = replace(task.data, test=altered)
    paths = torch.rand(1, TEXTS, generator=generator, dtype=torch.float64) ** 2
    return _profiles(LabelFreePanel()(_without_probes(replace(task, variants=copies, token_paths=_named(paths)))))


def _named(paths: Tensor) -> dict[str, Tensor]:
    return {"prompt_entropy": paths, "token_curvature": 90 + 30 * paths}


def _without_probes(task: ProbedTask) -> ProbedTask:
    """The panel asks for scores only to correlate them over layers, of which there is one."""
    scores = SimpleNamespace(profile=lambda _: SimpleNamespace(estimates=Estimates(np.zeros(1), TEXTS)))
    return replace(task, fit=cast("TaskProbes", scores))


def _profiles(found: Any) -> dict[str, LayerProfile]:
    return {profile.quantity: profile for profile in found if not profile.quantity.startswith("score_")}


@cache
def _panel_truth() -> dict[str, float]:
    found = [_panel(derive_seed(1, "truth", number)) for number in range(300)]
    return {name: float(np.mean([one[name].estimates.values[0] for one in found])) for name in found[0]}


def _panel_right(seed: int) -> dict[str, np.ndarray]:
    truth, hits = _panel_truth(), {}
    for number in range(DATA_SETS):
        for name, profile in _panel(derive_seed(seed, number)).items():
            hits.setdefault(name, []).append(covered(*interval_of(profile), truth[name]))
    return {name: np.concatenate(values) for name, values in hits.items()}


def _pairs(seed: int, *, matches: bool, signal: float = 0.7) -> TextPairs:
    """Pairs that share the more, of vectors and words, the higher their gold score; or pairs that all match."""
    generator = torch.Generator().manual_seed(seed)
    numbers = np.random.default_rng(seed % 2**32)
    gold = torch.ones(PAIRS) if matches else torch.rand(PAIRS, generator=generator)
    shared = torch.randn(PAIRS, FEATURES, generator=generator)
    sides = [
        signal * gold[:, None] * shared + 0.6 * torch.randn(PAIRS, FEATURES, generator=generator) for _ in range(2)
    ]
    first = numbers.integers(len(WORDS), size=(PAIRS, 6))
    kept = numbers.random((PAIRS, 6)) < 0.4 * gold.numpy()[:, None]
    second = np.where(kept, first, numbers.integers(len(WORDS), size=(PAIRS, 6)))
    texts = [tuple(" ".join(row) for row in WORDS[own]) for own in (first, second)]
    return TextPairs(
        task="pairs",
        reading=READING,
        layers=(0,),
        first=sides[0][None],
        second=sides[1][None],
        first_texts=texts[0],
        second_texts=texts[1],
        gold=gold,
        probed=(),
        seed=seed,
    )


def _of_pairs(seed: int, resamples: int, matches: bool) -> dict[str, LayerProfile]:
    settings = PairSettings(resamples=resamples, permutations=2)
    return _profiles(pair_profiles(_pairs(seed, matches=matches), settings))


@cache
def _pairs_truth(matches: bool) -> dict[str, float]:
    found = [_of_pairs(derive_seed(1, "truth", number), 2, matches) for number in range(500)]
    return {name: float(np.mean([one[name].estimates.values[0] for one in found])) for name in found[0]}


def _pairs_right(matches: bool, seed: int) -> dict[str, np.ndarray]:
    truth, hits = _pairs_truth(matches), {}
    for number in range(DATA_SETS):
        for name, profile in _of_pairs(derive_seed(seed, number), 300, matches).items():
            hits.setdefault(name, []).append(covered(*interval_of(profile), truth[name]))
    return {name: np.concatenate(values) for name, values in hits.items()}


def _pairs_alarms(seed: int) -> dict[str, np.ndarray]:
    """Vectors that share nothing, whatever the gold scores say."""
    alarms: dict[str, list[float]] = {}
    settings = PairSettings(resamples=2, permutations=100, baseline=False)
    for number in range(DATA_SETS):
        for matches in (True, False):
            pairs = _pairs(derive_seed(seed, number, str(matches)), matches=matches, signal=0.0)
            for name, profile in _profiles(pair_profiles(pairs, settings)).items():
                (tested,) = with_p_values([profile])
                assert tested.estimates.p_cell is not None
                alarms.setdefault(f"p of {name}", []).append(float(tested.estimates.p_cell[0] < SIGNIFICANCE_LEVEL))
    return {name: np.array(values) for name, values in alarms.items()}


SIMULATIONS = [
    Simulation(
        name="label-free, panel",
        setting=f"{TEXTS} texts of {FEATURES} features, 3 altered copies",
        right=_panel_right,
        short=2,
        long=50,
        claim="conservative",
    ),
    Simulation(
        name="label-free, gold scores",
        setting=f"{PAIRS} pairs with gold scores",
        right=partial(_pairs_right, False),
        short=4,
        long=50,
    ),
    Simulation(
        name="label-free, matches",
        setting=f"{PAIRS} pairs that match",
        right=partial(_pairs_right, True),
        short=4,
        long=50,
        claim="conservative",
    ),
    Simulation(
        name="label-free, nothing shared",
        setting=f"{PAIRS} pairs of texts that share nothing",
        right=_pairs_alarms,
        short=5,
        long=100,
        rate="false alarms",
        claim="conservative",
    ),
]
