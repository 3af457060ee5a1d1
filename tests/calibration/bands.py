"""Bands of layers: how often a boundary is reported where there is none, and where there is one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
from calibration.simulation import Claim, Simulation
from profile_samples import LAYERS, PLANTED, autoregressive, level_shifts

from probes.analysis import find_segments
from probes.values import SIGNIFICANCE_LEVEL

DATA_SETS = 25
PAPER = (0.02, 0.05, 0.12)
"""Spread over tasks in the three bands that Zhao, Ziser and Cohen 2024 describe."""

Spread = Callable[[np.random.Generator], np.ndarray]
"""Draws the standard deviation over tasks at each layer, shape `(layers,)`."""


def flat(rng: np.random.Generator) -> np.ndarray:
    return np.ones(LAYERS)


def ramp(rng: np.random.Generator) -> np.ndarray:
    """Rises evenly on the log scale to between two and ten times its start, or falls."""
    return np.exp(rng.choice([-1, 1]) * rng.uniform(np.log(2), np.log(10)) * np.linspace(0, 1, LAYERS))


def drift(rng: np.random.Generator) -> np.ndarray:
    """An AR(1) process with φ = 0.9 on the log scale."""
    return np.exp(0.3 * autoregressive(1, LAYERS, coefficient=0.9, seed=int(rng.integers(2**31)))[0])


def bump(rng: np.random.Generator) -> np.ndarray:
    """One smooth rise and fall, to between two and five times its base."""
    height, place, width = rng.uniform(np.log(2), np.log(5)), rng.uniform(8, 22), rng.uniform(5, 8)
    return np.exp(height * np.exp(-0.5 * ((np.arange(LAYERS) - place) / width) ** 2))


def steep_sigmoid(rng: np.random.Generator) -> np.ndarray:
    """Rises threefold, from 10 to 90 % of the way within 8 layers."""
    return np.exp(np.log(3) / (1 + np.exp(-(np.arange(LAYERS) - rng.uniform(10, 20)) * 2 * np.log(9) / 8)))


def bands_of_the_paper(rng: np.random.Generator) -> np.ndarray:
    return level_shifts(*PAPER)


def step(units: float, tasks: int, rng: np.random.Generator) -> np.ndarray:
    """One step of so many standard errors of a log standard deviation over tasks, 1/√(2 (tasks − 1))."""
    return np.exp(level_shifts(0, units / np.sqrt(2 * (tasks - 1)), starts=(int(rng.integers(8, 22)),)))


Noise = Literal["normal", "correlated", "unequal tasks", "heavy tails"]


def layer_by_task_values(spread: np.ndarray, tasks: int, noise: Noise, rng: np.random.Generator) -> np.ndarray:
    """Values `(layers, tasks)`: layer means, and deviations of the tasks with the given spread.

    Args:
        spread: Shape `(layers,)`.
        tasks: How many.
        noise: `correlated`: a task's deviations at neighbouring layers have a correlation of 0.5; `unequal tasks`: some
            tasks deviate up to four times as much as others; `heavy tails`: deviations of Student's t with 4 degrees of
            freedom.
        rng: Source of random numbers.
    """
    if noise == "correlated":
        deviations = autoregressive(tasks, LAYERS, coefficient=0.5, seed=int(rng.integers(2**31))).T
    elif noise == "heavy tails":
        deviations = rng.standard_t(4, (LAYERS, tasks))
    else:
        deviations = rng.standard_normal((LAYERS, tasks))
    if noise == "unequal tasks":
        deviations = deviations * np.geomspace(0.5, 2, tasks)
    return np.linspace(0, 1, LAYERS)[:, None] + spread[:, None] * deviations


def alarms(spread: Spread, tasks: int, noise: Noise, seed: int) -> dict[str, np.ndarray]:
    rng, p = np.random.default_rng(seed), []
    for _ in range(DATA_SETS):
        values = layer_by_task_values(spread(rng), tasks, noise, rng)
        p.append(find_segments(values, layers=range(LAYERS), resamples=1).p)
    return {"p of boundary": np.array(p) <= SIGNIFICANCE_LEVEL}


def both_found(tasks: int, seed: int) -> dict[str, np.ndarray]:
    """Whether both boundaries of the paper's pattern are reported, each within one layer."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(DATA_SETS):
        values = layer_by_task_values(bands_of_the_paper(rng), tasks, "normal", rng)
        places = [int(edge.layer) for edge in find_segments(values, layers=range(LAYERS), resamples=1).boundaries]
        found.append(len(places) == 2 and all(abs(a - b) <= 1 for a, b in zip(places, PLANTED, strict=True)))
    return {"both boundaries within one layer": np.array(found)}


def _null(
    words: str, spread: Spread, tasks: int, *, noise: Noise = "normal", short: int = 0, claim: Claim = "conservative"
) -> Simulation:
    return Simulation(
        name=f"bands null {words} {tasks} {noise}",
        setting=f"{words}, {tasks} tasks",
        right=partial(alarms, spread, tasks, noise),
        rate="false alarms",
        claim=claim,
        short=short,
        long=40,
    )


def _power(words: str, spread: Spread, tasks: int, *, short: int = 0, at_least: float = 0.0) -> Simulation:
    return Simulation(
        name=f"bands power {words} {tasks}",
        setting=f"{words}, {tasks} tasks",
        right=partial(alarms, spread, tasks, "normal"),
        rate="power",
        claim="power",
        nominal=at_least,
        short=short,
        long=40,
    )


SIMULATIONS = [
    _null("spread the same at all layers", flat, 14, short=8),
    _null("ramps", ramp, 9),
    _null("ramps", ramp, 14, short=8),
    _null("ramps", ramp, 26),
    _null("AR(1) drift, φ = 0.9", drift, 9),
    _null("AR(1) drift, φ = 0.9", drift, 14, short=8),
    _null("AR(1) drift, φ = 0.9", drift, 26),
    _null("smooth bumps", bump, 14, short=8),
    _null("smooth bumps", bump, 26),
    _null("ramps, neighbouring layers correlated", ramp, 14, noise="correlated"),
    _null("ramps, tasks of unequal spread", ramp, 14, noise="unequal tasks", short=8),
    _null("ramps, heavy tails", ramp, 14, noise="heavy tails"),
    _null("sigmoid over 8 layers", steep_sigmoid, 26, claim="limit"),
    *(
        _power(f"one step of {units} noise units", partial(step, units, 14), 14, short=4 if units == 3 else 0)
        for units in (1, 2, 3)
    ),
    _power("spreads 0.02, 0.05, 0.12", bands_of_the_paper, 9),
    _power("spreads 0.02, 0.05, 0.12", bands_of_the_paper, 14),
    _power("spreads 0.02, 0.05, 0.12", bands_of_the_paper, 26, short=4, at_least=0.9),
    *(
        Simulation(
            name=f"bands both {tasks}",
            setting=f"spreads 0.02, 0.05, 0.12, {tasks} tasks",
            right=partial(both_found, tasks),
            rate="power",
            claim="power",
            short=0,
            long=40,
        )
        for tasks in (9, 14, 26)
    ),
]
