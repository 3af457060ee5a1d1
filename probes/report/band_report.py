"""Curves over layers with their bands: one picture a quantity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from probes.analysis.segments import Band
from probes.report.band_figure import Curve, band_profiles
from probes.report.png import save_png
from probes.report.tracker import Tracker
from probes.values import Reading


@dataclass(frozen=True)
class BandedProfiles:
    """One quantity's curves, a task each, and the bands that layers fall into.

    Attributes:
        quantity: Its name.
        unit: Its unit.
        reading: Stack, site and pooling.
        curves: One a task.
        bands: As `find_segments` gives them.
    """

    quantity: str
    unit: str
    reading: Reading
    curves: tuple[Curve, ...]
    bands: tuple[Band, ...]


def report_bands(
    output_dir: Path, profiles: Sequence[BandedProfiles], *, tracker: Tracker, primary: Reading | None
) -> list[Path]:
    """Draw each as `figures/bands_<quantity>.png`, with its reading in the name unless that is the primary one."""
    pictures = []
    for profile in profiles:
        name = profile.quantity if profile.reading == primary else f"{profile.quantity}@{profile.reading}"
        figure = band_profiles(profile.curves, quantity=f"{profile.quantity} ({profile.unit})", bands=profile.bands)
        path = save_png(figure, output_dir / "figures" / f"bands_{name.replace('/', '_')}.png")
        tracker.log_picture(f"bands/{name}", path)
        pictures.append(path)
    return pictures
