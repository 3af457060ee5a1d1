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
    smooth_log_likelihoods,
    straight_line,
    whitening,
)

MIN_LAYERS = 8
MIN_BAND = 3
WIDTHS = (1, 2, 3)
WHITE = 0
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

    Bands are at least 3 layers long. A second boundary is reported if, beside the best single one, it improves the fit by
    more than it would by chance under the drift that is likeliest once both are taken out.

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
    p = 1.0 if _is_straight(profile[0]) else _p_any(profile, added)
    shifts: tuple[Shift, ...] = ()
    if p <= level:
        shifts = best[0]
        if len(best) == 2 and _p_second(profile, *best) <= level:
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
    """All ways to add shifts to a design, ready for least squares whitened for one drift.

    `first` and `second`, shape `(layers, ways)`, take a profile to its coordinates along an orthonormal basis of what each
    way adds; `second` is None if each adds one shift.
    """

    design: np.ndarray
    shifts: tuple[tuple[Shift, ...], ...]
    residual_maker: np.ndarray
    offset: float
    first: np.ndarray
    second: np.ndarray | None

    def reductions(self, profiles: np.ndarray) -> np.ndarray:
        """By how much each way lowers the residual sum of squares, shape `(profiles, ways)`."""
        total = np.square(profiles @ self.first)
        if self.second is not None:
            total += np.square(profiles @ self.second)
        return total

    def log_likelihoods(self, profiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the design alone and of the best way, each of shape `(profiles,)`."""
        squares = np.square(profiles @ self.residual_maker.T).sum(1)
        left = np.maximum(squares - self.reductions(profiles).max(1), 0)
        return log_likelihood(squares, self.offset, self.design), log_likelihood(left, self.offset, self.design)


@cache
def _bands(layers: int, known: tuple[Shift, ...], added: int, drift: int = WHITE) -> _Bands:
    design = _design(layers, known)
    ways = _ways(layers, known, added)
    maker, offset = whitening(smooth_covariances(layers)[drift], design)
    columns = np.stack([[_shape(layers, shift) for shift in way] for way in ways]) @ maker.T
    first = columns[:, 0] / np.linalg.norm(columns[:, 0], axis=1, keepdims=True)
    second = None
    if added == 2:
        rest = columns[:, 1] - (columns[:, 1] * first).sum(1, keepdims=True) * first
        second = (rest / np.linalg.norm(rest, axis=1, keepdims=True) @ maker).T
    return _Bands(design, ways, maker, offset, (first @ maker).T, second)


def _design(layers: int, known: tuple[Shift, ...]) -> np.ndarray:
    return np.column_stack([straight_line(layers), *(_shape(layers, shift) for shift in known)])


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


def _evidence(profiles: np.ndarray, boundaries: int) -> np.ndarray:
    """Log-likelihood of the best bands less that of the best drift, shape `(profiles,)`."""
    bands = _bands(profiles.shape[1], (), boundaries)
    return bands.log_likelihoods(profiles)[1] - smooth_log_likelihoods(profiles, bands.design).max(0)


def _p_any(profile: np.ndarray, boundaries: tuple[int, ...]) -> float:
    """Of the largest evidence over the numbers of boundaries, each less its own critical value."""
    null, critical = _null_evidence(profile.shape[1], boundaries)
    excess = max(_evidence(profile, k)[0] - critical[i] for i, k in enumerate(boundaries))
    return float((1 + (null >= excess).sum(1).max()) / (1 + DRAWS))


@cache
def _null_evidence(layers: int, boundaries: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Simulated excess, shape `(drifts, draws)`, and for every number of boundaries the critical value at 5 %."""
    draws = smooth_draws(layers, DRAWS)
    evidence = np.array([[_evidence(of_drift, k) for of_drift in draws] for k in boundaries])
    critical = np.quantile(evidence, 0.95, axis=2).max(1)
    return (evidence - critical[:, None, None]).max(0), critical


def _p_second(profile: np.ndarray, one: tuple[Shift, ...], two: tuple[Shift, ...]) -> float:
    """Of the gain from a second shift beside the best single one; 1 where no second one fits in."""
    layers = profile.shape[1]
    if not _ways(layers, one, 1):
        return 1.0
    drift = int(smooth_log_likelihoods(profile, _design(layers, two))[:, 0].argmax())
    null = _null_gain(layers, one, drift)
    return float((1 + (null >= _gain(profile, one, drift)[0]).sum()) / (1 + DRAWS))


@cache
def _null_gain(layers: int, known: tuple[Shift, ...], drift: int) -> np.ndarray:
    return _gain(smooth_draws(layers, DRAWS)[drift], known, drift)


def _gain(profiles: np.ndarray, known: tuple[Shift, ...], drift: int) -> np.ndarray:
    without, with_one_more = _bands(profiles.shape[1], known, 1, drift).log_likelihoods(profiles)
    return with_one_more - without


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
