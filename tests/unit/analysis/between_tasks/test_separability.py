from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import f_oneway
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score, silhouette_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tensor_samples import draw

from probes.analysis import tsne_points
from probes.analysis.between_tasks import separability
from probes.analysis.between_tasks.separability import (
    between_share,
    between_share_of_draws,
    group_identity_accuracy,
    silhouette,
    silhouette_of_draws,
)


def uneven(rows: int, seed: int = 0) -> torch.Tensor:
    """Three groups with half, a third and a sixth of the rows, in random order, numbered with gaps."""
    groups = torch.tensor([7, 7, 7, -2, -2, 40])[torch.arange(rows) % 6]
    return groups[torch.randperm(rows, generator=torch.Generator().manual_seed(seed))]


def planted(layers: int, rows: int, features: int, groups: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """Noise, in whose last layer every group has its own mean."""
    x = draw(layers, rows, features)
    x[-1] += strength * draw(100, features, seed=5)[groups % 100]
    return x


def test_silhouette_equals_scikit_learns():
    groups = uneven(60)
    x = planted(3, 60, 5, groups)
    expected = [silhouette_score(layer, groups) for layer in x.double().numpy()]
    assert silhouette(x, groups).tolist() == pytest.approx(expected, abs=1e-10)


def test_the_silhouette_of_a_row_alone_in_its_group_is_0_as_in_scikit_learn():
    groups = torch.tensor([0] * 8 + [1] * 3 + [2])
    x = draw(1, 12, 3)
    expected = silhouette_score(x[0].double().numpy(), groups)
    assert silhouette(x, groups).item() == pytest.approx(expected, abs=1e-10)
    x[0, :11] = 0
    assert silhouette(x, groups).item() == pytest.approx(silhouette_score(x[0].double(), groups), abs=1e-10)


def test_silhouette_is_high_at_the_layer_with_groups_and_near_0_elsewhere():
    groups = uneven(120)
    values = silhouette(planted(3, 120, 8, groups, strength=5), groups)
    assert values[2] > 0.5
    assert values[:2].abs().max() < 0.05


@pytest.mark.parametrize(
    ("alone", "of_draws"),
    [
        (silhouette, silhouette_of_draws),
        (between_share, between_share_of_draws),
        (partial(between_share, debiased=False), partial(between_share_of_draws, debiased=False)),
    ],
    ids=["silhouette", "between_share", "biased between_share"],
)
def test_values_of_draws_equal_values_of_their_rows_alone(alone, of_draws):
    groups = uneven(60)
    x = 1000 + planted(3, 60, 5, groups)
    x[1, :30] = 2.0  # constant in the first draw only
    draws = [torch.arange(30), torch.arange(0, 60, 2), torch.arange(60)[groups != 40]]
    together = of_draws(x, groups, draws)
    one_by_one = torch.stack([alone(x[:, rows], groups[rows]) for rows in draws])
    torch.testing.assert_close(together, one_by_one, equal_nan=True, atol=1e-9, rtol=0)
    assert together.isnan().nonzero().tolist() == [[0, 1]]


@pytest.mark.parametrize("of_draws", [silhouette_of_draws, between_share_of_draws])
def test_a_draw_of_one_group_is_refused(of_draws):
    groups = uneven(60)
    with pytest.raises(ValueError, match="2 groups"):
        of_draws(draw(1, 60, 5), groups, [torch.arange(60), torch.arange(60)[groups == 7]])


def test_between_share_of_one_feature_follows_from_the_f_statistic():
    groups = uneven(60)
    x = planted(2, 60, 1, groups)
    for layer, biased, debiased in zip(
        x, between_share(x, groups, debiased=False), between_share(x, groups, debiased=True), strict=True
    ):
        f = f_oneway(*[layer[groups == name, 0].double() for name in groups.unique()]).statistic
        assert biased.item() == pytest.approx(f * 2 / (f * 2 + 57), abs=1e-10)
        assert debiased.item() == pytest.approx(1 - 59 / (f * 2 + 57), abs=1e-10)


def test_biased_between_share_is_the_variance_of_group_means_over_the_total():
    groups = uneven(60)
    x = planted(1, 60, 7, groups).double()
    means = torch.stack([x[0, groups == name].mean(0) for name in groups])
    expected = means.var(dim=0).sum() / x[0].var(dim=0).sum()
    torch.testing.assert_close(between_share(x, groups, debiased=False)[0], expected)


def test_debiased_share_is_0_on_average_over_all_assignments_and_the_biased_share_is_not():
    x = draw(1, 7, 3).double()
    assignments = [torch.tensor(order) for order in set(itertools.permutations([0, 0, 0, 1, 1, 2, 2]))]
    debiased = torch.cat([between_share(x, groups) for groups in assignments])
    biased = torch.cat([between_share(x, groups, debiased=False) for groups in assignments])
    assert len(assignments) == 210
    assert debiased.mean().item() == pytest.approx(0, abs=1e-12)
    assert biased.mean().item() == pytest.approx(2 / 6, abs=1e-12)
    assert debiased.min() < 0
    apart = torch.tensor([[[0.0], [0.1], [5.0], [5.1]]])
    assert between_share(apart, torch.tensor([0, 0, 1, 1]), debiased=True) > 0.99


@pytest.mark.parametrize("features", [5, 80])
@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_accuracy_equals_scikit_learns_balanced_ridge_on_the_same_folds(features: int, penalty: float):
    groups = uneven(60)
    x = planted(3, 60, features, groups, strength=0.5).double() * torch.linspace(0.1, 10, features) + 3
    folds = separability._stratified_folds(groups.unique(return_inverse=True)[1], 5, seed=3)
    model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=penalty * 48, class_weight="balanced"))
    expected = [
        balanced_accuracy_score(groups, cross_val_predict(model, layer, groups, cv=PredefinedSplit(folds.numpy())))
        for layer in x.numpy()
    ]
    values = group_identity_accuracy(x, groups, seed=3, penalty=penalty)
    assert values.tolist() == pytest.approx(expected, abs=1e-12)


def test_ridge_outputs_minimise_the_documented_objective():
    groups = torch.tensor([0, 0, 0, 1, 1, 2] * 5)
    train, test, targets = draw(30, 4).double() + 2, draw(6, 4, seed=1).double(), torch.nn.functional.one_hot(groups)
    standard = (train - train.mean(0)) / train.std(0, correction=0)
    weights = (1 / groups.bincount())[groups] / 3
    weight, bias = torch.zeros(4, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for _ in range(3000):
        error = weights[:, None] * (standard @ weight + bias - targets)
        weight, bias = weight - 0.2 * (standard.T @ error + 0.3 * weight), bias - 0.2 * error.sum(0)
    expected = (test - train.mean(0)) / train.std(0, correction=0) @ weight + bias
    found = separability._ridge_scores(train, targets.double(), test, 0.3)
    torch.testing.assert_close(found - found.mean(1, keepdim=True), expected - expected.mean(1, keepdim=True))


@pytest.mark.parametrize("groups", [torch.arange(120) % 4, torch.tensor([0] * 90 + [1] * 20 + [2] * 10)])
def test_accuracy_is_at_chance_on_noise_and_high_for_planted_groups(groups: torch.Tensor):
    chance = 1 / len(groups.unique())
    noise = torch.stack([group_identity_accuracy(draw(4, 120, 20, seed=s), groups, seed=s) for s in range(12)])
    assert noise.mean().item() == pytest.approx(chance, abs=0.03)
    x = planted(2, 120, 20, groups)
    assert group_identity_accuracy(x, groups, seed=0)[1] > 0.95


def test_a_large_group_does_not_hide_a_small_one_that_is_linearly_separable():
    groups = torch.tensor([0] * 190 + [1] * 10)
    x = draw(1, 200, 3)
    x[0, :, 0] += 4 * groups
    assert group_identity_accuracy(x, groups, seed=0).item() > 0.9


def test_the_seed_determines_the_folds():
    groups = uneven(60)
    x = planted(1, 60, 8, groups, strength=0.4)
    values = [group_identity_accuracy(x, groups, seed=seed).item() for seed in (0, 0, 1, 2, 3)]
    assert values[0] == values[1]
    assert len(set(values)) > 1


def test_folds_are_stratified_balanced_and_random():
    numbers = torch.tensor([0] * 31 + [1] * 12 + [2] * 6)
    folds = separability._stratified_folds(numbers, 5, seed=0)
    for group in range(3):
        assert np.ptp(folds[numbers == group].bincount(minlength=5).numpy()) <= 1
    assert np.ptp(folds.bincount().numpy()) <= 1
    assert folds[:31].tolist() != sorted(folds[:31].tolist())
    assert not torch.equal(folds, separability._stratified_folds(numbers, 5, seed=1))


def test_a_constant_feature_is_ignored():
    groups = torch.arange(60) % 3
    x = planted(1, 60, 8, groups)
    spiked = torch.cat([x, torch.full((1, 60, 1), 0.1)], dim=2)
    torch.testing.assert_close(
        group_identity_accuracy(spiked, groups, seed=0), group_identity_accuracy(x, groups, seed=0)
    )


@pytest.mark.parametrize(
    "measure", [silhouette, between_share, lambda x, groups: group_identity_accuracy(x, groups, seed=0)]
)
def test_a_constant_layer_is_nan_and_invalid_groups_are_refused(measure):
    x = draw(2, 20, 3)
    x[0] = 0.1
    assert measure(x, torch.arange(20) % 2).isnan().tolist() == [True, False]
    with pytest.raises(ValueError, match="at least 2 groups, and fewer than the 20 rows; got 1"):
        measure(x, torch.zeros(20, dtype=torch.long))
    with pytest.raises(ValueError, match="at least 2 groups, and fewer than the 20 rows; got 20"):
        measure(x, torch.arange(20))
    with pytest.raises(ValueError, match=r"one integer per row, shape \(20,\); got torch.int64 of shape \(19,\)"):
        measure(x, torch.arange(19))
    with pytest.raises(ValueError, match=r"one integer per row, shape \(20,\); got torch.float32 of shape \(20,\)"):
        measure(x, torch.zeros(20))
    with pytest.raises(ValueError, match="`x` expects at least 4 rows; got 3"):
        measure(x[:, :3], torch.arange(3) % 2)


def test_folds_and_penalties_out_of_range_are_refused():
    x, groups = draw(1, 20, 3), torch.tensor([0] * 17 + [1] * 3)
    with pytest.raises(ValueError, match="`folds` must be from 2 to 3, the rows of the smallest group; got 5"):
        group_identity_accuracy(x, groups, seed=0)
    with pytest.raises(ValueError, match=r"`folds` must be from 2 to 3, .*; got 1"):
        group_identity_accuracy(x, groups, seed=0, folds=1)
    with pytest.raises(ValueError, match="`penalty` must be positive; got 0"):
        group_identity_accuracy(x, groups, seed=0, folds=3, penalty=0)
    assert group_identity_accuracy(x, groups, seed=0, folds=3).isfinite().all()


CLUSTERS = torch.arange(60) % 3


def clusters(distance: float, *, features: int = 80) -> torch.Tensor:
    """Three clusters of 20 rows whose centres lie at this distance from the origin."""
    generator = torch.Generator().manual_seed(0)
    centres = distance * torch.nn.functional.one_hot(CLUSTERS, features).float()
    return centres + torch.randn(60, features, generator=generator)


def separation(points: np.ndarray) -> float:
    return silhouette(torch.from_numpy(points)[None], CLUSTERS).item()


def test_distant_clusters_stay_separated_on_the_map_and_a_single_one_is_not_split():
    points = tsne_points(clusters(30.0), perplexity=10)
    assert (points.shape, points.dtype) == ((60, 2), np.float64)
    assert separation(points) > 0.7
    assert separation(tsne_points(clusters(0.0), perplexity=10)) < 0.1


def test_the_map_is_determined_by_its_seed():
    x = clusters(5.0)
    np.testing.assert_array_equal(tsne_points(x, perplexity=10), tsne_points(x, perplexity=10))


def test_shifted_and_scaled_clusters_stay_separated_on_the_map():
    assert separation(tsne_points(4 * clusters(30.0).double() + 100, perplexity=10)) > 0.7


def test_the_map_of_equal_rows_is_nan():
    points = tsne_points(torch.full((12, 5), 3.7))
    assert points.shape == (12, 2)
    assert np.isnan(points).all()


def test_few_rows_reduce_the_perplexity():
    for number in (4, 9):
        assert np.isfinite(tsne_points(clusters(3.0)[:number], perplexity=30)).all()
