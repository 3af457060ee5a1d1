"""Findings as the report wants them: a few scalars, and curves with their bands."""

from __future__ import annotations

import numpy as np

from probes.analysis import Column, Findings
from probes.report import BandedProfiles, Curve
from probes.values import Reading


def summary_of(found: Findings, *, primary: Reading | None) -> dict[str, float]:
    """`mean/<quantity>` over layers and tasks of the primary reading, and `boundaries/<quantity>` between its bands."""
    means = {
        f"mean/{matrix.quantity}": float(np.nanmean(matrix.values))
        for matrix in found.matrices
        if matrix.reading == primary and np.isfinite(matrix.values).any()
    }
    counts = {
        f"boundaries/{columns[0].name}": float(len(segments.boundaries))
        for columns, segments in found.segmented
        if columns[0].reading == primary
    }
    return means | counts


def banded_profiles(found: Findings) -> list[BandedProfiles]:
    """The columns whose layers were parted into bands, as curves."""
    return [
        BandedProfiles(of[0].name, of[0].unit, of[0].reading, tuple(curve_of(column) for column in of), segments.bands)
        for of, segments in found.segmented
    ]


def curve_of(column: Column) -> Curve:
    """One column with its 95 % intervals."""
    return Curve(column.task, column.layers, column.estimates.values, *column.interval())
