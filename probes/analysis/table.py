"""All quantities of a run as profiles over layers, and what follows from several of them together.

`LayerTable` collects profiles; `findings` adds what only several tasks together show: p values corrected for all cells,
specificity and bands of layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import get_args

import numpy as np

from probes.analysis.bands.segments import Band, Segments, find_segments
from probes.analysis.between_tasks.specificity import specificity_profiles
from probes.analysis.significance import Tail, with_p_values
from probes.values import ALL_TASKS, Estimates, Layer, LayerProfile, Reading

_NUMBERS_OF_TASKS = ("layer_choice/", "score_correlation/")
"""Start of the quantities that are one number of each task and have a mean over tasks."""
LIVE = "live/"
"""Starts the role of profiles that are steps of one task's training, not tasks: nothing is derived across them."""


@dataclass(frozen=True)
class SegmentedQuantity:
    """The profiles of one quantity, a task each, and the bands that its layers fall into."""

    profiles: tuple[LayerProfile, ...]
    segments: Segments


@dataclass(frozen=True)
class Findings:
    """Everything a run has measured and what follows from it.

    Attributes:
        profiles: All of them, in the order of `results.csv`.
        matrices: Those that form layer × task matrices: each group holds one quantity of one reading, a task each.
        segmented: The quantities whose layers were divided into bands.
    """

    profiles: tuple[LayerProfile, ...]
    matrices: tuple[tuple[LayerProfile, ...], ...]
    segmented: tuple[SegmentedQuantity, ...]

    def bands_of(self, quantity: str, reading: Reading) -> tuple[Band, ...]:
        """The bands of layers found in a quantity; none if it was not searched for bands."""
        for found in self.segmented:
            if (found.profiles[0].name, found.profiles[0].reading) == (quantity, reading):
                return found.segments.all_bands
        return ()

    def summary(self, reading: Reading | None, best_layers: Mapping[str, Layer] | None = None) -> dict[str, float]:
        """Scalars of a reading: `mean/<quantity>`, and `boundaries/<quantity>`, the number of them between its bands.

        Args:
            reading: Stack, site and pooling; others are left out.
            best_layers: Each task's layer chosen on validation. A probe's score is averaged over tasks at these layers,
                any other quantity over all tasks and layers. Missing values are left out.
        """
        scalars = {}
        for group in [group for group in self.matrices if group[0].reading == reading]:
            values = [
                value
                for profile in group
                for layer, value in profile.by_layer()
                if not profile.quantity.startswith("probe/") or layer == (best_layers or {}).get(profile.task)
            ]
            if np.isfinite(values).any():
                scalars[f"mean/{group[0].name.removeprefix('probe/')}"] = float(np.nanmean(values))
        for quantity in self.segmented:
            first = quantity.profiles[0]
            if first.reading == reading:
                scalars[f"boundaries/{first.name}"] = float(len(quantity.segments.boundaries))
        return scalars


class LayerTable:
    """Collects profiles; one with the same quantity, place and task as an earlier one replaces it.

    Args:
        specificity_of: Names of quantities to double-centre, layer by task; `*` stands for anything. A name without a
            role means the quantity in every role.
        segments_of: Names of quantities whose spread over tasks divides the layers into bands; `*` as above.
        tail: How small the p of a permutation null can get, as in `permutation_p`.

    Raises:
        ValueError: An unknown tail.
    """

    def __init__(
        self, *, specificity_of: Sequence[str] = (), segments_of: Sequence[str] = (), tail: Tail = "counted"
    ) -> None:
        if tail not in get_args(Tail):
            raise ValueError(f"Unknown tail {tail!r}. There are {list(get_args(Tail))}. Set `analysis.tail` to one.")
        self.tail: Tail = tail
        self.specificity_of, self.segments_of = tuple(specificity_of), tuple(segments_of)
        self._groups: dict[tuple[object, ...], dict[tuple[str, int | None], LayerProfile]] = {}

    def add(self, profiles: Iterable[LayerProfile]) -> None:
        """Take profiles in."""
        for profile in profiles:
            group = (profile.reading, profile.role, profile.quantity, profile.split, profile.control)
            self._groups.setdefault(group, {})[profile.task, profile.seed] = profile

    @property
    def profiles(self) -> list[LayerProfile]:
        """All profiles, quantity by quantity."""
        return [profile for group in self._ordered() for profile in group]

    def group(self, quantity: str, reading: Reading, *, role: str = "") -> list[LayerProfile]:
        """The test profiles of one quantity, in the order of their tasks' first appearance."""
        return [*self._groups.get((reading, role, quantity, "test", ""), {}).values()]

    def findings(self) -> Findings:
        """All profiles, and everything derived from several of them."""
        groups = [with_p_values(group, tail=self.tail) for group in self._ordered()]
        matrices = [group for group in groups if _is_matrix(group)]
        profiles = [profile for group in groups for profile in group]
        segmented = []
        for group in [group for group in matrices if len(group) > 1 and not group[0].role.startswith(LIVE)]:
            by_name = sorted(group, key=lambda profile: profile.task)  # rounding and resamples depend on the order
            if _matches(group[0], self.specificity_of):
                found = {profile.task: profile for profile in with_p_values(specificity_profiles(by_name))}
                specific = [found[profile.task] for profile in group]
                profiles += specific
                matrices.append(specific)
            if _matches(group[0], self.segments_of):
                segments = _segments_of(by_name)
                profiles += segment_profiles(group, segments)
                segmented.append(SegmentedQuantity(tuple(group), segments))
        for group in filter(_is_number_of_tasks, groups):
            known = [profile for profile in group if np.isfinite(profile.estimates.values).all()]
            if len(known) > 2:
                profiles += group_means(known, {profile.task: ALL_TASKS for profile in known})
        return Findings(tuple(profiles), tuple(map(tuple, matrices)), tuple(segmented))

    def _ordered(self) -> list[list[LayerProfile]]:
        """The profiles of each quantity: scores of probes first, otherwise in the order of their first appearance."""
        groups = [[*group.values()] for group in self._groups.values()]
        return sorted(groups, key=lambda group: not group[0].quantity.startswith("probe/"))


def segment_profiles(profiles: Sequence[LayerProfile], segments: Segments) -> list[LayerProfile]:
    """What the search for bands of a quantity leaves in the results.

    Returns:
        `between_task_sd/<quantity>` over layers, and a `boundary/<quantity>` for each boundary: its value is the share
        of resamples of the tasks that place it within one layer. Without boundaries, one that says why. Where all tasks
        are equal up to some layer, the boundary above it comes first, without p.
    """
    first, n = profiles[0], len(profiles)
    common = {"task": ALL_TASKS, "reading": first.reading, "role": first.role}
    boundary = {"quantity": f"boundary/{first.quantity}", "unit": "share of resamples", **common}
    p = np.array([segments.p])
    spread = LayerProfile(
        quantity=f"between_task_sd/{first.quantity}",
        unit=first.unit,
        layers=segments.layers,
        estimates=Estimates(segments.profile, n, note=""),
        **common,
    )
    found = [spread]
    if segments.equal is not None:
        remark = f"tasks begin to differ; they are equal at layers {segments.equal.first} to {segments.equal.last}"
        certain = Estimates(np.ones(1), n, remarks=(remark,), note="")
        found.append(LayerProfile(layers=segments.layers[:1], estimates=certain, **boundary))
    if not segments.boundaries:
        nothing = Estimates(np.array([np.nan]), n, p=p, p_cell=p, note=segments.note)
        return [*found, LayerProfile(layers=(None,), estimates=nothing, **boundary)]
    for band, edge in zip(segments.bands[1:], segments.boundaries, strict=True):
        width = "1 layer" if edge.width == 1 else f"{edge.width} layers"
        remark = f"{band.name} begins; the shift is spread over {width}"
        share = Estimates(np.array([edge.share]), n, p=p, p_cell=p, remarks=(remark,), note="")
        found.append(LayerProfile(layers=(edge.layer,), estimates=share, **boundary))
    return found


def group_means(profiles: Sequence[LayerProfile], group_of: Mapping[str, str]) -> list[LayerProfile]:
    """Mean of one quantity over the tasks of each group, a profile for each group.

    From three tasks up the error is that of the mean over tasks, as if they were drawn from many similar ones; below,
    that of the rows alone.

    Args:
        profiles: Of one quantity and reading, one for each task.
        group_of: Task → group; tasks that are not in it are left out.
    """
    groups: dict[str, list[LayerProfile]] = {}
    for profile in profiles:
        if profile.task in group_of:
            groups.setdefault(group_of[profile.task], []).append(profile)
    return [_mean(name, members) for name, members in groups.items()]


def _is_matrix(group: Sequence[LayerProfile]) -> bool:
    first = group[0]
    return first.split == "test" and not first.control and first.layers != (None,)


def _is_number_of_tasks(group: Sequence[LayerProfile]) -> bool:
    """Whether a quantity is a single number of each task, such as a centre of gravity over layers."""
    first = group[0]
    return first.layers == (None,) and first.split == "test" and first.quantity.startswith(_NUMBERS_OF_TASKS)


def _matches(profile: LayerProfile, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for name in {profile.name, profile.quantity} for pattern in patterns)


def _segments_of(profiles: Sequence[LayerProfile]) -> Segments:
    values = np.stack([profile.estimates.values for profile in profiles], axis=1)
    layers = [layer for layer in profiles[0].layers if layer is not None]
    return find_segments(values, layers=layers)


def _mean(name: str, profiles: Sequence[LayerProfile]) -> LayerProfile:
    profiles = sorted(profiles, key=lambda profile: profile.task)
    values = np.stack([profile.estimates.values for profile in profiles])  # (tasks, layers)
    mean, count = values.mean(0), len(profiles)
    errors: np.ndarray | None
    freedom: tuple[tuple[int, int], ...] = ()
    over = "tasks" if count >= 3 else "rows"
    if over == "tasks":
        errors = (values - mean) / np.sqrt(count * (count - 1))  # their squares sum to the variance of the mean
    else:
        known = [
            (own.errors, own.freedom or ((len(own.errors), len(own.errors) - 1),))
            for own in (profile.estimates for profile in profiles)
            if own.errors is not None
        ]
        errors = np.concatenate([errors for errors, _ in known]) / count if len(known) == count else None
        freedom = tuple(source for _, sources in known for source in sources)
    rows = sum(profile.estimates.n for profile in profiles)
    first = profiles[0]
    estimates = Estimates(mean, rows, errors, interval_over=over, freedom=freedom)
    return replace(first, quantity=f"group_mean/{first.quantity}", task=name, estimates=estimates)
