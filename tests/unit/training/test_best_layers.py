from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor

from probes.metrics import bootstrap_counts, score_rows
from probes.training.best_layers import best_layers_of, possibly_best
from probes.values import BestLayers

TRIALS, ROWS, SAMPLES = 300, 200, 200
LEAST = int(binom.ppf(0.001, TRIALS, 0.95))
"""Fewer trials than this hold the best layer with a probability of 0.001 if the level is 0.95."""

EQUAL = (0.8,) * 12
ONE_BEST = (0.75,) * 11 + (0.8,)
PLATEAU = (0.6,) * 9 + (0.8,) * 3
CLEAR = (0.6,) * 11 + (0.9,)


def predictions(accuracies: Sequence[float], correlation: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Logits `(layers, rows, 2)` right with the given probabilities, correlated between layers, and their targets."""
    draw = torch.Generator().manual_seed(seed)
    shared = torch.randn(1, ROWS, generator=draw)
    own = torch.randn(len(accuracies), ROWS, generator=draw)
    difficulty = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
    right = difficulty < torch.special.ndtri(torch.tensor(accuracies))[:, None]
    targets = torch.arange(ROWS) % 2
    predicted = torch.where(right, targets, 1 - targets)
    return torch.nn.functional.one_hot(predicted, 2).float(), targets


@cache
def sets(accuracies: tuple[float, ...], correlation: float) -> np.ndarray:
    """Which layers are in the set, bool `(TRIALS, layers)`."""
    kept = np.zeros((TRIALS, len(accuracies)), dtype=bool)
    for trial in range(TRIALS):
        best = choose(*predictions(accuracies, correlation, seed=trial), seed=trial)
        assert best.layers is not None
        assert best.layer in best.layers
        kept[trial] = [layer in best.layers for layer in range(len(accuracies))]
    return kept


def choose(logits: Tensor, targets: Tensor, *, samples: int = SAMPLES, seed: int = 0) -> BestLayers:
    layers = range(len(logits))
    best = best_layers_of("classification", logits, targets, task="task", layers=layers, samples=samples, seed=seed)
    assert best is not None
    return best


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.5, 0.9])
@pytest.mark.parametrize("accuracies", [EQUAL, ONE_BEST, PLATEAU])
def test_each_truly_best_layer_is_in_the_set_95_percent_of_the_time(accuracies, correlation):
    for layer in np.flatnonzero(np.array(accuracies) == max(accuracies)):
        assert sets(accuracies, correlation)[:, layer].sum() >= LEAST


@pytest.mark.slow
def test_intervals_of_the_difference_to_the_winner_alone_would_lose_equal_layers():
    held = 0
    for trial in range(TRIALS):
        logits, targets = predictions(EQUAL, 0.5, seed=trial)
        found = score_rows("classification", logits, targets, bootstrap_counts(ROWS, SAMPLES, seed=trial))
        scores, draws = found.values["macro_f1"], found.draws["macro_f1"]
        lower_end = (draws[:, [int(scores.argmax())]] - draws).quantile(0.05, dim=0)
        held += bool(lower_end[0] <= 0)
    assert held < LEAST


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.5, 0.9])
def test_a_clear_winner_is_alone_in_the_set(correlation):
    np.testing.assert_array_equal(sets(CLEAR, correlation).sum(0), [0] * 11 + [TRIALS])


@pytest.mark.slow
def test_layers_far_below_a_plateau_are_left_out():
    assert sets(PLATEAU, 0.9)[:, :9].mean() < 0.05


def test_a_layer_is_kept_up_to_the_quantile_of_the_largest_of_all_differences():
    generator = np.random.default_rng(0)
    scores, draws = generator.normal(size=5), generator.normal(size=(500, 5))
    expected = []
    for layer in range(5):
        shift = [max((draw[j] - draw[layer]) - (scores[j] - scores[layer]) for j in range(5)) for draw in draws]
        expected.append(max(scores[j] - scores[layer] for j in range(5)) <= np.quantile(shift, 0.3))
    found = possibly_best(torch.from_numpy(scores), torch.from_numpy(draws), level=0.3)
    assert found.tolist() == expected
    assert 0 < sum(expected) < 5


def test_layers_and_resamples_without_a_score_are_left_out():
    generator = torch.Generator().manual_seed(0)
    scores = torch.tensor([0.5, torch.nan, 0.5], dtype=torch.float64)
    draws = scores + 0.1 * torch.randn(100, 3, generator=generator)
    draws[0, 0] = torch.nan
    assert possibly_best(scores, draws).tolist() == [True, False, True]


def test_equal_predictions_share_the_set_and_the_first_is_the_best():
    logits, targets = predictions((0.8, 0.5), 0.5, seed=0)
    best = choose(logits[[1, 0, 0]], targets)
    assert (best.layer, best.layers, best.n) == (1, (1, 2), ROWS)


def test_the_best_layer_of_a_regression_has_the_least_squared_error():
    targets = torch.randn(100, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(3, 100, generator=torch.Generator().manual_seed(1))
    errors = noise * torch.tensor([1.0, 0.1, 2.0])[:, None]
    names = (0, 5, "final")
    best = best_layers_of(
        "regression", (targets + errors)[..., None], targets, task="age", layers=names, samples=200, seed=0
    )
    assert best is not None
    assert (best.layer, best.layers, best.metric) == (5, (5,), "mse")
    assert best.score == pytest.approx(errors[1].square().mean().item())


def test_without_resamples_the_set_is_unknown_and_without_scores_there_is_no_best_layer():
    logits, targets = predictions((0.8, 0.5), 0.5, seed=0)
    best = choose(logits, targets, samples=0)
    assert (best.layer, best.layers, best.text) == (0, None, "")
    nothing = torch.full((2, 4, 1), torch.nan)
    assert best_layers_of("regression", nothing, torch.arange(4.0), task="t", layers=(0, 1), samples=9, seed=0) is None
