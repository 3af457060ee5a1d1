"""Change points of a profile over layers, against every smooth explanation of it.

Two explanations compete for the profile. *Bands*: a straight line plus one or two level shifts, each spread over 1, 2 or 3
layers, plus independent scatter. *Drift*: a straight line plus scatter that may be autocorrelated (`smooth_null`). The
statistic is the log-likelihood of the best bands (all positions are tried) less that of the best drift; its p-value is the
largest among the drifts, each simulated. A ramp of any slope and intercept leaves it unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from probes.analysis.smooth_null import (
    log_likelihood,
    smooth_covariances,
    smooth_draws,
    smooth_log_likelihood,
    straight_line,
    whitening,
)

MIN_LAYERS = 8
MIN_BAND = 3
WIDTHS = (1, 2, 3)
DRAWS = 2000
ROUNDING = 1e-10
"""Share of a profile's norm under which its distance from a straight line is rounding."""

Shift = tuple[int, int]
"""Index of the first layer at least half way to the new level; number of layers the shift takes."""


@dataclass(frozen=True, kw_only=True)
class ChangePoints:
    """Where a profile shifts.

    Attributes:
        shifts: Ascending, empty if none was found: for each, the index of the first layer of the new band (the first at
            least half way to the new level) and over how many layers, 1 to 3, it is spread.
        p: Of "there is no boundary at all".
        best: For one boundary and for two, the shifts that fit best, whether or not they were found significant.
    """

    shifts: tuple[Shift, ...]
    p: float
    best: tuple[tuple[Shift, ...], ...]


def find_boundaries(profile: np.ndarray, *, max_boundaries: int = 2, level: float = 0.05) -> ChangePoints:
    """Level shifts that neither a ramp nor an autocorrelated or smooth drift explains.

    Bands are at least 3 layers long. A second boundary is reported if, given the best single one, it passes the same test.
    Multiplying the profile or adding a straight line to it changes nothing.

    Args:
        profile: One value a layer in order of depth, float64 of shape `(layers,)`, taken as equally spaced.
        max_boundaries: 1 or 2.
        level: Largest chance, for the least favourable drift, of reporting a boundary where there is none.

    Raises:
        ValueError: `max_boundaries` is neither 1 nor 2, `level` is not in (0, 1), or the profile has fewer than 8 layers
            or a value that is not finite.

    >>> noise = 0.1 * np.random.default_rng(0).standard_normal(31)
    >>> find_boundaries(np.repeat([0.0, 1.5, 3.0], [10, 6, 15]) + noise).shifts
    ((10, 1), (16, 1))
    >>> find_boundaries(np.linspace(0, 3, 31) + noise).shifts
    ()
    """
    profile = _checked(profile, max_boundaries, level)[None]
    layers = profile.shape[1]
    added = tuple(range(1, min(max_boundaries, layers // MIN_BAND - 1) + 1))
    best = tuple(best_shifts(profile, k)[0] for k in added)
    p = 1.0 if _is_straight(profile[0]) else _p_value(profile, (), added)
    shifts: tuple[Shift, ...] = ()
    if p <= level:
        shifts = best[0]
        if len(best) == 2 and _ways(layers, shifts, 1) and _p_value(profile, shifts, (1,)) <= level:
            shifts = best[1]
    return ChangePoints(shifts=shifts, p=p, best=best)


def best_shifts(profiles: np.ndarray, boundaries: int) -> list[tuple[Shift, ...]]:
    """The shifts of the best-fitting bands, whether or not there are any.

    Args:
        profiles: Shape `(profiles, layers)`.
        boundaries: 1 or 2 for every profile.

    Returns:
        A tuple of shifts for every profile.
    """
    bands = _bands(profiles.shape[1], (), boundaries)
    return [bands.shifts[i] for i in bands.reductions(profiles).argmax(1)]


@dataclass(frozen=True)
class _Bands:
    """All ways to add shifts to a design, ready for least squares.

    `first` and `second` hold an orthonormal basis of what each way adds, shape `(layers, ways)`; `second` is None if each
    adds one shift.
    """

    design: np.ndarray
    shifts: tuple[tuple[Shift, ...], ...]
    first: np.ndarray
    second: np.ndarray | None

    def reductions(self, profiles: np.ndarray) -> np.ndarray:
        """By how much each way lowers the residual sum of squares, shape `(profiles, ways)`."""
        total = np.square(profiles @ self.first)
        if self.second is not None:
            total += np.square(profiles @ self.second)
        return total

    def log_likelihood(self, profiles: np.ndarray) -> np.ndarray:
        """Of the best way, with independent scatter."""
        residual_maker, offset = whitening(np.eye(len(self.design)), self.design)
        squares = np.square(profiles @ residual_maker).sum(1)
        left = np.maximum(squares - self.reductions(profiles).max(1), 0)
        return log_likelihood(left, offset, self.design)


@cache
def _bands(layers: int, known: tuple[Shift, ...], added: int) -> _Bands:
    line = straight_line(layers)
    design = np.column_stack([line, *(_shape(layers, shift) for shift in known)])
    ways = _ways(layers, known, added)
    residual_maker = whitening(np.eye(layers), design)[0]
    columns = np.stack([[_shape(layers, shift) for shift in way] for way in ways]) @ residual_maker
    first = columns[:, 0] / np.linalg.norm(columns[:, 0], axis=1, keepdims=True)
    second = None
    if added == 2:
        rest = columns[:, 1] - (columns[:, 1] * first).sum(1, keepdims=True) * first
        second = (rest / np.linalg.norm(rest, axis=1, keepdims=True)).T
    return _Bands(design=design, shifts=ways, first=first.T, second=second)


def _ways(layers: int, known: tuple[Shift, ...], added: int) -> tuple[tuple[Shift, ...], ...]:
    taken = (0, layers, *(start for start, _ in known))
    starts = [s for s in range(layers) if min(abs(s - other) for other in taken) >= MIN_BAND]
    if added == 1:
        return tuple(((start, width),) for width in WIDTHS for start in starts)
    return tuple(((s, w), (t, w)) for w in WIDTHS for s in starts for t in starts if t - s >= MIN_BAND)


def _shape(layers: int, shift: Shift) -> np.ndarray:
    """From 0 to 1 in `width` equal steps, the first value of at least 1/2 at `start`."""
    start, width = shift
    return np.clip((np.arange(layers) - start + (width + 1) // 2) / width, 0, 1)


def _evidence(profiles: np.ndarray, known: tuple[Shift, ...], added: int) -> np.ndarray:
    """Log-likelihood of bands less that of drift, both beside a straight line and the known shifts."""
    bands = _bands(profiles.shape[1], known, added)
    return bands.log_likelihood(profiles) - smooth_log_likelihood(profiles, bands.design)


def _p_value(profile: np.ndarray, known: tuple[Shift, ...], added: tuple[int, ...]) -> float:
    """Of the largest evidence over the numbers of added shifts, each less its own critical value at 5 %."""
    null, critical = _null(profile.shape[1], known, added)
    excess = np.max([_evidence(profile, known, k)[0] - critical[i] for i, k in enumerate(added)])
    exceeding = (null >= excess).sum(1)
    return float((1 + exceeding.max()) / (1 + DRAWS))


@cache
def _null(layers: int, known: tuple[Shift, ...], added: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Simulated excess evidence, shape `(drifts, draws)`, and the critical value of every number of added shifts."""
    draws = smooth_draws(layers, DRAWS)
    evidence = np.array([[_evidence(of_drift, known, k) for of_drift in draws] for k in added])
    critical = np.quantile(evidence, 0.95, axis=2).max(1)
    return (evidence - critical[:, None, None]).max(0), critical


def _is_straight(profile: np.ndarray) -> bool:
    residual = whitening(np.eye(len(profile)), straight_line(len(profile)))[0] @ profile
    return bool(np.linalg.norm(residual) <= ROUNDING * np.linalg.norm(profile))


def _checked(profile: np.ndarray, max_boundaries: int, level: float) -> np.ndarray:
    profile = np.asarray(profile, dtype=np.float64)
    if max_boundaries not in (1, 2):
        raise ValueError(f"Change points want `max_boundaries` of 1 or 2; got {max_boundaries}.")
    if not 0 < level < 1:
        raise ValueError(f"Change points want a `level` between 0 and 1; got {level}.")
    if profile.ndim != 1 or len(profile) < MIN_LAYERS:
        raise ValueError(f"Change points want a profile of shape (layers,), 8 layers or more; got {profile.shape}.")
    if not np.isfinite(profile).all():
        bad = np.flatnonzero(~np.isfinite(profile)).tolist()
        raise ValueError(f"Change points want finite values; those at positions {bad} are not. Leave these layers out.")
    return profile
