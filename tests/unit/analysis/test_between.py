from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from probes.analysis import (
    BetweenTasks,
    between_share,
    confidence_interval,
    group_identity_accuracy,
    silhouette,
    silhouette_of_draws,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tasks(*, apart: float = 3.0, sizes: tuple[int, ...] = (30, 20, 40)) -> list[torch.Tensor]:
    """Rows of three tasks at two layers; at the second they lie apart."""
    rows = [draw(2, size, 6, seed=seed) for seed, size in enumerate(sizes)]
    for number, own in enumerate(rows):
        own[1, :, number] += apart
    return rows


SILHOUETTE = BetweenTasks(quantity="silhouette", unit="silhouette", function=silhouette)


def test_it_is_its_function_of_all_rows_and_the_task_of_each():
    rows = tasks()
    expected = silhouette(torch.cat(rows, dim=1), torch.tensor([0] * 30 + [1] * 20 + [2] * 40))
    estimates = SILHOUETTE(rows)
    np.testing.assert_allclose(estimates.values, expected)
    assert estimates.n == 90
    assert estimates.errors is not None
    assert estimates.errors.shape == (20, 2)


def test_draws_answered_at_once_give_the_errors_of_draws_one_after_the_other():
    at_once = replace(SILHOUETTE, of_draws=silhouette_of_draws)(tasks())
    one_by_one = SILHOUETTE(tasks())
    assert at_once.errors is not None
    assert one_by_one.errors is not None
    np.testing.assert_allclose(at_once.errors, one_by_one.errors, atol=1e-12)
    assert np.abs(at_once.errors).min() > 0


@pytest.mark.parametrize(
    "function",
    [silhouette, partial(between_share, debiased=True), partial(group_identity_accuracy, seed=0)],
    ids=["silhouette", "between_share", "identity"],
)
def test_tasks_that_lie_apart_are_found_at_their_layer_and_alike_ones_nowhere(function):
    chance = 1 / 3 if isinstance(function, partial) and function.func is group_identity_accuracy else 0.0
    estimates = BetweenTasks(quantity="q", unit="", function=function)(tasks())
    assert estimates.errors is not None
    low, _ = confidence_interval(estimates.values, estimates.errors)
    assert low[1] > chance + 0.1
    assert abs(estimates.values[0] - chance) < 0.1
    assert abs(BetweenTasks(quantity="q", unit="", function=function)(tasks(apart=0)).values - chance).max() < 0.1


def test_chance_is_a_number_or_one_over_the_number_of_tasks():
    for chance, expected in ((0.0, 0.0), (0.25, 0.25), (None, 1 / 3)):
        estimates = BetweenTasks(quantity="q", unit="", function=silhouette, chance=chance, half_samples=0)(tasks())
        np.testing.assert_array_equal(estimates.null, [[expected, expected]])
        assert estimates.errors is None


def test_the_seed_decides_the_halves():
    halved = [BetweenTasks(quantity="q", unit="", function=silhouette, seed=seed)(tasks()) for seed in (0, 0, 1)]
    first, again, other = (estimates.errors for estimates in halved if estimates.errors is not None)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_constant_layer_is_nan():
    rows = tasks()
    for own in rows:
        own[0] = 1.5
    assert np.isnan(SILHOUETTE(rows).values).tolist() == [True, False]


def test_one_task_alone_is_refused():
    with pytest.raises(ValueError, match="'silhouette' lies between tasks and wants at least 2; got 1"):
        SILHOUETTE(tasks()[:1])


def test_every_half_holds_half_of_every_task():
    seen: list[list[int]] = []

    def count(x: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        seen.append(groups.bincount(minlength=3).tolist())
        return torch.zeros(len(x))

    BetweenTasks(quantity="q", unit="", function=count)(tasks(sizes=(4, 10, 6)))
    assert seen[0] == [4, 10, 6]
    assert seen[1:] == [[2, 5, 3]] * 20
