"""Level shifts added to a straight line: every place and width they may have, fitted to many profiles at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from probes.analysis.bands.smooth_null import log_likelihood, smooth_covariances, straight_line, whitening

MIN_BAND = 3
WIDTHS = (1, 2, 3)
WHITE = 0

Shift = tuple[int, int]
"""Index of the first layer at least half way to the new level; number of layers the shift takes, one of `WIDTHS`."""


def best_shifts(profiles: np.ndarray, boundaries: int) -> list[tuple[Shift, ...]]:
    """The shifts of the best-fitting bands, whether or not there are any.

    Args:
        profiles: Shape `(profiles, layers)`.
        boundaries: 1 or 2 for every profile.

    Returns:
        A tuple of shifts for every profile.
    """
    fits = bands(profiles.shape[1], (), boundaries)
    return [fits.shifts[i] for i in fits.reductions(profiles).argmax(1)]


@dataclass(frozen=True)
class Bands:
    """All ways to add shifts to a design, ready for least squares whitened for one drift.

    `first` and `second`, shape `(layers, ways)`, take a profile to its coordinates along an orthonormal basis of what
    each way adds; `second` is None if each adds one shift.
    """

    design: np.ndarray
    shifts: tuple[tuple[Shift, ...], ...]
    residual_maker: np.ndarray
    offset: np.ndarray
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
def bands(layers: int, known: tuple[Shift, ...], added: int, drift: int = WHITE) -> Bands:
    """Prepare every way to add shifts to known ones.

    Args:
        layers: Length of the profile.
        known: Shifts that are part of the design.
        added: How many more, 1 or 2; two share one width.
        drift: Position of the scatter's covariance among `smooth_covariances`.
    """
    design = shift_design(layers, known)
    ways = possible_shifts(layers, known, added)
    maker, offset = whitening(smooth_covariances(layers)[drift], design)
    columns = np.stack([[_shape(layers, shift) for shift in way] for way in ways]) @ maker.T
    first = columns[:, 0] / np.linalg.norm(columns[:, 0], axis=1, keepdims=True)
    second = None
    if added == 2:
        rest = columns[:, 1] - (columns[:, 1] * first).sum(1, keepdims=True) * first
        second = (rest / np.linalg.norm(rest, axis=1, keepdims=True) @ maker).T
    return Bands(design, ways, maker, offset, (first @ maker).T, second)


def shift_design(layers: int, known: tuple[Shift, ...]) -> np.ndarray:
    """A straight line and the known shifts, shape `(layers, 2 + shifts)`."""
    return np.column_stack([straight_line(layers), *(_shape(layers, shift) for shift in known)])


def possible_shifts(layers: int, known: tuple[Shift, ...], added: int) -> tuple[tuple[Shift, ...], ...]:
    """Ways to add shifts so that no band is shorter than `MIN_BAND`; empty if there are none."""
    taken = (0, layers, *(start for start, _ in known))
    starts = [s for s in range(layers) if min(abs(s - other) for other in taken) >= MIN_BAND]
    if added == 1:
        return tuple(((start, width),) for width in WIDTHS for start in starts)
    return tuple(((s, w), (t, w)) for w in WIDTHS for s in starts for t in starts if t - s >= MIN_BAND)


def _shape(layers: int, shift: Shift) -> np.ndarray:
    """From 0 to 1 in `width` equal steps, the first value of at least 1/2 at `start`."""
    start, width = shift
    return np.clip((np.arange(layers) - start + (width + 1) // 2) / width, 0, 1)
