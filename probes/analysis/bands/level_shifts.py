"""Level shifts on top of a linear trend: every admissible place and width, fitted to many profiles at once.

A shift is a regressor that rises from 0 to 1. Adding regressors S to a design lowers the residual sum of squares by
‖projection of M y onto the column space of M S‖², with M the residual maker of the design (Frisch, Waugh and Lovell).
For every candidate an orthonormal basis of M S is prepared once, so that a search over all candidates is one matrix
product.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from probes.analysis.bands.null_models import (
    gls_residual_makers,
    linear_trend,
    null_covariances,
    restricted_log_likelihood,
)

MIN_BAND = 3
"""Layers of the shortest band: in a shorter one, a shift could not be told from an outlier."""
WIDTHS = (1, 2, 3)
"""Layers over which a shift may be spread; 1 is an abrupt step."""
WHITE_NOISE = 0
"""Position of white noise in `null_covariances`."""


class LevelShift(NamedTuple):
    """A change from one level to another.

    Attributes:
        start: Index of the first layer that is at least half way to the new level, where the new band begins.
        width: Number of layers over which the change is spread in equal steps, one of `WIDTHS`.
    """

    start: int
    width: int


def best_shifts(profiles: np.ndarray, count: int) -> list[tuple[LevelShift, ...]]:
    """The shifts that fit each profile best under white noise, whether or not they are significant.

    Args:
        profiles: Shape `(profiles, layers)`.
        count: Number of shifts, 1 or 2.

    Returns:
        For every profile, its shifts in ascending order.
    """
    fits = candidate_fits(profiles.shape[1], (), count)
    return [fits.candidates[i] for i in fits.explained_squares(profiles).argmax(1)]


@dataclass(frozen=True)
class CandidateFits:
    """Every way to add one or two shifts to a design, ready to be fitted by GLS under one noise covariance.

    Attributes:
        design: Regressors in all candidates: trend and included shifts, shape `(layers, columns)`.
        candidates: The shifts that each candidate adds.
        residual_maker: M of the design, shape `(layers, layers)`.
        log_determinants: Determinant terms of the restricted likelihood of the design, a scalar.
        first: Takes a profile to its coordinate along the first basis vector of each candidate, shape
            `(layers, candidates)`.
        second: The same for the second basis vector; `None` if candidates add one shift.
    """

    design: np.ndarray
    candidates: tuple[tuple[LevelShift, ...], ...]
    residual_maker: np.ndarray
    log_determinants: np.ndarray
    first: np.ndarray
    second: np.ndarray | None

    def explained_squares(self, profiles: np.ndarray) -> np.ndarray:
        """By how much each candidate lowers the residual sum of squares, shape `(profiles, candidates)`."""
        total = np.square(profiles @ self.first)
        if self.second is not None:
            total += np.square(profiles @ self.second)
        return total

    def log_likelihoods(self, profiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Restricted log-likelihood of the design alone and with the best candidate, each of shape `(profiles,)`.

        Both are restricted to contrasts orthogonal to the design, and maximised over the heights of the added shifts
        and the scale of the noise; so they may be compared, and the second is never smaller.
        """
        squares = np.square(profiles @ self.residual_maker.T).sum(1)
        remaining = np.maximum(squares - self.explained_squares(profiles).max(1), 0)
        without, with_best = (
            restricted_log_likelihood(rss, self.log_determinants, self.design) for rss in (squares, remaining)
        )
        return without, with_best


@cache
def candidate_fits(
    layers: int, included: tuple[LevelShift, ...], added: int, covariance: int = WHITE_NOISE
) -> CandidateFits:
    """Prepare every way to add shifts to those included.

    Args:
        layers: Length of the profile.
        included: Shifts that are part of the design.
        added: Number of shifts to add, 1 or 2; two have the same width.
        covariance: Position of the noise covariance in `null_covariances`.
    """
    design = design_matrix(layers, included)
    candidates = admissible_shifts(layers, included, added)
    maker, log_determinants = gls_residual_makers(null_covariances(layers)[covariance], design)
    steps = np.stack([[_step(layers, shift) for shift in shifts] for shifts in candidates])
    columns = steps @ maker.T  # M S of every candidate, (candidates, added, layers)
    first = columns[:, 0] / np.linalg.norm(columns[:, 0], axis=1, keepdims=True)
    second = None
    if added == 2:  # Gram–Schmidt
        rest = columns[:, 1] - (columns[:, 1] * first).sum(1, keepdims=True) * first
        second = (rest / np.linalg.norm(rest, axis=1, keepdims=True) @ maker).T
    return CandidateFits(design, candidates, maker, log_determinants, (first @ maker).T, second)


def design_matrix(layers: int, included: tuple[LevelShift, ...]) -> np.ndarray:
    """A linear trend and the included shifts, shape `(layers, 2 + shifts)`."""
    return np.column_stack([linear_trend(layers), *(_step(layers, shift) for shift in included)])


def admissible_shifts(layers: int, included: tuple[LevelShift, ...], added: int) -> tuple[tuple[LevelShift, ...], ...]:
    """Ways to add one or two shifts so that no band is shorter than `MIN_BAND`; empty if there are none."""
    edges = (0, layers, *(start for start, _ in included))
    starts = [s for s in range(layers) if min(abs(s - edge) for edge in edges) >= MIN_BAND]
    if added == 1:
        return tuple((LevelShift(start, width),) for width in WIDTHS for start in starts)
    return tuple(
        (LevelShift(s, width), LevelShift(t, width))
        for width in WIDTHS
        for s in starts
        for t in starts
        if t - s >= MIN_BAND
    )


def _step(layers: int, shift: LevelShift) -> np.ndarray:
    """Regressor of a shift: from 0 to 1 in `width` equal steps, first at least 1/2 at `start`; shape `(layers,)`."""
    start, width = shift
    return np.clip((np.arange(layers) - start + (width + 1) // 2) / width, 0, 1)
