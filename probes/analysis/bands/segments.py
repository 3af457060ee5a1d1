"""Bands of layers in a layer × task matrix: runs of layers between shifts of its spread over tasks, or of its mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from probes.analysis.bands.change_points import MIN_LAYERS, ChangePoints, find_boundaries, require_search_options
from probes.analysis.bands.level_shifts import best_shifts
from probes.values import Layer, layer_depth

MIN_TASKS = 3
"""Tasks are the bootstrap's sampling unit: with fewer, resamples would say nothing about their variation."""
BAND_NAMES = {0: ("undivided",), 1: ("shared", "refinement"), 2: ("shared", "transition", "refinement")}
"""Names of the bands in order of depth, by the number of boundaries."""
SPREAD_ROUNDING = 1e-12
"""A standard deviation over tasks at most this share of the layer's largest absolute value is a rounding error."""


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Where one band ends and the next begins.

    Attributes:
        layer: First layer of the new band: the first that is at least half way to the new level.
        width: Number of layers, 1 to 3, over which the shift is spread.
        share: Share of bootstrap resamples of the tasks, each fitted with as many boundaries as were found, that place
            one within one layer of this one. It measures how much the place depends on the choice of tasks; whether
            there is a boundary at all is what `Segments.p` tells.
    """

    layer: Layer
    width: int
    share: float


@dataclass(frozen=True)
class Band:
    """A run of layers, `first` to `last` inclusive; `BAND_NAMES` gives its name by order of depth alone."""

    name: str
    first: Layer
    last: Layer


@dataclass(frozen=True, kw_only=True)
class Segments:
    """The bands of a layer × task matrix.

    Attributes:
        statistic: Statistic over tasks whose profile was searched, `spread` or `mean`.
        layers: Layers in the profile.
        left_out: Layers that are not: those with a NaN and, for the spread, those whose spread is 0.
        profile: Standard deviation (ddof 1) or mean over tasks, in the unit of the values, shape `(layers,)`.
        boundaries: Ascending; empty if none was found.
        p: p-value of the null hypothesis that there is no boundary; NaN if the search was not possible.
        bands: They cover `layers`; empty if there are no layers.
        note: Why there is only one band; empty if boundaries were found.
        equal: The run of layers just below `layers` on which all tasks have the same value; `None` if there is none.
            Its end needs no test, because the spread is exactly 0 up to it and not above. Models of which only the
            upper blocks were tuned have such a run.
    """

    statistic: str
    layers: tuple[Layer, ...]
    left_out: tuple[Layer, ...]
    profile: np.ndarray
    boundaries: tuple[Boundary, ...]
    p: float
    bands: tuple[Band, ...]
    note: str
    equal: Band | None = None

    @property
    def all_bands(self) -> tuple[Band, ...]:
        """The bands that were searched for, after the one in which all tasks are equal."""
        return self.bands if self.equal is None else (self.equal, *self.bands)


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
    """Divide the layers into bands where a statistic over tasks shifts to another level (`find_boundaries`).

    The spread is searched on a log scale, on which its sampling variance is the same at every level. Bands are named by
    their order, so whether the spread grows or shrinks has to be read from the profile.

    Args:
        values: float64, shape `(layers, tasks)`, NaN where missing.
        layers: Names of the rows in ascending order, `"final"` last; they count as equally spaced.
        statistic: `spread`, the standard deviation over tasks at every layer, or `mean`, their mean.
        max_boundaries: 1 or 2.
        level: Largest probability of reporting any boundary where there is none.
        resamples: Bootstrap resamples of the tasks behind the `share` of every boundary.
        seed: Seed of these resamples; boundaries and p do not depend on it.

    Raises:
        ValueError: Values are infinite or not of shape `(layers, tasks)`, the layers are not in ascending order, or an
            option is out of range.

    >>> rng = np.random.default_rng(0)
    >>> sd = np.repeat([0.02, 0.05, 0.12], [10, 6, 15])
    >>> found = find_segments(sd[:, None] * rng.standard_normal((31, 40)), layers=range(31))
    >>> [(band.name, band.first, band.last) for band in found.bands]
    [('shared', 0, 9), ('transition', 10, 15), ('refinement', 16, 30)]
    """
    require_search_options(max_boundaries, level)
    values = _checked(values, layers, statistic, resamples)
    spread = statistic == "spread"
    kept, equal = np.asarray(~np.isnan(values).any(1)), np.zeros(len(values), dtype=bool)
    if spread and values.shape[1] >= MIN_TASKS:
        equal = kept & ~(_spread(values) > SPREAD_ROUNDING * np.abs(values).max(1))
        kept &= ~equal
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
        equal=_equal_band(tuple(layers), equal, kept),
    )


def _search(values: np.ndarray, *, spread: bool, max_boundaries: int, level: float) -> tuple[ChangePoints, str]:
    """The change points of values `(layers, tasks)` without NaN, and why there are none."""
    layers, tasks = values.shape
    untried = ChangePoints(shifts=(), p=float("nan"), best=())
    if layers < MIN_LAYERS:
        return untried, f"not tried: {layers} usable layers, at least {MIN_LAYERS} are needed"
    if tasks < MIN_TASKS:
        return untried, f"not tried: {tasks} tasks, at least {MIN_TASKS} are needed because they are resampled"
    found = find_boundaries(_searched_profile(values, spread=spread), max_boundaries=max_boundaries, level=level)
    if found.shifts:
        return found, ""
    return found, f"no boundary: a linear trend or smooth drift explains the profile (p = {found.p:.3f}, level {level})"


def _shares(
    values: np.ndarray, found: ChangePoints, *, spread: bool, rng: np.random.Generator, resamples: int
) -> list[float]:
    """`Boundary.share` of every shift; resamples in which the spread of a layer is 0 (one task throughout) are omitted.

    NaN if no resample is left.
    """
    if not found.shifts:
        return []
    tasks = values.shape[1]
    drawn = values[:, rng.integers(tasks, size=(resamples, tasks))].swapaxes(0, 1)  # (resamples, layers, tasks)
    with np.errstate(divide="ignore"):
        profiles = _searched_profile(drawn, spread=spread)  # (resamples, layers)
    profiles = profiles[np.isfinite(profiles).all(1)]
    if not len(profiles):
        return [float("nan")] * len(found.shifts)
    places = np.array([[start for start, _ in shifts] for shifts in best_shifts(profiles, len(found.shifts))])
    return [float((np.abs(places - start) <= 1).any(1).mean()) for start, _ in found.shifts]


def _spread(values: np.ndarray) -> np.ndarray:
    return values.std(-1, ddof=1)


def _profile(values: np.ndarray, *, spread: bool) -> np.ndarray:
    """Standard deviation or mean over tasks, the last axis; NaN for the standard deviation of a single task."""
    if spread and values.shape[-1] < 2:
        return np.full(values.shape[:-1], np.nan)
    return _spread(values) if spread else values.mean(-1)


def _searched_profile(values: np.ndarray, *, spread: bool) -> np.ndarray:
    """The profile on the scale on which it is searched: the spread's logarithm, or the mean."""
    profile = _profile(values, spread=spread)
    return np.log(profile) if spread else profile


def _bands(layers: tuple[Layer, ...], found: ChangePoints) -> tuple[Band, ...]:
    """The runs of layers between the shifts."""
    if not layers:
        return ()
    edges = [0, *(start for start, _ in found.shifts), len(layers)]
    runs = zip(BAND_NAMES[len(found.shifts)], pairwise(edges), strict=True)
    return tuple(Band(name=name, first=layers[first], last=layers[end - 1]) for name, (first, end) in runs)


def _equal_band(layers: tuple[Layer, ...], equal: np.ndarray, kept: np.ndarray) -> Band | None:
    """The run of layers without spread that ends just below the first layer with spread."""
    end = int(kept.argmax()) if kept.any() else 0
    run = 0
    while run < end and equal[end - 1 - run]:
        run += 1
    return Band(name="equal", first=layers[end - run], last=layers[end - 1]) if run else None


def _checked(values: np.ndarray, layers: Sequence[Layer], statistic: str, resamples: int) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if statistic not in ("spread", "mean"):
        raise ValueError(f"`statistic` must be 'spread' or 'mean'; got '{statistic}'.")
    if values.ndim != 2 or values.shape[0] != len(layers) or values.shape[1] == 0:
        raise ValueError(
            f"A search for bands expects values of shape (layers, tasks) with {len(layers)} layers and at least one "
            f"task; got shape {values.shape}."
        )
    depths = [layer_depth(layer) for layer in layers]
    if any(after <= before for before, after in pairwise(depths)):
        raise ValueError(f"A search for bands expects layers in ascending order, 'final' last; got {list(layers)}.")
    if np.isinf(values).any():
        infinite = [layer for layer, row in zip(layers, values, strict=True) if np.isinf(row).any()]
        raise ValueError(f"A search for bands expects finite values or NaN; those of layers {infinite} are infinite.")
    if resamples < 1:
        raise ValueError(f"`resamples` must be at least 1; got {resamples}.")
    return values
