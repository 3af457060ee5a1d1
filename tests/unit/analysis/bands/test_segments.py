from __future__ import annotations

import itertools

import numpy as np
import pytest
from profile_samples import LAYERS, PLANTED, autoregressive, level_shifts, normal

from probes.analysis.bands.change_points import find_boundaries
from probes.analysis.bands.segments import Band, find_segments


def spread_in_bands(*, tasks: int = 20, coefficient: float = 0.5, seed: int = 0) -> np.ndarray:
    """Shape (layers, tasks): sd over tasks 0.02, 0.05, 0.12 by band; every task is autocorrelated over layers."""
    scatter = autoregressive(tasks, LAYERS, coefficient=coefficient, seed=seed) * np.sqrt(1 - coefficient**2)
    return 0.8 + level_shifts(0.02, 0.05, 0.12)[:, None] * scatter.T


def test_bands_of_the_spread_over_20_tasks_are_found_and_named():
    found = find_segments(spread_in_bands(seed=20), layers=range(LAYERS))
    assert [b.layer for b in found.boundaries] == pytest.approx(PLANTED, abs=1)
    assert [band.name for band in found.bands] == ["shared", "transition", "refinement"]
    assert found.bands[0].first == 0
    assert found.bands[-1].last == 30
    for before, after in itertools.pairwise(found.bands):
        assert found.layers.index(after.first) == found.layers.index(before.last) + 1
    assert found.p < 0.01
    assert found.note == ""
    np.testing.assert_allclose(found.profile, np.std(spread_in_bands(seed=20), axis=1, ddof=1))


@pytest.mark.parametrize("coefficient", [0.0, 0.9])
def test_bands_of_the_spread_are_usually_found_and_a_constant_spread_is_not_divided(coefficient: float):
    def share_found(values: list[np.ndarray]) -> float:
        return float(np.mean([find_segments(v, layers=range(LAYERS), resamples=20).boundaries != () for v in values]))

    assert share_found([spread_in_bands(coefficient=coefficient, seed=seed) for seed in range(40)]) >= 0.8
    assert share_found([autoregressive(20, LAYERS, coefficient=coefficient, seed=s).T for s in range(40)]) <= 0.15


def test_a_shift_of_the_mean_does_not_show_in_the_spread():
    values = level_shifts(0.2, 0.6, starts=(14,))[:, None] + 0.05 * normal(LAYERS, 6, seed=21)
    mean = find_segments(values, layers=range(LAYERS), statistic="mean")
    assert [(b.name, b.first, b.last) for b in mean.bands] == [("shared", 0, 13), ("refinement", 14, 30)]
    spread = find_segments(values, layers=range(LAYERS))
    assert spread.bands == (Band(name="undivided", first=0, last=30),)
    assert "a linear trend or smooth drift explains the profile" in spread.note
    assert 0.05 < spread.p <= 1


def test_shares_are_high_if_every_task_shifts_and_low_if_only_one_does():
    agreed = level_shifts(0.0, 1.0, starts=(14,))[:, None] + 0.1 * normal(LAYERS, 12, seed=22)
    alone = np.concatenate([0.1 * normal(LAYERS, 11, seed=22), 9 * agreed[:, :1]], axis=1)
    first = find_segments(agreed, layers=range(LAYERS), statistic="mean")
    second = find_segments(alone, layers=range(LAYERS), statistic="mean")
    assert first.boundaries[0].share > 0.98
    assert second.boundaries[0].layer == 14
    assert second.boundaries[0].share < 0.8


@pytest.mark.parametrize("tasks", [3, 12])
def test_a_share_is_the_rate_of_resamples_with_a_boundary_within_one_layer(tasks: int):
    values = level_shifts(0.01, 1, 0.03)[:, None] * normal(LAYERS, tasks, seed=23)
    found = find_segments(values, layers=range(LAYERS), resamples=200, seed=4)
    drawn = np.random.default_rng(4).integers(tasks, size=(200, tasks))
    profiles = [values[:, tasks_drawn].std(1, ddof=1) for tasks_drawn in drawn if len(set(tasks_drawn)) > 1]
    places = [[start for start, _ in find_boundaries(np.log(profile)).best[1]] for profile in profiles]
    assert len(found.boundaries) == 2
    for boundary in found.boundaries:
        within = [any(abs(place - int(boundary.layer)) <= 1 for place in of_profile) for of_profile in places]
        assert boundary.share == pytest.approx(np.mean(within))


def test_only_shares_depend_on_the_seed():
    values = np.concatenate([0.1 * normal(LAYERS, 11), level_shifts(0, 9, starts=(14,))[:, None]], axis=1)
    runs = [
        find_segments(values, layers=range(LAYERS), statistic="mean", seed=seed, resamples=200) for seed in (0, 0, 1)
    ]
    assert runs[0].boundaries == runs[1].boundaries
    assert runs[0].boundaries != runs[2].boundaries
    assert runs[0].p == runs[2].p
    assert runs[0].bands == runs[2].bands


def test_layers_with_a_missing_value_or_no_spread_are_left_out_and_named():
    values = np.vstack([np.full((1, 20), 0.3), spread_in_bands(seed=20), spread_in_bands(seed=20)[-1:]])
    values[5, 3] = np.nan
    layers = (*range(32), "final")
    found = find_segments(values, layers=layers)
    assert found.left_out == (0, 5)
    assert found.layers == tuple(layer for layer in layers if layer not in (0, 5))
    assert found.bands[-1].last == "final"
    assert found.bands[0].first == 1
    assert [b.layer for b in found.boundaries] == pytest.approx([11, 17], abs=1)
    assert find_segments(values, layers=layers, statistic="mean").left_out == (5,)


def test_tasks_that_are_equal_up_to_a_layer_form_a_band_of_their_own_below_those_that_are_searched():
    differing = spread_in_bands(seed=20)
    values = np.vstack([np.full((2, 20), np.nan), np.ones((9, 20)), 1 + differing])
    found = find_segments(values, layers=range(len(values)))
    assert found.equal == Band("equal", 2, 10)
    assert found.bands[0].first == 11
    alone = find_segments(differing, layers=range(11, len(values)))
    assert (alone.equal, alone.bands, alone.p) == (None, found.bands, pytest.approx(found.p))
    interrupted = np.vstack([differing[:4], values[2:]])
    assert find_segments(interrupted, layers=range(len(interrupted))).equal is None  # tasks differ below it too


def test_a_spread_of_rounding_errors_counts_as_none():
    values = spread_in_bands(seed=20)
    values[0] = 1 + 1e-16 * normal(20).round() * 2
    assert find_segments(values, layers=range(LAYERS)).left_out == (0,)


def test_too_few_layers_or_tasks_give_one_band_and_a_note():
    few_layers = find_segments(normal(9, 5), layers=range(9))
    assert few_layers.note.startswith("no boundary")
    values = normal(9, 5)
    values[:2, 0] = np.nan
    untried = find_segments(values, layers=range(9))
    assert untried.note == "not tried: 7 usable layers, at least 8 are needed"
    assert untried.bands == (Band(name="undivided", first=2, last=8),)
    assert np.isnan(untried.p)
    few_tasks = find_segments(spread_in_bands()[:, :2], layers=range(LAYERS))
    assert few_tasks.note == "not tried: 2 tasks, at least 3 are needed because they are resampled"
    assert few_tasks.boundaries == ()
    assert np.isnan(find_segments(normal(LAYERS, 1), layers=range(LAYERS)).profile).all()
    assert find_segments(np.full((3, 4), np.nan), layers=range(3)).bands == ()


def test_matrices_and_options_that_cannot_be_searched_are_refused():
    with pytest.raises(ValueError, match="`level` must lie between 0 and 1, exclusively; got 5"):
        find_segments(normal(3, 2), layers=range(3), level=5)
    with pytest.raises(ValueError, match="`statistic` must be 'spread' or 'mean'; got 'median'"):
        find_segments(normal(9, 4), layers=range(9), statistic="median")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"with 8 layers .*; got shape \(9, 4\)"):
        find_segments(normal(9, 4), layers=range(8))
    with pytest.raises(ValueError, match=r"ascending order, 'final' last; got \['final', 0, 1\]"):
        find_segments(normal(3, 4), layers=["final", 0, 1])
    with pytest.raises(ValueError, match=r"those of layers \[1\] are infinite"):
        find_segments(np.array([[0.0, 1], [np.inf, 2]]), layers=range(2))
    with pytest.raises(ValueError, match="`resamples` must be at least 1; got 0"):
        find_segments(normal(9, 4), layers=range(9), resamples=0)
