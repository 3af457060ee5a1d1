from __future__ import annotations

import numpy as np
import pytest

from probes.analysis import specificity

RNG = np.random.default_rng


def by_least_squares(values: np.ndarray) -> np.ndarray:
    """Residuals of the present cells after fitting an effect of each layer and one of each task."""
    layers, tasks = np.nonzero(np.isfinite(values))
    design = np.zeros((len(layers), sum(values.shape)))
    design[np.arange(len(layers)), layers] = 1
    design[np.arange(len(layers)), values.shape[0] + tasks] = 1
    present = values[layers, tasks]
    residuals = np.full(values.shape, np.nan)
    residuals[layers, tasks] = present - design @ np.linalg.lstsq(design, present, rcond=None)[0]
    return residuals


def with_missing_cells(values: np.ndarray) -> np.ndarray:
    holes = values.copy()
    holes[0, 1] = holes[0, 2] = holes[3, 0] = np.nan
    return holes


def test_specificity_is_value_minus_layer_mean_minus_task_mean_plus_grand_mean():
    values = RNG(0).normal(size=(5, 4)) + 10
    expected = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    specific, deviations = specificity(values)
    np.testing.assert_allclose(specific, expected, atol=1e-12)
    assert np.isnan(deviations).all()


def test_rows_and_columns_sum_to_zero():
    specific, _ = specificity(RNG(0).normal(size=(6, 3)))
    np.testing.assert_allclose(specific.sum(0), 0, atol=1e-12)
    np.testing.assert_allclose(specific.sum(1), 0, atol=1e-12)


@pytest.mark.parametrize("missing", [False, True])
def test_layer_and_task_effects_give_none_and_a_planted_cell_gives_the_most(missing: bool):
    values = RNG(0).normal(size=(6, 1)) + RNG(1).normal(size=(1, 4))
    values = with_missing_cells(values) if missing else values
    np.testing.assert_allclose(specificity(values)[0][np.isfinite(values)], 0, atol=1e-12)
    values[2, 3] += 0.1
    assert np.nanargmax(specificity(values)[0]) == 2 * 4 + 3
    assert specificity(values)[0][2, 3] > 0.04


def test_with_missing_cells_specificity_is_the_residual_of_least_squares():
    values = with_missing_cells(RNG(0).normal(size=(5, 4)))
    np.testing.assert_allclose(specificity(values)[0], by_least_squares(values), atol=1e-12)


def test_a_layer_without_any_cell_does_not_affect_other_layers():
    values = RNG(0).normal(size=(5, 4))
    values[0] = np.nan
    specific, _ = specificity(values)
    np.testing.assert_allclose(specific[1:], specificity(values[1:])[0], atol=1e-12)
    assert np.isnan(specific[0]).all()


@pytest.mark.parametrize("missing", [False, True])
def test_standard_errors_equal_the_standard_deviation_over_draws_of_correlated_layers(missing: bool):
    rng, truth = RNG(0), RNG(1).normal(size=(5, 3))
    if missing:
        truth[4, 0] = truth[0, 2] = np.nan
    roots = [0.1 * (task + 1) * (np.ones((5, 5)) + np.eye(5)) @ np.diag(rng.uniform(0.2, 1, 5)) for task in range(3)]
    errors = [root.T for root in roots]  # errors.T @ errors is the covariance over layers
    _, deviations = specificity(truth, errors)
    draws = [
        specificity(truth + np.stack([root @ rng.normal(size=5) for root in roots], axis=1))[0] for _ in range(4000)
    ]
    present = np.isfinite(truth)
    np.testing.assert_allclose(deviations[present], np.std(draws, axis=0)[present], rtol=0.06)
    assert np.isnan(deviations[~present]).all()
    independent = [np.diag(np.sqrt((of_task**2).sum(0))) for of_task in errors]
    assert not np.allclose(specificity(truth, independent)[1][present], deviations[present], rtol=0.2)


def test_errors_shared_by_all_layers_cancel():
    shared = [np.ones((1, 4)), np.ones((1, 4)), np.ones((1, 4))]
    np.testing.assert_allclose(specificity(RNG(0).normal(size=(4, 3)), shared)[1], 0, atol=1e-12)
