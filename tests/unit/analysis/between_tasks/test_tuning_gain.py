from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm, spearmanr
from torch import Tensor

from probes.analysis import confidence_interval, control_cka, linear_cka, rank_agreement, replicate_noise, tuning_gain
from probes.analysis.between_tasks.tuning_gain import difference
from probes.values import Estimates


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def family(layers: int = 3, rows: int = 60, features: int = 12, *, share: float = 0.6) -> tuple[Tensor, Tensor, Tensor]:
    """Control, experimental and base model of one origin; the first two share some of their tuning."""
    base, tuning = draw(layers, rows, features), draw(layers, rows, features, seed=1)
    own = draw(2, layers, rows, features, seed=2)
    return base + tuning + 0.3 * own[0], base + share * tuning + 0.3 * own[1], base


def spread(errors: np.ndarray | None) -> np.ndarray:
    assert errors is not None
    return np.sqrt(np.square(errors).sum(0))


@pytest.mark.parametrize(("ending", "debiased"), [("", True), ("_biased", False)])
def test_the_gain_is_cka_with_the_experimental_model_less_cka_with_the_base(ending: str, debiased: bool):
    control, experimental, base = family()
    found = tuning_gain(control, experimental, base)
    sides = {"experimental": experimental, "base": base}
    cka = {name: linear_cka(control, side, debiased=debiased).numpy() for name, side in sides.items()}
    for name, own in cka.items():
        np.testing.assert_allclose(found[f"cka/control_vs_{name}{ending}"].values, own, rtol=1e-9)
    gain = np.subtract(cka["experimental"], cka["base"])
    np.testing.assert_allclose(found[f"tuning_gain{ending}"].values, gain, atol=1e-9)
    assert (gain > 0.05).all()
    assert {own.n for own in found.values()} == {60}


def test_errors_are_those_of_the_difference_itself_when_each_row_is_left_out():
    control, experimental, base = family(layers=1, rows=20)
    left_out = []
    for row in range(20):
        kept = torch.arange(20) != row
        c, e, b = (side[:, kept] for side in (control, experimental, base))
        left_out.append((linear_cka(c, e) - linear_cka(c, b)).item())
    deviations = np.array(left_out) - np.mean(left_out)
    expected = np.sqrt(19 / 20 * np.square(deviations).sum())
    errors = tuning_gain(control, experimental, base)["tuning_gain"].errors
    np.testing.assert_allclose(spread(errors), expected, rtol=1e-6)


def test_paired_errors_are_smaller_than_unpaired_ones_of_models_that_share_their_rows():
    control, experimental, base = family(share=0.2)
    found = tuning_gain(control, experimental, base)
    apart = [spread(found[f"cka/control_vs_{name}"].errors) for name in ("experimental", "base")]
    assert (spread(found["tuning_gain"].errors) < 0.6 * np.hypot(*apart)).all()
    strangers = tuning_gain(*(draw(3, 60, 12, seed=seed) for seed in (7, 8, 9)))
    apart = [spread(strangers[f"cka/control_vs_{name}"].errors) for name in ("experimental", "base")]
    np.testing.assert_allclose(spread(strangers["tuning_gain"].errors), np.hypot(*apart), rtol=0.35)


def test_intervals_hold_the_gain_of_the_population():
    """A layer a sample: 400 samples of one population, whose CKA its covariances give."""
    maps = [scale * draw(4, 8, seed=3) for scale in (1, 1, 0.5)]
    own = 0.6 * draw(3, 6, 8, seed=4)
    latent, rest = draw(400, 120, 4, seed=5), draw(3, 400, 120, 6, seed=6)
    control, experimental, base = (latent @ maps[i] + rest[i] @ own[i] for i in range(3))
    norms = [torch.linalg.norm(maps[i].T @ maps[i] + own[i].T @ own[i]) for i in range(3)]
    cka = [(torch.linalg.norm(maps[0].T @ maps[i]) ** 2 / (norms[0] * norms[i])).item() for i in (1, 2)]
    gain = tuning_gain(control, experimental, base)["tuning_gain"]
    assert gain.errors is not None
    low, high = confidence_interval(gain.values, gain.errors)
    assert cka[0] - cka[1] > 0.1
    assert 0.90 < np.mean((low < cka[0] - cka[1]) & (cka[0] - cka[1] < high)) < 0.99


@pytest.mark.parametrize("ending", ["", "_biased"])
def test_equal_experimental_and_base_have_no_gain_at_all(ending: str):
    control, _, base = family()
    gain = tuning_gain(control, base.clone(), base)[f"tuning_gain{ending}"]
    assert gain.errors is not None
    low, high = confidence_interval(gain.values, gain.errors)
    assert gain.values.tolist() == low.tolist() == high.tolist() == [0, 0, 0]


def test_a_control_is_one_with_itself_at_every_layer():
    control, _, base = family()
    found = tuning_gain(control, control, base)
    for ending in ("", "_biased"):
        own = found[f"cka/control_vs_experimental{ending}"]
        np.testing.assert_allclose(own.values, 1, rtol=1e-12)
        np.testing.assert_allclose(spread(own.errors), 0, atol=1e-9)
    assert (found["cka/control_vs_base"].values < 0.9).all()


def test_bias_alone_makes_up_a_gain_and_the_debiased_one_is_zero_within_its_interval():
    """Three unrelated models; the experimental one only spreads over more directions than the base."""
    scales = torch.arange(1.0, 65.0, dtype=torch.float64)
    control, experimental = draw(40, 50, 64), draw(40, 50, 64, seed=1)
    base = draw(40, 50, 64, seed=2) * scales**-1.5
    found = tuning_gain(control, experimental, base)
    biased, debiased = found["tuning_gain_biased"], found["tuning_gain"]
    assert biased.null is not None
    assert debiased.errors is not None
    assert biased.values.min() > 0.2
    np.testing.assert_allclose(biased.values, biased.null[0], atol=0.1)
    low, high = confidence_interval(debiased.values, debiased.errors)
    assert np.mean((low < 0) & (high > 0)) > 0.85
    assert abs(debiased.values.mean()) < 0.02


def test_the_null_of_biased_values_is_their_mean_over_matchings_of_the_rows():
    control, experimental, base = family(layers=2, rows=30, features=40)
    found = tuning_gain(control, experimental, base)
    orders = [torch.randperm(30, generator=torch.Generator().manual_seed(seed)) for seed in range(200)]
    floors = {}
    for name, side in (("experimental", experimental), ("base", base)):
        draws = [linear_cka(control, side[:, order], debiased=False).numpy() for order in orders]
        floors[name] = np.mean(draws, axis=0)
        null = found[f"cka/control_vs_{name}_biased"].null
        assert null is not None
        np.testing.assert_allclose(null[0], floors[name], atol=0.01)
    null = found["tuning_gain_biased"].null
    assert null is not None
    np.testing.assert_allclose(null[0], floors["experimental"] - floors["base"], atol=0.01)
    assert all(
        found[name].null is None for name in ("tuning_gain", "cka/control_vs_base", "cka/control_vs_experimental")
    )


def test_a_constant_layer_has_no_gain_and_leaves_the_others_alone():
    control, experimental, base = family()
    whole = tuning_gain(control, experimental, base)["tuning_gain"]
    base = base.clone()
    base[1] = 2.5
    gain = tuning_gain(control, experimental, base)["tuning_gain"]
    assert np.isnan(gain.values).tolist() == [False, True, False]
    np.testing.assert_array_equal(gain.values[[0, 2]], whole.values[[0, 2]])
    assert gain.note.startswith("constant layer")


def test_rows_that_do_not_match_or_are_too_few_are_refused():
    control, experimental, base = family()
    with pytest.raises(ValueError, match=r"equal rows and layers; got \(3, 60, 12\), \(3, 59, 12\).*row ids"):
        tuning_gain(control, experimental, base[:, 1:])
    with pytest.raises(ValueError, match="at least 5 rows; got 4"):
        tuning_gain(control[:, :4], experimental[:, :4], base[:, :4])


def test_two_controls_are_compared_without_bias_and_without_a_null():
    control, experimental, _ = family()
    found = control_cka(control, experimental)
    np.testing.assert_allclose(found.values, linear_cka(control, experimental).numpy(), rtol=1e-9)
    assert found.null is None
    assert (spread(found.errors) > 0).all()


def test_a_difference_subtracts_errors_row_by_row():
    errors = np.random.default_rng(0).normal(size=(2, 5, 3))
    sides = [Estimates(np.arange(3.0) * (2 - i), 5, errors[i], note="why") for i in range(2)]
    found = difference(*sides)
    np.testing.assert_array_equal(found.values, [0, 1, 2])
    np.testing.assert_array_equal(found.errors, errors[0] - errors[1])
    assert (found.n, found.note, found.null) == (5, "why", None)


def test_noise_is_pooled_over_tasks_with_as_many_degrees_of_freedom_as_repeats_beyond_the_first():
    rng = np.random.default_rng(0)
    gains = {"a": [*rng.normal(size=(3, 2))], "b": [*(rng.normal(size=(2, 2)) + 100)], "c": [rng.normal(size=2)]}
    deviation, freedom = replicate_noise(gains)
    assert freedom == 3
    pooled = (2 * np.var(gains["a"], axis=0, ddof=1) + np.var(gains["b"], axis=0, ddof=1)) / 3
    np.testing.assert_allclose(deviation, np.sqrt(pooled), rtol=1e-12)


def test_noise_finds_the_planted_deviation_whatever_the_tasks_levels():
    rng = np.random.default_rng(1)
    gains = {f"t{i}": [*(rng.normal(size=(2, 1)) * 0.03 + 10 * i)] for i in range(800)}
    assert replicate_noise(gains)[0] == pytest.approx(0.03, rel=0.08)


def test_without_repeats_the_noise_is_unknown():
    deviation, freedom = replicate_noise({"a": [np.zeros(4)], "b": [np.ones(4)]})
    assert np.isnan(deviation).tolist() == [True] * 4
    assert freedom == 0
    assert replicate_noise({})[1] == 0


def draw_agreement(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_agreement_is_spearmans_correlation_over_the_cells_both_have():
    x = draw_agreement(6, 8)
    y = x + draw_agreement(6, 8, seed=1)
    x[0, 3], y[2, 5], y[4, 4] = np.nan, np.nan, np.inf
    x[3], y[:, 1] = x[3].round(), y[:, 1].round()  # ties
    known = np.isfinite(x) & np.isfinite(y)
    found = rank_agreement(x, y)
    assert found.value == pytest.approx(spearmanr(x[known], y[known])[0], rel=1e-12)
    assert found.n == 45
    assert found.ci_low < found.value < found.ci_high


def test_any_rising_map_agrees_wholly_and_a_falling_one_not_at_all():
    x = draw_agreement(5, 6)
    assert rank_agreement(x, np.exp(3 * x)) == pytest.approx((1, 1, 1, 30))
    assert rank_agreement(x, -(x**3)) == pytest.approx((-1, -1, -1, 30))


def test_unrelated_matrices_have_an_interval_about_zero_and_related_ones_have_not():
    x, y = draw_agreement(40, 4, 12), draw_agreement(40, 4, 12, seed=1)
    found = [rank_agreement(*sides, resamples=200) for sides in zip(x, y, strict=True)]
    assert np.mean([own.ci_low < 0 < own.ci_high for own in found]) > 0.8
    assert rank_agreement(x[0], x[0] + 0.5 * y[0]).ci_low > 0.5


def test_tasks_are_what_varies_so_that_more_layers_of_few_tasks_make_no_one_surer():
    of_task = np.repeat(draw_agreement(2, 1, 6), 100, axis=1)
    x, y = of_task + 0.01 * draw_agreement(2, 100, 6, seed=1)
    found = rank_agreement(x, y)
    as_if_independent = 2 * norm.ppf(0.975) / np.sqrt(found.n - 3)
    assert found.ci_high - found.ci_low > 4 * as_if_independent


def test_the_interval_is_decided_by_the_seed():
    x, y = draw_agreement(4, 7), draw_agreement(4, 7, seed=1)
    assert rank_agreement(x, y, seed=3) == rank_agreement(x, y, seed=3)
    assert rank_agreement(x, y, seed=3)[1:3] != rank_agreement(x, y, seed=0)[1:3]


def test_with_two_tasks_there_is_no_interval():
    found = rank_agreement(draw_agreement(9, 2), draw_agreement(9, 2, seed=1))
    assert np.isfinite(found.value)
    assert np.isnan(found[1:3]).all()


@pytest.mark.parametrize("side", [0, 1])
def test_a_constant_or_unknown_side_agrees_with_nothing(side: int):
    sides = [draw_agreement(4, 5), draw_agreement(4, 5, seed=1)]
    sides[side] = np.full((4, 5), 2.0)
    assert np.isnan(rank_agreement(*sides)[:3]).all()
    sides[side] = np.full((4, 5), np.nan)
    assert np.isnan(rank_agreement(*sides)[:3]).all()
    assert rank_agreement(*sides).n == 0
