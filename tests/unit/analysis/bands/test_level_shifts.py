from __future__ import annotations

import numpy as np
from profile_samples import level_shifts, normal

from probes.analysis.bands.change_points import find_boundaries
from probes.analysis.bands.level_shifts import LevelShift, admissible_shifts, candidate_fits


def test_the_search_equals_least_squares_on_every_candidate():
    profile = normal(14, seed=16)
    layers = np.arange(14)

    def step(start: int, width: int) -> np.ndarray:
        return level_shifts(0, 1, starts=(start,), width=width, layers=14)

    def squares(*shifts: tuple[int, int]) -> float:
        design = np.column_stack([np.ones(14), layers, *(step(*shift) for shift in shifts)])
        fit = design @ np.linalg.lstsq(design, profile, rcond=None)[0]
        return float(np.square(profile - fit).sum())

    single = min((((s, w),) for w in (1, 2, 3) for s in range(3, 12)), key=lambda shifts: squares(*shifts))
    pairs = [((s, w), (t, w)) for w in (1, 2, 3) for s in range(3, 12) for t in range(s + 3, 12)]
    double = min(pairs, key=lambda shifts: squares(*shifts))
    assert find_boundaries(profile).best == (single, double)
    fits = candidate_fits(14, (), 2)
    np.testing.assert_allclose(squares() - fits.explained_squares(profile[None]).max(), squares(*double), rtol=1e-10)


def test_additional_shifts_leave_no_band_shorter_than_3_layers():
    included = (LevelShift(7, 1),)
    assert {shift.start for (shift,) in admissible_shifts(14, included, 1)} == {3, 4, 10, 11}
    assert admissible_shifts(8, (LevelShift(4, 1),), 1) == ()
