"""Effects of interventions: does the interval hold the mean effect over rows and random subspaces?"""

from __future__ import annotations

from functools import partial

import numpy as np
from calibration.simulation import Simulation, covered

from probes.analysis.effects import effect_estimates, normalised_effect
from probes.analysis.intervals import confidence_interval
from probes.analysis.significance import with_p_values
from probes.values import SIGNIFICANCE_LEVEL, Estimates, LayerProfile

DATA_SETS = 50
"""Data sets of one call."""


def drawn(rng: np.random.Generator, rows: int, draws: int, effect: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effects `(1, rows)`, labels, and effects of random interventions `(draws, 1, rows)` with the mean 0.2.

    Rows of one class vary more, their mean effect differs, and a row's own part is shared by all interventions.
    """
    labels = np.arange(rows) % 2
    own = rng.normal(size=rows) * np.where(labels == 0, 1.0, 2.0) + np.where(labels == 0, 0.5, -0.5)
    effects = effect + 0.2 + own + 0.5 * rng.normal(size=rows)
    random = 0.2 + 0.3 * rng.normal(size=(draws, 1)) + own + 0.5 * rng.normal(size=(draws, rows))
    return effects[None], labels, random[:, None]


def interval_right(rows: int, draws: int, seed: int) -> dict[str, np.ndarray]:
    """Whether intervals of an effect beyond random interventions hold it."""
    rng, hits = np.random.default_rng(seed), []
    for _ in range(DATA_SETS):
        effects, labels, random = drawn(rng, rows, draws, 0.4)
        estimates = effect_estimates(effects, labels, random)
        assert estimates.interval is not None
        hits.append(covered(*estimates.interval, 0.4))
    return {"usedness": np.concatenate(hits)}


def alarms(rows: int, draws: int, seed: int) -> dict[str, np.ndarray]:
    """Whether an intervention that does what random ones do is significant."""
    rng, hits = np.random.default_rng(seed), []
    for _ in range(DATA_SETS):
        effects, labels, random = drawn(rng, rows, draws, 0.0)
        effects = effects + 0.3 * rng.normal()  # the intervention is one more of the random ones
        estimates = effect_estimates(effects, labels, random, alternative="greater")
        assert estimates.p_cell is not None
        hits.append(estimates.p_cell <= SIGNIFICANCE_LEVEL)
    return {"p of usedness": np.concatenate(hits)}


def patched(rng: np.random.Generator, pairs: int, share: float) -> Estimates:
    """The share of a gap that patches of so many pairs close: gaps are skewed, and large ones vary more."""
    gaps = rng.gamma(3.0, size=pairs)
    changes = share * gaps + 0.3 * gaps * rng.normal(size=pairs) + 0.5 * rng.normal(size=pairs)
    return normalised_effect(changes[None], gaps)


def share_right(pairs: int, seed: int) -> dict[str, np.ndarray]:
    """Whether intervals of a normalised effect hold the ratio of both means."""
    rng, hits = np.random.default_rng(seed), []
    for _ in range(DATA_SETS):
        estimates = patched(rng, pairs, 0.6)
        assert estimates.errors is not None
        low, high = confidence_interval(estimates.values, estimates.errors)
        hits.append(covered(low, high, 0.6))
    return {"patching": np.concatenate(hits)}


def share_alarms(pairs: int, seed: int) -> dict[str, np.ndarray]:
    """Whether patches that close nothing on average are significant."""
    rng = np.random.default_rng(seed)
    profiles = [
        LayerProfile(quantity="patching/last", unit="", layers=(1,), estimates=patched(rng, pairs, 0.0))
        for _ in range(DATA_SETS)
    ]
    tested = [with_p_values([profile])[0].estimates.p_cell for profile in profiles]
    return {"p of patching": np.concatenate([p <= SIGNIFICANCE_LEVEL for p in tested if p is not None])}


SIMULATIONS = [
    *(
        Simulation(
            name=f"patching, {pairs} pairs",
            setting=f"gaps of varying size, {pairs} pairs",
            right=partial(share_right, pairs),
            short=short,
            long=20,
        )
        for pairs, short in ((16, 0), (64, 4))
    ),
    Simulation(
        name="patching, p",
        setting="patches that close nothing on average, 32 pairs",
        right=partial(share_alarms, 32),
        rate="false alarms",
        short=0,
        long=20,
    ),
    *(
        Simulation(
            name=f"usedness, {rows} rows, {draws} random subspaces",
            setting=f"2 classes of unequal variance, {rows} test rows, {draws} random subspaces",
            right=partial(interval_right, rows, draws),
            short=short,
            long=20,
        )
        for rows, draws, short in ((64, 4, 4), (200, 4, 0))
    ),
    Simulation(
        name="usedness, p",
        setting="an eraser that is one more random subspace, 64 test rows, 4 random subspaces",
        right=partial(alarms, 64, 4),
        rate="false alarms",
        short=0,
        long=20,
    ),
]
