"""Bands of layers in a layer × task matrix: where its spread over tasks, or its mean, shifts to another level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from probes.analysis.bands.change_points import MIN_LAYERS, ChangePoints, check_options, find_boundaries
from probes.analysis.bands.level_shifts import best_shifts
from probes.values import Layer

MIN_TASKS = 3
BAND_NAMES = {0: ("undivided",), 1: ("shared", "refinement"), 2: ("shared", "transition", "refinement")}
SPREAD_ROUNDING = 1e-12
"""Share of a layer's largest value under which its spread over tasks is rounding."""


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Where one band ends and the next begins.

    Attributes:
        layer: First layer of the new band: the first at least half way to the new level.
        width: Over how many layers the shift is spread, 1 to 3.
        share: Share of bootstrap resamples of the tasks, the number of boundaries held, with one within one layer of
            this one. It says how far the place hangs on the choice of tasks, not whether there is a boundary.
    """

    layer: Layer
    width: int
    share: float


@dataclass(frozen=True)
class Band:
    """A run of layers: `shared`, `transition` or `refinement`, in order of depth alone; `undivided` if there is one."""

    name: str
    first: Layer
    last: Layer


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Bands of layers.

    Attributes:
        statistic: What the profile holds, `spread` or `mean`.
        layers: Layers looked at.
        left_out: Layers left out: those with a NaN and, for the spread, those where it is zero.
        profile: Standard deviation (ddof 1) or mean over tasks, in the unit of the values, shape `(layers,)`.
        boundaries: Ascending; empty if none was found.
        p: Of "there is no boundary"; NaN if the search could not be tried.
        bands: They cover `layers`; empty if there are no layers.
        note: Why there is one band alone; empty if boundaries were found.
    """

    statistic: str
    layers: tuple[Layer, ...]
    left_out: tuple[Layer, ...]
    profile: np.ndarray
    boundaries: tuple[Boundary, ...]
    p: float
    bands: tuple[Band, ...]
    note: str


def find_segments(
    values: np.ndarray,
    *,
    layers: Sequence[Layer],
    statistic: Literal["spread", "mean"] = "spread",
    max_boundaries: int = 2,
    level: float = 0.05,
    resamples: int = 1000,
    seed: int = 0,
) -> Segments:
    """Bands of layers, as far as they stand out against ramps and drifts.

    The spread is compared on a log scale, where its sampling error is the same at every level. The names of the bands
    follow their order; whether the spread grows or shrinks is in the profile.

    Args:
        values: float64, shape `(layers, tasks)`, NaN where unknown.
        layers: Names of the rows, ascending, `"final"` last; taken as equally spaced.
        statistic: `spread`: standard deviation over tasks at every layer; `mean`: mean over tasks.
        max_boundaries: 1 or 2.
        level: Largest chance of reporting any boundary where there is none (`find_boundaries`).
        resamples: Bootstrap resamples of the tasks behind every boundary's `share`.
        seed: Of these resamples; they do not touch boundaries or p.

    Raises:
        ValueError: Values are not `(layers, tasks)` or infinite, the layers do not ascend, or an option is not one of
            those named.

    >>> rng = np.random.default_rng(0)
    >>> sd = np.repeat([0.02, 0.05, 0.12], [10, 6, 15])
    >>> found = find_segments(sd[:, None] * rng.standard_normal((31, 40)), layers=range(31))
    >>> [(band.name, band.first, band.last) for band in found.bands]
    [('shared', 0, 9), ('transition', 10, 15), ('refinement', 16, 30)]
    """
    check_options(max_boundaries, level)
    values = _checked(values, layers, statistic, resamples)
    spread = statistic == "spread"
    kept = np.asarray(~np.isnan(values).any(1))
    if spread and values.shape[1] >= MIN_TASKS:
        kept &= np.asarray(_spread(values) > SPREAD_ROUNDING * np.abs(values).max(1))
    used = values[kept]
    names = tuple(layer for layer, keep in zip(layers, kept, strict=True) if keep)
    found, note = _search(used, spread=spread, max_boundaries=max_boundaries, level=level)
    shares = _shares(used, found, spread=spread, rng=np.random.default_rng(seed), resamples=resamples)
    return Segments(
        statistic=statistic,
        layers=names,
        left_out=tuple(layer for layer, keep in zip(layers, kept, strict=True) if not keep),
        profile=_profile(used, spread=spread),
        boundaries=tuple(
            Boundary(layer=names[start], width=width, share=share)
            for (start, width), share in zip(found.shifts, shares, strict=True)
        ),
        p=found.p,
        bands=_bands(names, found),
        note=note,
    )


def _search(values: np.ndarray, *, spread: bool, max_boundaries: int, level: float) -> tuple[ChangePoints, str]:
    count, tasks = values.shape
    untried = ChangePoints(shifts=(), p=float("nan"), best=())
    if count < MIN_LAYERS:
        return untried, f"not tried: {count} usable layers, {MIN_LAYERS} needed"
    if tasks < MIN_TASKS:
        return untried, f"not tried: tasks are the resampling unit; {tasks} given, {MIN_TASKS} needed"
    profile = _fitted(values, spread=spread)
    found = find_boundaries(profile, max_boundaries=max_boundaries, level=level)
    if found.shifts:
        return found, ""
    return found, f"no boundary that a ramp or a smooth drift could not explain (p = {found.p:.3f}, level {level})"


def _shares(
    values: np.ndarray, found: ChangePoints, *, spread: bool, rng: np.random.Generator, resamples: int
) -> list[float]:
    """Resamples in which some layer has no spread at all (one task drawn throughout) are left out."""
    if not found.shifts:
        return []
    tasks = values.shape[1]
    drawn = values[:, rng.integers(tasks, size=(resamples, tasks))].swapaxes(0, 1)
    with np.errstate(divide="ignore"):
        profiles = _fitted(drawn, spread=spread)
    profiles = profiles[np.isfinite(profiles).all(1)]
    if not len(profiles):
        return [float("nan")] * len(found.shifts)
    places = np.array([[start for start, _ in way] for way in best_shifts(profiles, len(found.shifts))])
    return [float((np.abs(places - start) <= 1).any(1).mean()) for start, _ in found.shifts]


def _spread(values: np.ndarray) -> np.ndarray:
    return values.std(-1, ddof=1)


def _profile(values: np.ndarray, *, spread: bool) -> np.ndarray:
    """Over tasks, the last axis; NaN for the spread of a single task."""
    if spread and values.shape[-1] < 2:
        return np.full(values.shape[:-1], np.nan)
    return _spread(values) if spread else values.mean(-1)


def _fitted(values: np.ndarray, *, spread: bool) -> np.ndarray:
    profile = _profile(values, spread=spread)
    return np.log(profile) if spread else profile


def _bands(layers: tuple[Layer, ...], found: ChangePoints) -> tuple[Band, ...]:
    if not layers:
        return ()
    edges = [0, *(start for start, _ in found.shifts), len(layers)]
    runs = zip(BAND_NAMES[len(found.shifts)], pairwise(edges), strict=True)
    return tuple(Band(name=name, first=layers[first], last=layers[end - 1]) for name, (first, end) in runs)


def _checked(values: np.ndarray, layers: Sequence[Layer], statistic: str, resamples: int) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if statistic not in ("spread", "mean"):
        raise ValueError(f"Segments have no statistic '{statistic}'. There are: spread, mean.")
    if values.ndim != 2 or values.shape[0] != len(layers) or values.shape[1] == 0:
        raise ValueError(
            f"Segments expect values of shape (layers, tasks) for {len(layers)} layers; got {values.shape}."
        )
    depths = [np.inf if layer == "final" else float(layer) for layer in layers]
    if any(after <= before for before, after in pairwise(depths)):
        raise ValueError(f"Segments expect layers in ascending order, 'final' last; got {list(layers)}.")
    if np.isinf(values).any():
        bad = [layer for layer, row in zip(layers, values, strict=True) if np.isinf(row).any()]
        raise ValueError(f"Segments expect finite values or NaN; those of layers {bad} are infinite.")
    if resamples < 1:
        raise ValueError(f"Segments expect 1 resample of the tasks or more; got {resamples}.")
    return values
