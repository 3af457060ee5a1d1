from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm, rankdata, t
from tensor_samples import draw_double as draw
from torch import Tensor

from probes.analysis import confidence_interval, control_cka, linear_cka, rank_agreement, replicate_noise, tuning_gain
from probes.analysis.between_tasks.tuning_gain import paired_difference
from probes.values import Estimates


def family(layers: int = 3, rows: int = 60, features: int = 12, *, share: float = 0.6) -> tuple[Tensor, Tensor, Tensor]:
    """Control, experimental and base model; the first two share some of what tuning added to the base."""
    base, tuning = draw(layers, rows, features), draw(layers, rows, features, seed=1)
    noise = draw(2, layers, rows, features, seed=2)
    return base + tuning + 0.3 * noise[0], base + share * tuning + 0.3 * noise[1], base


def standard_errors(estimates: Estimates) -> np.ndarray:
    assert estimates.errors is not None
    return np.sqrt(np.square(estimates.errors).sum(0))


@pytest.mark.parametrize(("ending", "debiased"), [("", True), ("_biased", False)])
def test_the_gain_is_cka_with_the_experimental_model_minus_cka_with_the_base(ending: str, debiased: bool):
    control, experimental, base = family()
    found = tuning_gain(control, experimental, base)
    sides = {"experimental": experimental, "base": base}
    cka = {name: linear_cka(control, side, debiased=debiased).numpy() for name, side in sides.items()}
    for name, expected in cka.items():
        np.testing.assert_allclose(found[f"cka/control_vs_{name}{ending}"].values, expected, rtol=1e-9)
    gain = np.subtract(cka["experimental"], cka["base"])
    np.testing.assert_allclose(found[f"tuning_gain{ending}"].values, gain, atol=1e-9)
    assert (gain > 0.05).all()
    assert {estimates.n for estimates in found.values()} == {60}


def test_errors_of_the_gain_equal_its_jackknife_over_rows():
    control, experimental, base = family(layers=1, rows=20)
    left_out = []
    for row in range(20):
        kept = torch.arange(20) != row
        c, e, b = (side[:, kept] for side in (control, experimental, base))
        left_out.append((linear_cka(c, e) - linear_cka(c, b)).item())
    deviations = np.array(left_out) - np.mean(left_out)
    expected = np.sqrt(19 / 20 * np.square(deviations).sum())
    gain = tuning_gain(control, experimental, base)["tuning_gain"]
    np.testing.assert_allclose(standard_errors(gain), expected, rtol=1e-6)


def test_pairing_reduces_errors_for_related_models_and_not_for_unrelated_ones():
    control, experimental, base = family(share=0.2)
    found = tuning_gain(control, experimental, base)
    apart = [standard_errors(found[f"cka/control_vs_{name}"]) for name in ("experimental", "base")]
    assert (standard_errors(found["tuning_gain"]) < 0.6 * np.hypot(*apart)).all()
    unrelated = tuning_gain(*(draw(3, 60, 12, seed=seed) for seed in (7, 8, 9)))
    apart = [standard_errors(unrelated[f"cka/control_vs_{name}"]) for name in ("experimental", "base")]
    np.testing.assert_allclose(standard_errors(unrelated["tuning_gain"]), np.hypot(*apart), rtol=0.35)


def test_intervals_cover_the_gain_of_the_population():
    """400 independent samples, stacked as layers, of a population whose CKA follows from its covariances."""
    maps = [scale * draw(4, 8, seed=3) for scale in (1, 1, 0.5)]
    noise_maps = 0.6 * draw(3, 6, 8, seed=4)
    latent, noise = draw(400, 120, 4, seed=5), draw(3, 400, 120, 6, seed=6)
    control, experimental, base = (latent @ maps[i] + noise[i] @ noise_maps[i] for i in range(3))
    norms = [torch.linalg.norm(maps[i].T @ maps[i] + noise_maps[i].T @ noise_maps[i]) for i in range(3)]
    cka = [(torch.linalg.norm(maps[0].T @ maps[i]) ** 2 / (norms[0] * norms[i])).item() for i in (1, 2)]
    gain = tuning_gain(control, experimental, base)["tuning_gain"]
    assert gain.errors is not None
    low, high = confidence_interval(gain.values, gain.errors)
    assert cka[0] - cka[1] > 0.1
    assert 0.90 < np.mean((low < cka[0] - cka[1]) & (cka[0] - cka[1] < high)) < 0.99


@pytest.mark.parametrize("ending", ["", "_biased"])
def test_equal_experimental_and_base_models_have_exactly_no_gain(ending: str):
    control, _, base = family()
    gain = tuning_gain(control, base.clone(), base)[f"tuning_gain{ending}"]
    assert gain.errors is not None
    low, high = confidence_interval(gain.values, gain.errors)
    assert gain.values.tolist() == low.tolist() == high.tolist() == [0, 0, 0]


def test_the_cka_of_a_control_with_itself_is_1_at_every_layer():
    control, _, base = family()
    found = tuning_gain(control, control, base)
    for ending in ("", "_biased"):
        itself = found[f"cka/control_vs_experimental{ending}"]
        np.testing.assert_allclose(itself.values, 1, rtol=1e-12)
        np.testing.assert_allclose(standard_errors(itself), 0, atol=1e-9)
    assert (found["cka/control_vs_base"].values < 0.9).all()


def test_bias_alone_produces_a_gain_and_the_debiased_gain_is_0_within_its_interval():
    """Three unrelated models, of which the experimental one has a higher effective rank than the base."""
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


def test_the_null_of_biased_values_is_their_mean_over_permutations_of_the_rows():
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
    assert all(found[name].null is None for name in ("cka/control_vs_base", "cka/control_vs_experimental"))
    gain = found["tuning_gain"]
    assert gain.null is not None
    assert (gain.null.tolist(), gain.alternative) == ([[0, 0]], "two-sided")


def test_a_constant_layer_has_no_gain_and_does_not_affect_other_layers():
    control, experimental, base = family()
    whole = tuning_gain(control, experimental, base)["tuning_gain"]
    base = base.clone()
    base[1] = 2.5
    gain = tuning_gain(control, experimental, base)["tuning_gain"]
    assert np.isnan(gain.values).tolist() == [False, True, False]
    np.testing.assert_array_equal(gain.values[[0, 2]], whole.values[[0, 2]])
    assert gain.note.startswith("constant layer")


def test_unmatched_rows_and_too_few_rows_are_refused():
    control, experimental, base = family()
    with pytest.raises(ValueError, match=r"equal rows and layers; got \(3, 60, 12\), \(3, 59, 12\).*row ids"):
        tuning_gain(control, experimental, base[:, 1:])
    with pytest.raises(ValueError, match="at least 5 rows; got 4"):
        tuning_gain(control[:, :4], experimental[:, :4], base[:, :4])


def test_two_controls_are_compared_by_debiased_cka_without_a_null():
    control, experimental, _ = family()
    found = control_cka(control, experimental)
    np.testing.assert_allclose(found.values, linear_cka(control, experimental).numpy(), rtol=1e-9)
    assert found.null is None
    assert (standard_errors(found) > 0).all()


def test_a_difference_subtracts_errors_row_by_row():
    errors = np.random.default_rng(0).normal(size=(2, 5, 3))
    sides = [Estimates(np.arange(3.0) * (2 - i), 5, errors[i], note="why") for i in range(2)]
    found = paired_difference(*sides)
    np.testing.assert_array_equal(found.values, [0, 1, 2])
    np.testing.assert_array_equal(found.errors, errors[0] - errors[1])
    assert (found.n, found.note, found.alternative) == (5, "why", "two-sided")
    assert found.null is not None
    assert found.null.tolist() == [[0, 0, 0]]


def test_seed_noise_is_the_pooled_standard_deviation_over_tasks():
    rng = np.random.default_rng(0)
    gains = {"a": [*rng.normal(size=(3, 2))], "b": [*(rng.normal(size=(2, 2)) + 100)], "c": [rng.normal(size=2)]}
    deviation, freedom = replicate_noise(gains)
    assert freedom == 3
    pooled = (2 * np.var(gains["a"], axis=0, ddof=1) + np.var(gains["b"], axis=0, ddof=1)) / 3
    np.testing.assert_allclose(deviation, np.sqrt(pooled), rtol=1e-12)


def test_seed_noise_does_not_depend_on_the_levels_of_the_tasks():
    rng = np.random.default_rng(1)
    gains = {f"t{i}": [*(rng.normal(size=(2, 1)) * 0.03 + 10 * i)] for i in range(800)}
    assert replicate_noise(gains)[0] == pytest.approx(0.03, rel=0.08)


def test_without_replicates_seed_noise_is_unknown():
    deviation, freedom = replicate_noise({"a": [np.zeros(4)], "b": [np.ones(4)]})
    assert np.isnan(deviation).tolist() == [True] * 4
    assert freedom == 0
    assert replicate_noise({})[1] == 0


def matrix(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_agreement_is_spearmans_correlation_over_the_cells_that_both_have():
    x = matrix(6, 8)
    y = x + matrix(6, 8, seed=1)
    x[0, 3], y[2, 5], y[4, 4] = np.nan, np.nan, np.inf
    x[3], y[:, 1] = x[3].round(), y[:, 1].round()  # ties
    present = np.isfinite(x) & np.isfinite(y)
    found = rank_agreement(x, y)
    assert found.value == pytest.approx(np.corrcoef(rankdata(x[present]), rankdata(y[present]))[0, 1], rel=1e-12)
    assert found.n == 45
    assert found.ci_low < found.value < found.ci_high


def test_agreement_is_1_for_increasing_and_minus_1_for_decreasing_maps():
    x = matrix(5, 6)
    assert rank_agreement(x, np.exp(3 * x)) == pytest.approx((1, 1, 1, 30))
    assert rank_agreement(x, -(x**3)) == pytest.approx((-1, -1, -1, 30))


def test_the_interval_contains_0_for_unrelated_matrices_and_not_for_related_ones():
    x, y = matrix(40, 4, 12), matrix(40, 4, 12, seed=1)
    found = [rank_agreement(*sides) for sides in zip(x, y, strict=True)]
    assert np.mean([agreement.ci_low < 0 < agreement.ci_high for agreement in found]) > 0.8
    assert rank_agreement(x[0], x[0] + 0.5 * y[0]).ci_low > 0.5


def test_more_layers_of_the_same_tasks_do_not_narrow_the_interval():
    by_task = np.repeat(matrix(2, 1, 6), 100, axis=1)
    x, y = by_task + 0.01 * matrix(2, 100, 6, seed=1)
    found = rank_agreement(x, y)
    as_if_independent = 2 * norm.ppf(0.975) / np.sqrt(found.n - 3)
    assert found.ci_high - found.ci_low > 4 * as_if_independent


def test_the_interval_is_fishers_with_the_error_of_leaving_tasks_out():
    x = matrix(4, 7)
    y = x + matrix(4, 7, seed=1)
    value = np.corrcoef(rankdata(x), rankdata(y))[0, 1]
    without = [
        np.corrcoef(rankdata(np.delete(x, task, axis=1)), rankdata(np.delete(y, task, axis=1)))[0, 1]
        for task in range(7)
    ]
    error = 6 / np.sqrt(7) * np.std(without, ddof=1)
    reach = t.ppf(0.975, 6) * error / (1 - value**2)
    found = rank_agreement(x, y)
    assert found.ci_low == pytest.approx(np.tanh(np.arctanh(value) - reach), rel=1e-10)
    assert found.ci_high == pytest.approx(np.tanh(np.arctanh(value) + reach), rel=1e-10)


def test_with_two_tasks_there_is_no_interval():
    found = rank_agreement(matrix(9, 2), matrix(9, 2, seed=1))
    assert np.isfinite(found.value)
    assert np.isnan(found[1:3]).all()


@pytest.mark.parametrize("side", [0, 1])
def test_agreement_with_a_constant_or_missing_matrix_is_nan(side: int):
    sides = [matrix(4, 5), matrix(4, 5, seed=1)]
    sides[side] = np.full((4, 5), 2.0)
    assert np.isnan(rank_agreement(*sides)[:3]).all()
    sides[side] = np.full((4, 5), np.nan)
    assert np.isnan(rank_agreement(*sides)[:3]).all()
    assert rank_agreement(*sides).n == 0
