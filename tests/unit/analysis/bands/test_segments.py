from __future__ import annotations

import itertools

import numpy as np
import pytest

from probes.analysis.bands import change_points, level_shifts, smooth_null
from probes.analysis.bands.change_points import find_boundaries
from probes.analysis.bands.segments import Band, find_segments

LAYERS = 31
PLANTED = (10, 16)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def autoregressive(*shape: int, coefficient: float, seed: int = 0, start: str = "stationary") -> np.ndarray:
    profiles = normal(*shape, seed=seed)
    profiles[..., 0] *= {"stationary": 1 / np.sqrt(1 - coefficient**2), "zero": 0.0, "innovation": 1.0}[start]
    for layer in range(1, shape[-1]):
        profiles[..., layer] += coefficient * profiles[..., layer - 1]
    return profiles


def bands(*levels: float, starts: tuple[int, ...] = PLANTED, width: int = 1, layers: int = LAYERS) -> np.ndarray:
    """The first layer at least half way to a new level is the start of its band."""
    profile = np.full(layers, float(levels[0]))
    for start, before, after in zip(starts, levels, levels[1:], strict=False):
        way = np.linspace(0, 1, width + 1)[1:]
        first = start - int((way < 0.5).sum())
        profile[first:] += (after - before) * np.concatenate([way, np.ones(layers)])[: layers - first]
    return profile


def spread_in_bands(*, tasks: int = 20, coefficient: float = 0.5, seed: int = 0) -> np.ndarray:
    """Shape (layers, tasks): sd over tasks 0.02, 0.05, 0.12 by band, every task autocorrelated over layers."""
    scatter = autoregressive(tasks, LAYERS, coefficient=coefficient, seed=seed) * np.sqrt(1 - coefficient**2)
    return 0.8 + bands(0.02, 0.05, 0.12)[:, None] * scatter.T


def share_with_boundaries(profiles: np.ndarray) -> float:
    return float(np.mean([len(find_boundaries(profile).shifts) > 0 for profile in profiles]))


def share_in_place(profiles: np.ndarray, starts: tuple[int, ...] = PLANTED) -> float:
    def in_place(profile: np.ndarray) -> bool:
        found = [start for start, _ in find_boundaries(profile).shifts]
        return len(found) == len(starts) and all(abs(a - b) <= 1 for a, b in zip(found, starts, strict=True))

    return float(np.mean([in_place(profile) for profile in profiles]))


NULLS = {
    "flat": lambda draws, layers: normal(draws, layers, seed=1),
    "ramp": lambda draws, layers: np.linspace(0, 1, layers) + 0.1 * normal(draws, layers, seed=2),
    "AR(0.9) from its stationary law": lambda draws, layers: autoregressive(draws, layers, coefficient=0.9, seed=3),
    "AR(0.9) from a random start": lambda draws, layers: autoregressive(
        draws, layers, coefficient=0.9, seed=4, start="innovation"
    ),
    "AR(0.9) from zero on a ramp": lambda draws, layers: (
        np.linspace(0, 5, layers) + autoregressive(draws, layers, coefficient=0.9, seed=5, start="zero")
    ),
    "random walk seen through noise": lambda draws, layers: (
        normal(draws, layers, seed=6).cumsum(1) + normal(draws, layers, seed=7)
    ),
}


@pytest.mark.parametrize("null", NULLS)
def test_a_profile_without_bands_shows_a_boundary_in_at_most_5_percent(null: str):
    draws = 100
    three_sigma = 3 * np.sqrt(0.05 * 0.95 / draws)
    assert share_with_boundaries(NULLS[null](draws, LAYERS)) <= 0.05 + three_sigma


@pytest.mark.slow
@pytest.mark.parametrize("layers", [12, 31, 33])
@pytest.mark.parametrize("null", NULLS)
def test_a_profile_without_bands_shows_a_boundary_in_at_most_5_percent_of_a_thousand(null: str, layers: int):
    rate = share_with_boundaries(NULLS[null](1000, layers))
    assert rate <= 0.05 + 3 * np.sqrt(0.05 * 0.95 * (1 / 1000 + 1 / change_points.DRAWS))


@pytest.mark.parametrize(
    ("levels", "noise", "width"),
    [((0, 1, 0), 0.1, 1), ((0, 1, 0), 0.1, 3), ((0, 1.5, 3), 0.2, 1), ((0, 1.5, 3), 0.15, 2)],
)
def test_two_planted_shifts_are_found_within_one_layer_in_90_percent(levels: tuple, noise: float, width: int):
    profiles = bands(*levels, width=width) + noise * normal(60, LAYERS, seed=10)
    assert share_in_place(profiles) >= 0.9


def test_one_planted_shift_is_found_alone_in_85_percent():
    assert share_in_place(bands(0, 1, starts=(14,)) + 0.2 * normal(150, LAYERS, seed=11), (14,)) >= 0.85


def test_a_gradual_shift_reports_its_width_and_the_first_layer_half_way():
    for width, start in itertools.product((1, 2, 3), (9, 20)):
        profile = bands(0, 1, starts=(start,), width=width) + 0.02 * normal(LAYERS, seed=12)
        assert find_boundaries(profile).shifts == ((start, width),)


def test_a_ramp_and_a_factor_change_nothing():
    profile = bands(0, 1, 0) + 0.25 * normal(LAYERS, seed=13)
    found = find_boundaries(profile)
    assert 1 / (1 + change_points.DRAWS) < found.p < 1
    for same in (profile + 7, -3 * profile, 1e-6 * profile, profile + np.linspace(-4, 9, LAYERS)):
        assert find_boundaries(same) == found


def test_profiles_without_scatter_are_decided_exactly():
    assert find_boundaries(np.full(LAYERS, 0.3)).p == 1
    assert {find_boundaries(np.linspace(0.1, top, LAYERS)).p for top in np.linspace(0.2, 7, 20)} == {1}
    assert find_boundaries(bands(0.1, 0.7, starts=(14,))).shifts == ((14, 1),)
    assert find_boundaries(bands(0.1, 0.7, 0.2)).shifts == ((10, 1), (16, 1))
    assert find_boundaries(np.linspace(0, 1, LAYERS) ** 2).shifts == ()


def test_max_boundaries_and_level_bound_what_is_reported():
    profile = bands(0, 1, 0) + 0.1 * normal(LAYERS, seed=14)
    assert len(find_boundaries(profile).shifts) == 2
    assert len(find_boundaries(profile, max_boundaries=1).shifts) <= 1
    weak = bands(0, 1, 0) + 0.25 * normal(LAYERS, seed=13)
    p = find_boundaries(weak).p
    assert find_boundaries(weak, level=p * 0.9).shifts == ()
    assert find_boundaries(weak, level=p).shifts != ()


def test_no_band_is_shorter_than_three_layers():
    for profile in normal(40, 12, seed=15):
        for shifts in find_boundaries(profile).best:
            edges = [0, *(start for start, _ in shifts), 12]
            assert np.diff(edges).min() >= 3
    assert [len(shifts) for shifts in find_boundaries(normal(8)).best] == [1]
    middle = bands(0, 1, starts=(5,), layers=10) + 0.001 * normal(10)
    assert find_boundaries(middle).shifts == ((5, 1),)


def test_the_search_is_exact_against_least_squares_on_every_candidate():
    profile = normal(14, seed=16)
    layers = np.arange(14)

    def step(start: int, width: int) -> np.ndarray:
        return bands(0, 1, starts=(start,), width=width, layers=14)

    def squares(*shifts: tuple[int, int]) -> float:
        design = np.column_stack([np.ones(14), layers, *(step(*shift) for shift in shifts)])
        fit = design @ np.linalg.lstsq(design, profile, rcond=None)[0]
        return float(np.square(profile - fit).sum())

    single = min((((s, w),) for w in (1, 2, 3) for s in range(3, 12)), key=lambda shifts: squares(*shifts))
    pairs = [((s, w), (t, w)) for w in (1, 2, 3) for s in range(3, 12) for t in range(s + 3, 12)]
    double = min(pairs, key=lambda shifts: squares(*shifts))
    assert find_boundaries(profile).best == (single, double)
    fits = level_shifts.bands(14, (), 2)
    np.testing.assert_allclose(squares() - fits.reductions(profile[None]).max(), squares(*double), rtol=1e-10)


def test_the_restricted_likelihood_is_the_density_of_the_detrended_profile():
    """Reference: density of contrasts orthogonal to the design, at the scale that maximises it."""
    layers, columns = 9, 2
    design = smooth_null.straight_line(layers)
    contrasts = np.linalg.svd(design)[0][:, columns:]
    profile = normal(layers, seed=17)

    def density(covariance: np.ndarray) -> float:
        of_contrasts = contrasts.T @ covariance @ contrasts
        z, free = contrasts.T @ profile, layers - columns
        scale = z @ np.linalg.solve(of_contrasts, z) / free
        determinant = np.linalg.slogdet(scale * of_contrasts)[1]
        return -0.5 * (determinant + free + free * np.log(2 * np.pi))

    expected = np.array([density(covariance) for covariance in smooth_null.smooth_covariances(layers)])
    ours = smooth_null.smooth_log_likelihoods(profile[None], design)[:, 0]
    np.testing.assert_allclose(ours - ours[0], expected - expected[0], atol=1e-8)
    assert np.ptp(expected) > 0.5


def test_every_simulated_drift_has_the_covariance_it_is_named_for():
    draws = smooth_null.smooth_draws(8, 20_000)
    for of_drift, covariance in zip(draws, smooth_null.smooth_covariances(8), strict=True):
        error = np.cov(of_drift.T) - covariance
        assert np.abs(error).max() < 0.05 * covariance.max()
    assert np.abs(draws[0] - draws[1]).max() > 1
    np.testing.assert_allclose(smooth_null.smooth_covariances(8)[6, 0, :3], [1, 0.9, 0.81])


def test_drifts_have_their_share_of_variance_about_a_line_and_curves_are_smoother_than_walks():
    layers = 20
    covariances = smooth_null.smooth_covariances(layers)[len(smooth_null.AR_COEFFICIENTS) :] - np.eye(layers)
    line = np.column_stack([np.ones(layers), np.arange(layers)])
    about_line = np.eye(layers) - line @ np.linalg.pinv(line)
    shares = np.trace(about_line @ covariances @ about_line, axis1=1, axis2=2) / layers
    np.testing.assert_allclose(shares, smooth_null.WALK_SHARES + smooth_null.CURVE_SHARES)
    bend = np.diff(np.eye(layers), n=2, axis=0)
    roughness = np.trace(bend @ covariances @ bend.T, axis1=1, axis2=2) / shares
    walks = len(smooth_null.WALK_SHARES)
    assert roughness[walks:].max() < 0.1 * roughness[:walks].min()


def test_bands_of_spread_over_twenty_tasks_are_found_and_named():
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
def test_spread_bands_are_usually_found_and_a_constant_spread_is_not(coefficient: float):
    def share_found(values: list[np.ndarray]) -> float:
        return float(np.mean([find_segments(v, layers=range(LAYERS), resamples=20).boundaries != () for v in values]))

    assert share_found([spread_in_bands(coefficient=coefficient, seed=seed) for seed in range(40)]) >= 0.8
    assert share_found([autoregressive(20, LAYERS, coefficient=coefficient, seed=s).T for s in range(40)]) <= 0.15


def test_the_mean_finds_what_the_spread_cannot_see():
    values = bands(0.2, 0.6, starts=(14,))[:, None] + 0.05 * normal(LAYERS, 6, seed=21)
    mean = find_segments(values, layers=range(LAYERS), statistic="mean")
    assert [(b.name, b.first, b.last) for b in mean.bands] == [("shared", 0, 13), ("refinement", 14, 30)]
    spread = find_segments(values, layers=range(LAYERS))
    assert spread.bands == (Band(name="undivided", first=0, last=30),)
    assert "no boundary that a ramp or a smooth drift could not explain" in spread.note
    assert 0.05 < spread.p <= 1


def test_shares_are_high_where_every_task_shifts_and_low_where_one_task_makes_the_shift():
    agreed = bands(0.0, 1.0, starts=(14,))[:, None] + 0.1 * normal(LAYERS, 12, seed=22)
    alone = np.concatenate([0.1 * normal(LAYERS, 11, seed=22), 9 * agreed[:, :1]], axis=1)
    first = find_segments(agreed, layers=range(LAYERS), statistic="mean")
    second = find_segments(alone, layers=range(LAYERS), statistic="mean")
    assert first.boundaries[0].share > 0.98
    assert second.boundaries[0].layer == 14
    assert second.boundaries[0].share < 0.8


@pytest.mark.parametrize("tasks", [3, 12])
def test_a_share_counts_resamples_with_spread_that_put_a_boundary_within_one_layer(tasks: int):
    values = bands(0.01, 1, 0.03)[:, None] * normal(LAYERS, tasks, seed=23)
    found = find_segments(values, layers=range(LAYERS), resamples=200, seed=4)
    drawn = np.random.default_rng(4).integers(tasks, size=(200, tasks))
    profiles = [values[:, tasks_drawn].std(1, ddof=1) for tasks_drawn in drawn if len(set(tasks_drawn)) > 1]
    places = [[start for start, _ in find_boundaries(np.log(profile)).best[1]] for profile in profiles]
    assert len(found.boundaries) == 2
    for boundary in found.boundaries:
        within = [any(abs(place - int(boundary.layer)) <= 1 for place in of_profile) for of_profile in places]
        assert boundary.share == pytest.approx(np.mean(within))


def test_the_seed_moves_shares_alone_and_the_same_seed_gives_the_same():
    values = np.concatenate([0.1 * normal(LAYERS, 11), bands(0, 9, starts=(14,))[:, None]], axis=1)
    runs = [
        find_segments(values, layers=range(LAYERS), statistic="mean", seed=seed, resamples=200) for seed in (0, 0, 1)
    ]
    assert runs[0].boundaries == runs[1].boundaries
    assert runs[0].boundaries != runs[2].boundaries
    assert runs[0].p == runs[2].p
    assert runs[0].bands == runs[2].bands


def test_layers_with_a_gap_or_no_spread_are_left_out_and_named():
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


def test_rounding_is_not_taken_for_spread():
    values = spread_in_bands(seed=20)
    values[0] = 1 + 1e-16 * normal(20).round() * 2
    assert find_segments(values, layers=range(LAYERS)).left_out == (0,)


def test_too_few_layers_or_tasks_give_one_band_and_a_note():
    few_layers = find_segments(normal(9, 5), layers=range(9))
    assert few_layers.note.startswith("no boundary")
    values = normal(9, 5)
    values[:2, 0] = np.nan
    untried = find_segments(values, layers=range(9))
    assert untried.note == "not tried: 7 usable layers, 8 needed"
    assert untried.bands == (Band(name="undivided", first=2, last=8),)
    assert np.isnan(untried.p)
    few_tasks = find_segments(spread_in_bands()[:, :2], layers=range(LAYERS))
    assert few_tasks.note == "not tried: tasks are the resampling unit; 2 given, 3 needed"
    assert few_tasks.boundaries == ()
    assert np.isnan(find_segments(normal(LAYERS, 1), layers=range(LAYERS)).profile).all()
    assert find_segments(np.full((3, 4), np.nan), layers=range(3)).bands == ()


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(ValueError, match=r"`max_boundaries` of 1 or 2; got 3"):
        find_boundaries(normal(LAYERS), max_boundaries=3)
    with pytest.raises(ValueError, match=r"`level` between 0 and 1; got 5"):
        find_segments(normal(3, 2), layers=range(3), level=5)
    with pytest.raises(ValueError, match=r"8 layers or more; got \(7,\)"):
        find_boundaries(normal(7))
    with pytest.raises(ValueError, match=r"at positions \[2, 4\] are not"):
        find_boundaries(np.array([0, 1, np.nan, 3, np.inf, 5, 6, 7, 8]))
    with pytest.raises(ValueError, match=r"no statistic 'median'. There are: spread, mean"):
        find_segments(normal(9, 4), layers=range(9), statistic="median")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"for 8 layers; got \(9, 4\)"):
        find_segments(normal(9, 4), layers=range(8))
    with pytest.raises(ValueError, match=r"ascending order, 'final' last; got \['final', 0, 1\]"):
        find_segments(normal(3, 4), layers=["final", 0, 1])
    with pytest.raises(ValueError, match=r"those of layers \[1\] are infinite"):
        find_segments(np.array([[0.0, 1], [np.inf, 2]]), layers=range(2))
    with pytest.raises(ValueError, match="1 resample of the tasks or more; got 0"):
        find_segments(normal(9, 4), layers=range(9), resamples=0)
