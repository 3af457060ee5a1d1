"""From profiles to rows of `results.csv`, and from these rows to layer × task matrices.

The rows hold all that figures and reports show, so that a run's folder alone can be drawn again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import MappingProxyType

import numpy as np

from probes.analysis.intervals import confidence_interval
from probes.values import Estimates, LayerByTask, LayerProfile, Reading, Result, RunNames, layer_depth


def result_rows(profiles: Iterable[LayerProfile], names: RunNames | None = None) -> list[Result]:
    """Rows of `results.csv`: a row for each layer of each profile.

    Args:
        profiles: Any profiles.
        names: What all rows share; default nothing.
    """
    names = RunNames() if names is None else names
    return [row for profile in profiles for row in _rows(profile, names)]


def quantity_of(row: Result) -> str:
    """The quantity of a row as matrices and figures call it: `LayerProfile.name` of the profile it came from."""
    if row.role:
        return f"{row.role}/{row.metric}"
    return f"probe/{row.metric}" if row.probe else row.metric


def matrices_of(rows: Iterable[Result]) -> list[LayerByTask]:
    """All layer × task matrices among the rows of one run, in the order of their first rows.

    Test rows of the thing itself count: those of other splits, of controls, and without a layer are left out.

    Args:
        rows: Of one study, backbone and suite.

    Raises:
        ValueError: Two rows belong to one cell.
    """
    groups: dict[tuple[str, Reading], list[Result]] = {}
    for row in rows:
        if row.layer is not None and row.split == "test" and not row.control:
            groups.setdefault((quantity_of(row), _reading(row)), []).append(row)
    return [layer_by_task(group) for group in groups.values()]


def layer_by_task(rows: Sequence[Result]) -> LayerByTask:
    """Arrange the rows of one quantity and reading as a matrix.

    Layers ascend, `"final"` last; tasks keep their order. Rows without a layer are left out.

    Raises:
        ValueError: There are no rows, they are of several quantities or readings, or two belong to one cell.
    """
    rows = [row for row in rows if row.layer is not None]
    kinds = {(quantity_of(row), _reading(row)) for row in rows}
    cells = {(row.layer, row.task): row for row in rows if row.layer is not None}
    tasks = tuple(dict.fromkeys(row.task for row in rows))
    if len(kinds) != 1 or len(cells) < len(rows):
        raise ValueError(
            f"A layer × task matrix expects one quantity of one reading and one row for each cell; got "
            f"{sorted(map(str, kinds)) or 'nothing'}, {len(rows)} rows for {len(cells)} cells of the tasks "
            f"{', '.join(tasks)}."
        )
    clusters = {row.task: row.cluster for row in rows}
    layers = tuple(sorted({layer for layer, _ in cells}, key=layer_depth))

    def matrix(column: str) -> np.ndarray:
        values = np.full((len(layers), len(tasks)), np.nan)
        for (layer, task), row in cells.items():
            value = getattr(row, column)
            if value is not None:
                values[layers.index(layer), tasks.index(task)] = value
        return values

    return LayerByTask(
        quantity=quantity_of(rows[0]),
        unit=rows[0].unit,
        layers=layers,
        tasks=tasks,
        values=matrix("value"),
        ci_low=matrix("ci_low"),
        ci_high=matrix("ci_high"),
        null_mean=matrix("null_mean"),
        null_low=matrix("null_low"),
        null_high=matrix("null_high"),
        p=matrix("p"),
        p_cell=matrix("p_cell"),
        interval_over=next((row.interval_over for row in rows if row.interval_over), ""),
        n=matrix("n"),
        clusters=tuple(clusters[task] for task in tasks) if any(clusters.values()) else (),
        reading=_reading(rows[0]),
        notes=MappingProxyType({cell: row.note for cell, row in cells.items() if row.note}),
    )


def interval_of(profile: LayerProfile) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of a profile's 95 % interval at every layer, shape `(layers,)`; NaN without interval and errors."""
    estimates = profile.estimates
    if estimates.interval is not None:
        return estimates.interval[0], estimates.interval[1]
    if estimates.errors is None:
        unknown = np.full(len(profile.layers), np.nan)
        return unknown, unknown
    return confidence_interval(estimates.values, estimates.errors, freedom=estimates.freedom)


def _reading(row: Result) -> Reading:
    return Reading(row.stack, row.site, row.pooling)


def _null_range(estimates: Estimates) -> np.ndarray:
    """Both ends of the range that holds 95 % of the null's draws, shape `(2, layers)`; NaN without draws."""
    if estimates.null is None or len(estimates.null) < 2:
        return np.full((2, len(estimates.values)), np.nan)
    return np.quantile(estimates.null, [0.025, 0.975], axis=0)


def _rows(profile: LayerProfile, names: RunNames) -> Iterator[Result]:
    estimates, reading = profile.estimates, profile.reading
    low, high = interval_of(profile)
    null_low, null_high = _null_range(estimates)
    null_mean = None if estimates.null is None else estimates.null.mean(0)
    for i, layer in enumerate(profile.layers):
        value = float(estimates.values[i])
        missing = np.isnan(value)
        yield Result(
            study=names.study,
            role=profile.role,
            backbone=names.backbone,
            reference=names.reference,
            suite=names.suite,
            task=profile.task,
            cluster=names.clusters.get(profile.task, ""),
            stack=reading.stack,
            layer=layer,
            site=reading.site,
            pooling=reading.pooling,
            probe=profile.probe,
            penalty=profile.penalties[i] if profile.penalties else None,
            control=profile.control,
            seed=profile.seed,
            split=profile.split,
            metric=profile.metric,
            unit=profile.unit,
            value=value,
            ci_low=_or_none(low[i]),
            ci_high=_or_none(high[i]),
            interval_over="" if np.isnan(low[i]) else estimates.interval_over,
            null_mean=None if null_mean is None or missing else _or_none(null_mean[i]),
            null_low=_or_none(null_low[i]),
            null_high=_or_none(null_high[i]),
            p=None if estimates.p is None else _or_none(estimates.p[i]),
            p_cell=None if estimates.p_cell is None else _or_none(estimates.p_cell[i]),
            n=estimates.n,
            note="; ".join(
                filter(None, (estimates.note if missing else "", estimates.remarks[i] if estimates.remarks else ""))
            ),
        )


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
