"""Calibration by simulation: how often is an interval, or a p value, right on data whose truth is known?

A `Simulation` draws data sets from a population, calls the functions of the package that make an interval or a p value,
and says for each data set whether the result was right. `measure` repeats it, and `Measured` compares the rate with
what the interval or test claims.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import beta, binom

from probes.seeds import derive_seed
from probes.values import SIGNIFICANCE_LEVEL

LEVEL = 0.95
"""Coverage that every interval claims."""
TOLERANCE = 0.02
"""By how much a rate may miss what is claimed."""

Claim = Literal["equal", "conservative", "power", "limit"]
"""What is required of a rate:

- `equal`: it is the nominal rate, up to the tolerance;
- `conservative`: the nominal rate is a bound (coverage at least, false alarms at most), up to the tolerance;
- `power`: a rate of true alarms, of which at least the nominal rate is required, and nothing where that is 0;
- `limit`: a case outside the assumptions of the method, reported so that readers know it, and not checked.
"""


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """One setting in which one or several quantities are measured.

    Attributes:
        name: Unique; it decides the random numbers and names the stored result.
        setting: What the data sets are, for readers.
        right: Maps a seed to, for each quantity, an array over independent data sets: 1 if the interval covered the
            truth, or the test raised an alarm, else 0; or the share of a data set's cells in which it did.
        short: Calls in the tests that always run.
        long: Calls of `make calibrate`.
        rate: What the ones of `right` are.
        claim: What is required of the rate.
        nominal: The claimed rate; by default the level of intervals or of tests.
    """

    name: str
    setting: str
    right: Callable[[int], Mapping[str, np.ndarray]]
    short: int
    long: int
    rate: Literal["coverage", "false alarms", "power"] = "coverage"
    claim: Claim = "equal"
    nominal: float = -1.0

    def __post_init__(self) -> None:
        if self.nominal < 0:
            defaults = {"coverage": LEVEL, "false alarms": SIGNIFICANCE_LEVEL, "power": 0.0}
            object.__setattr__(self, "nominal", defaults[self.rate])


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The rate of one quantity in one simulation.

    Attributes:
        quantity: Its name.
        setting: As in `Simulation`, as are `rate`, `claim` and `nominal`.
        value: The measured rate.
        repetitions: Independent data sets.
        effective: Independent yes/no answers that would be as precise: `repetitions`, or more where each data set
            contributes a share of several cells.
    """

    quantity: str
    setting: str
    rate: str
    claim: Claim
    nominal: float
    value: float
    repetitions: int
    effective: float

    @property
    def interval(self) -> tuple[float, float]:
        """The rate's own 95 % interval (Clopper and Pearson)."""
        n, hits = self.effective, self.value * self.effective
        low = 0.0 if hits <= 0 else float(beta.ppf(0.025, hits, n - hits + 1))
        high = 1.0 if hits >= n else float(beta.ppf(0.975, hits + 1, n - hits))
        return low, high

    @property
    def allowed(self) -> tuple[float, float]:
        """Rates that the claim allows, ends included."""
        low, high = self.nominal - TOLERANCE, self.nominal + TOLERANCE
        if self.claim == "limit":
            return 0.0, 1.0
        if self.claim == "power":
            return self.nominal, 1.0
        if self.claim == "conservative":
            return (low, 1.0) if self.rate == "coverage" else (0.0, high)
        return low, high

    @property
    def holds(self) -> bool:
        """Whether the measured rate is among the allowed ones."""
        low, high = self.allowed
        return low <= self.value <= high

    @property
    def may_hold(self) -> bool:
        """Whether so few data sets could give this rate if the claim held: within the 99.9 % limits of chance."""
        n, (low, high) = round(self.effective), self.allowed
        return binom.ppf(0.0005, n, low) / n <= self.value <= binom.ppf(0.9995, n, high) / n


def measure(simulation: Simulation, calls: int) -> list[Measured]:
    """Repeat a simulation with its own random numbers.

    Data sets in which a quantity is undefined, NaN in `Simulation.right`, do not count.
    """
    results = [simulation.right(derive_seed(0, simulation.name, call)) for call in range(calls)]
    rates = []
    for quantity in results[0]:
        right = np.concatenate([result[quantity] for result in results]).astype(np.float64)
        right = right[~np.isnan(right)]
        rate, variance = right.mean(), right.var()
        effective = len(right) * (rate * (1 - rate) / variance if variance > 0 else 1.0)
        measured = Measured(
            quantity=quantity,
            setting=simulation.setting,
            rate=simulation.rate,
            claim=simulation.claim,
            nominal=simulation.nominal,
            value=float(rate),
            repetitions=len(right),
            effective=float(effective),
        )
        rates.append(measured)
    return rates


def covered(low: np.ndarray, high: np.ndarray, truth: np.ndarray | float) -> np.ndarray:
    """Whether intervals hold the truth; NaN where there is no interval."""
    return np.where(np.isnan(low) | np.isnan(high), np.nan, (low <= truth) & (truth <= high))
