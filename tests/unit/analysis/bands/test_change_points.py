from __future__ import annotations

import itertools

import numpy as np
import pytest
from profile_samples import LAYERS, PLANTED, autoregressive, level_shifts, normal

from probes.analysis.bands import change_points
from probes.analysis.bands.change_points import find_boundaries


def false_positive_rate(profiles: np.ndarray) -> float:
    return float(np.mean([len(find_boundaries(profile).shifts) > 0 for profile in profiles]))


def rate_in_place(profiles: np.ndarray, starts: tuple[int, ...] = PLANTED) -> float:
    def in_place(profile: np.ndarray) -> bool:
        found = [start for start, _ in find_boundaries(profile).shifts]
        return len(found) == len(starts) and all(abs(a - b) <= 1 for a, b in zip(found, starts, strict=True))

    return float(np.mean([in_place(profile) for profile in profiles]))


NULLS = {
    "flat": lambda draws, layers: normal(draws, layers, seed=1),
    "ramp": lambda draws, layers: np.linspace(0, 1, layers) + 0.1 * normal(draws, layers, seed=2),
    "AR(0.9), stationary": lambda draws, layers: autoregressive(draws, layers, coefficient=0.9, seed=3),
    "AR(0.9) from a random start": lambda draws, layers: autoregressive(
        draws, layers, coefficient=0.9, seed=4, start="innovation"
    ),
    "AR(0.9) from zero on a ramp": lambda draws, layers: (
        np.linspace(0, 5, layers) + autoregressive(draws, layers, coefficient=0.9, seed=5, start="zero")
    ),
    "random walk with white noise": lambda draws, layers: (
        normal(draws, layers, seed=6).cumsum(1) + normal(draws, layers, seed=7)
    ),
}


@pytest.mark.parametrize("null", NULLS)
def test_the_false_positive_rate_is_at_most_5_percent(null: str):
    draws = 100
    three_sigma = 3 * np.sqrt(0.05 * 0.95 / draws)
    assert false_positive_rate(NULLS[null](draws, LAYERS)) <= 0.05 + three_sigma


@pytest.mark.slow
@pytest.mark.parametrize("layers", [12, 31, 33])
@pytest.mark.parametrize("null", NULLS)
def test_the_false_positive_rate_over_1000_profiles_is_at_most_5_percent(null: str, layers: int):
    rate = false_positive_rate(NULLS[null](1000, layers))
    assert rate <= 0.05 + 3 * np.sqrt(0.05 * 0.95 * (1 / 1000 + 1 / change_points.NULL_DRAWS))


@pytest.mark.parametrize(
    ("levels", "noise", "width"),
    [((0, 1, 0), 0.1, 1), ((0, 1, 0), 0.1, 3), ((0, 1.5, 3), 0.2, 1), ((0, 1.5, 3), 0.15, 2)],
)
def test_two_planted_shifts_are_found_within_one_layer_in_90_percent(levels: tuple, noise: float, width: int):
    profiles = level_shifts(*levels, width=width) + noise * normal(60, LAYERS, seed=10)
    assert rate_in_place(profiles) >= 0.9


def test_one_planted_shift_is_found_alone_in_85_percent_of_profiles():
    assert rate_in_place(level_shifts(0, 1, starts=(14,)) + 0.2 * normal(150, LAYERS, seed=11), (14,)) >= 0.85


def test_a_gradual_shift_is_reported_with_its_width_at_the_first_layer_half_way():
    for width, start in itertools.product((1, 2, 3), (9, 20)):
        profile = level_shifts(0, 1, starts=(start,), width=width) + 0.02 * normal(LAYERS, seed=12)
        assert find_boundaries(profile).shifts == ((start, width),)


def test_adding_a_line_and_multiplying_by_a_factor_do_not_change_the_result():
    profile = level_shifts(0, 1, 0) + 0.25 * normal(LAYERS, seed=13)
    found = find_boundaries(profile)
    assert 1 / (1 + change_points.NULL_DRAWS) < found.p < 1
    for same in (profile + 7, -3 * profile, 1e-6 * profile, profile + np.linspace(-4, 9, LAYERS)):
        assert find_boundaries(same) == found


def test_profiles_without_noise_are_recognised_exactly():
    assert find_boundaries(np.full(LAYERS, 0.3)).p == 1
    assert {find_boundaries(np.linspace(0.1, top, LAYERS)).p for top in np.linspace(0.2, 7, 20)} == {1}
    assert find_boundaries(level_shifts(0.1, 0.7, starts=(14,))).shifts == ((14, 1),)
    assert find_boundaries(level_shifts(0.1, 0.7, 0.2)).shifts == ((10, 1), (16, 1))
    assert find_boundaries(np.linspace(0, 1, LAYERS) ** 2).shifts == ()


def test_max_boundaries_and_level_limit_what_is_reported():
    profile = level_shifts(0, 1, 0) + 0.1 * normal(LAYERS, seed=14)
    assert len(find_boundaries(profile).shifts) == 2
    assert len(find_boundaries(profile, max_boundaries=1).shifts) <= 1
    weak = level_shifts(0, 1, 0) + 0.25 * normal(LAYERS, seed=13)
    p = find_boundaries(weak).p
    assert find_boundaries(weak, level=p * 0.9).shifts == ()
    assert find_boundaries(weak, level=p).shifts != ()


def test_no_band_is_shorter_than_three_layers():
    for profile in normal(40, 12, seed=15):
        for shifts in find_boundaries(profile).best:
            edges = [0, *(start for start, _ in shifts), 12]
            assert np.diff(edges).min() >= 3
    assert [len(shifts) for shifts in find_boundaries(normal(8)).best] == [1]
    middle = level_shifts(0, 1, starts=(5,), layers=10) + 0.001 * normal(10)
    assert find_boundaries(middle).shifts == ((5, 1),)


def test_profiles_and_options_that_cannot_be_searched_are_refused():
    with pytest.raises(ValueError, match="`max_boundaries` must be 1 or 2; got 3"):
        find_boundaries(normal(LAYERS), max_boundaries=3)
    with pytest.raises(ValueError, match="`level` must lie between 0 and 1, exclusively; got 5"):
        find_boundaries(normal(LAYERS), level=5)
    with pytest.raises(ValueError, match=r"at least 8 layers; got shape \(7,\)"):
        find_boundaries(normal(7))
    with pytest.raises(ValueError, match=r"at positions \[2, 4\] are not"):
        find_boundaries(np.array([0, 1, np.nan, 3, np.inf, 5, 6, 7, 8]))
