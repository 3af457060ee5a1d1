"""Change points of a profile over layers, against every smooth explanation of it.

Two explanations compete for it. *Bands*: a straight line plus one or two level shifts, each spread over 1 to 3 layers,
plus independent scatter. *Drift*: a straight line plus scatter that may be autocorrelated (`smooth_null`). The
statistic is the log-likelihood of the best bands, all positions tried, less that of the best drift; its p-value is the
largest among the drifts, each simulated. Adding a ramp changes nothing.

Measured at level 0.05 on 12, 31 and 33 layers, 1,000 profiles each (standard error 0.7 % at most): a boundary is
reported in at most 1.2 % of flat profiles and of ramps with white scatter, at most 5.4 % of AR(0.9) from any start,
at most 5.1 % of random walks, bare or under noise. Of 31 layers at levels 0, 1, 0 with scatter 0.1 both boundaries
are placed within one layer in 99 % or more of 300 draws, sharp or over 3 layers; with scatter 0.2 in 90 % if sharp,
58 % over 3 layers. Of 12 layers with scatter 0.1: 90 % and 49 %. On nulls that are not simulated it is too ready:
16 % for AR(0.9) innovations of 3 degrees of freedom, whose rare jumps last, and 20 % for a sigmoid that rises from 10
to 90 % over 8 of 31 layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from probes.analysis.bands.level_shifts import MIN_BAND, Shift, bands, best_shifts, possible_shifts, shift_design
from probes.analysis.bands.smooth_null import smooth_draws, smooth_log_likelihoods, whitening

MIN_LAYERS = 8
DRAWS = 2000
ROUNDING = 1e-10
"""Share of a profile's norm under which a residual is rounding."""


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

    Bands are at least 3 layers long. A second boundary is reported if, beside the best single one, it improves the fit
    by more than it would by chance under the drift that is likeliest once both are taken out.

    Multiplying the profile or adding a straight line to it changes nothing.

    Args:
        profile: One value a layer in order of depth, float64 of shape `(layers,)`, taken as equally spaced.
        max_boundaries: 1 or 2.
        level: Largest chance, for the least favourable drift, of reporting a boundary where there is none.

    Raises:
        ValueError: `max_boundaries` is neither 1 nor 2, `level` is not in (0, 1), or the profile has fewer than 8
            layers or a value that is not finite.

    >>> noise = 0.1 * np.random.default_rng(0).standard_normal(31)
    >>> find_boundaries(np.repeat([0.0, 1.5, 3.0], [10, 6, 15]) + noise).shifts
    ((10, 1), (16, 1))
    >>> find_boundaries(np.linspace(0, 3, 31) + noise).shifts
    ()
    """
    check_options(max_boundaries, level)
    profile = _checked(profile)[None]
    layers = profile.shape[1]
    added = tuple(range(1, min(max_boundaries, layers // MIN_BAND - 1) + 1))
    best = tuple(best_shifts(profile, k)[0] for k in added)
    p = 1.0 if _is_exact(profile, ()) else _p_any(profile, added)
    shifts: tuple[Shift, ...] = ()
    if p <= level:
        shifts = best[0]
        if len(best) == 2 and _p_second(profile, *best) <= level:
            shifts = best[1]
    return ChangePoints(shifts=shifts, p=p, best=best)


def _evidence(profiles: np.ndarray, boundaries: tuple[int, ...]) -> np.ndarray:
    """Log-likelihood of the best bands, by their number, less that of the best drift; shape `(numbers, profiles)`."""
    layers = profiles.shape[1]
    of_bands = np.stack([bands(layers, (), number).log_likelihoods(profiles)[1] for number in boundaries])
    return of_bands - smooth_log_likelihoods(profiles, shift_design(layers, ())).max(0)


def _p_any(profile: np.ndarray, boundaries: tuple[int, ...]) -> float:
    """Of the largest evidence over the numbers of boundaries, each less its own critical value."""
    null, critical = _null_evidence(profile.shape[1], boundaries)
    excess = (_evidence(profile, boundaries)[:, 0] - critical).max()
    return float((1 + (null >= excess).sum(1).max()) / (1 + DRAWS))


@cache
def _null_evidence(layers: int, boundaries: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Simulated excess, shape `(drifts, draws)`, and for every number of boundaries the critical value at 5 %."""
    evidence = np.stack([_evidence(of_drift, boundaries) for of_drift in smooth_draws(layers, DRAWS)])
    critical = np.quantile(evidence, 0.95, axis=2).max(0)
    return (evidence - critical[:, None]).max(1), critical


def _p_second(profile: np.ndarray, one: tuple[Shift, ...], two: tuple[Shift, ...]) -> float:
    """Of the gain from a second shift beside the best single one; 1 if that one fits exactly or leaves no room."""
    layers = profile.shape[1]
    if not possible_shifts(layers, one, 1) or _is_exact(profile, one):
        return 1.0
    drift = int(smooth_log_likelihoods(profile, shift_design(layers, two))[:, 0].argmax())
    null = _null_gain(layers, one, drift)
    return float((1 + (null >= _gain(profile, one, drift)[0]).sum()) / (1 + DRAWS))


@cache
def _null_gain(layers: int, known: tuple[Shift, ...], drift: int) -> np.ndarray:
    return _gain(smooth_draws(layers, DRAWS)[drift], known, drift)


def _gain(profiles: np.ndarray, known: tuple[Shift, ...], drift: int) -> np.ndarray:
    without, with_one_more = bands(profiles.shape[1], known, 1, drift).log_likelihoods(profiles)
    return with_one_more - without


def _is_exact(profile: np.ndarray, known: tuple[Shift, ...]) -> bool:
    """Whether a straight line and the known shifts leave nothing but rounding."""
    layers = profile.shape[1]
    maker, _ = whitening(np.eye(layers), shift_design(layers, known))
    return bool(np.linalg.norm(profile @ maker.T) <= ROUNDING * np.linalg.norm(profile))


def check_options(max_boundaries: int, level: float) -> None:
    """Refuse options no search can follow.

    Raises:
        ValueError: `max_boundaries` is neither 1 nor 2, or `level` is not in (0, 1).
    """
    if max_boundaries not in (1, 2):
        raise ValueError(f"Change points expect `max_boundaries` of 1 or 2; got {max_boundaries}.")
    if not 0 < level < 1:
        raise ValueError(f"Change points expect a `level` between 0 and 1; got {level}.")


def _checked(profile: np.ndarray) -> np.ndarray:
    profile = np.asarray(profile, dtype=np.float64)
    if profile.ndim != 1 or len(profile) < MIN_LAYERS:
        raise ValueError(f"Change points expect a profile of shape (layers,), 8 layers or more; got {profile.shape}.")
    if not np.isfinite(profile).all():
        bad = np.flatnonzero(~np.isfinite(profile)).tolist()
        raise ValueError(
            f"Change points expect finite values; those at positions {bad} are not. Leave these layers out."
        )
    return profile
