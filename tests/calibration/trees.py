"""Scores of trees: does the interval over sentences hold the score on all sentences, and is p right without a tree?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial

import numpy as np
from calibration.simulation import Simulation, covered
from tree_samples import READING, random_trees

from probes.analysis import interval_of
from probes.analysis.significance import with_p_values
from probes.metrics.trees import Tree
from probes.seeds import derive_seed
from probes.training.tree_probes.tree_profiles import Method, TreeScorer
from probes.values import SIGNIFICANCE_LEVEL, LayerProfile

POPULATION_SENTENCES = 4000
DATA_SETS = 10
"""Sets of test sentences of one call of a simulation."""
_QUANTITIES = ("trees/uuas", "trees/uuas_gain_over_chain", "trees/distance_spearman", "trees/root_accuracy",
               "trees/depth_spearman", "trees/span_f1")  # fmt: skip

Sentence = tuple[Tree, np.ndarray]
"""A tree and predicted distances `(1, words, words)`."""


@cache
def population() -> tuple[Sentence, ...]:
    """Sentences of 5 to 14 words whose predicted distances are noisier in some sentences than in others."""
    rng = np.random.default_rng(0)
    sentences = []
    for tree in random_trees(POPULATION_SENTENCES, seed=0, shortest=5, longest=14):
        noise = rng.standard_normal(tree.distances.shape) * rng.exponential(1.0)  # all words of a sentence share it
        sentences.append((tree, (tree.distances + noise + noise.T)[None]))
    return tuple(sentences)


def profiles(sentences: list[Sentence], *, samples: int, seed: int) -> dict[str, LayerProfile]:
    """All scores of some sentences, with the functions that fill `results.csv`."""
    trees, distances = [tree for tree, _ in sentences], [predicted for _, predicted in sentences]
    depths = [predicted[:, tree.root] for tree, predicted in sentences]
    heights = [np.pad(np.diagonal(predicted, 1, 1, 2), ((0, 0), (0, 1))) for predicted in distances]
    scorer, method = TreeScorer((0,), READING, samples, 0, seed), Method("noise", (0,))
    found = [*scorer.distances(method, distances, trees), *scorer.depths(method, depths, trees),
             *scorer.spans(method, heights, trees)]  # fmt: skip
    return {profile.quantity: profile for profile in found}


@cache
def truth() -> Mapping[str, float]:
    whole = profiles(list(population()), samples=0, seed=0)
    return {quantity: float(whole[quantity].estimates.values[0]) for quantity in _QUANTITIES}


def _drawn(sentences: int, seed: int) -> list[Sentence]:
    rng = np.random.default_rng(seed)
    return [population()[i] for i in rng.integers(POPULATION_SENTENCES, size=sentences)]


def _covered(sentences: int, seed: int) -> dict[str, np.ndarray]:
    hits: dict[str, list[np.ndarray]] = {}
    for number in range(DATA_SETS):
        here = derive_seed(seed, number)
        found = profiles(_drawn(sentences, here), samples=1000, seed=here)
        for quantity in _QUANTITIES:
            hits.setdefault(quantity, []).append(covered(*interval_of(found[quantity]), truth()[quantity]))
    return {quantity: np.concatenate(values) for quantity, values in hits.items()}


def _false_alarms(sentences: int, seed: int) -> dict[str, np.ndarray]:
    """Distances and depths that know nothing of the tree, at four layers of which each is like the one before."""
    alarms: dict[str, list[float]] = {}
    for number in range(DATA_SETS):
        rng = np.random.default_rng(derive_seed(seed, number))
        trees = random_trees(sentences, seed=derive_seed(seed, number, "trees"))
        distances = [rng.standard_normal((4, len(tree), len(tree))).cumsum(0) for tree in trees]
        distances = [predicted + predicted.swapaxes(1, 2) for predicted in distances]
        scorer, method = (
            TreeScorer(tuple(range(4)), READING, 0, 200, derive_seed(seed, number)),
            Method("noise", (0, 1, 2, 3)),
        )
        found = [
            *scorer.distances(method, distances, trees),
            *scorer.depths(method, [d[:, 0] for d in distances], trees),
        ]
        for profile in found:
            if profile.quantity in {"trees/uuas", "trees/root_accuracy"}:
                (tested,) = with_p_values([profile])
                assert tested.estimates.p is not None
                alarm = bool((tested.estimates.p < SIGNIFICANCE_LEVEL).any())
                alarms.setdefault(profile.quantity, []).append(float(alarm))
    return {quantity: np.array(values) for quantity, values in alarms.items()}


def _intervals(sentences: int, *, short: int = 0) -> Simulation:
    return Simulation(
        name=f"trees, intervals, {sentences} sentences",
        setting=f"sentences of 5 to 14 words, {sentences} test sentences",
        right=partial(_covered, sentences),
        short=short,
        long=300 // DATA_SETS,
    )


SIMULATIONS = [
    _intervals(60, short=2),
    _intervals(200),
    Simulation(
        name="trees, p without a tree, 40 sentences",
        setting="predictions without a tree, 4 layers that depend on each other, 40 sentences",
        right=partial(_false_alarms, 40),
        short=2,
        long=300 // DATA_SETS,
        rate="false alarms",
    ),
]
