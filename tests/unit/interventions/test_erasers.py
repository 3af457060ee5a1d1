"""Erasers: nothing linear is left of a label (a theorem), with the smallest change; random ones leave it there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import oas
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from probes.interventions import Eraser, LabelMoments, inlp, leace, mean_difference, random_subspace
from probes.interventions.moments import Whitening, shrunk

FEATURES = 24


def labelled_rows(rows: int, classes: int, *, seed: int = 0, features: int = FEATURES) -> tuple[Tensor, Tensor]:
    """Correlated rows of very unequal variances, whose first features follow the label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=generator)
    x = torch.randn(rows, features, generator=generator, dtype=torch.float64)
    x[:, :classes] += 2.0 * torch.eye(classes, dtype=torch.float64)[labels]
    mix = torch.randn(features, features, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return 5 + x @ mix * torch.logspace(-1, 2, features, dtype=torch.float64), labels


def moments_of(x: Tensor, labels: Tensor, *, batches: int = 1) -> LabelMoments:
    moments = LabelMoments(x.shape[1], int(labels.max()) + 1)
    for part, own in zip(x.chunk(batches), labels.chunk(batches), strict=True):
        moments.update(part, own)
    return moments


def least_squares_r2(x: Tensor, labels: Tensor) -> float:
    """Largest share of the variance of a class indicator that any affine function of the rows explains."""
    design = np.column_stack([np.ones(len(x)), x.numpy()])
    design[:, 1:] /= design[:, 1:].std(0) + 1e-300
    indicators = torch.nn.functional.one_hot(labels).double().numpy()
    fitted = design @ np.linalg.lstsq(design, indicators, rcond=1e-10)[0]
    return float((1 - ((indicators - fitted) ** 2).sum(0) / ((indicators - indicators.mean(0)) ** 2).sum(0)).max())


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("shrink", [True, False])
@pytest.mark.parametrize("make", [leace, mean_difference])
def test_after_erasure_no_linear_function_of_the_training_rows_explains_the_label(make, shrink: bool, classes: int):
    x, labels = labelled_rows(300, classes)
    options = {"shrink": shrink} if make is leace else {}
    eraser = make(moments_of(x, labels), **options)
    assert eraser.rank == classes - 1
    assert least_squares_r2(x, labels) > 0.3
    assert least_squares_r2(eraser(x), labels) < 1e-6


def test_after_erasure_logistic_regression_of_the_training_rows_predicts_class_frequencies():
    x, labels = labelled_rows(300, 3)
    erased = leace(moments_of(x, labels))(x)
    erased = (erased - erased.mean(0)) / erased.std(0)
    probe = LogisticRegression(C=1e3, max_iter=5000, tol=1e-9).fit(erased, labels)
    shares = np.bincount(labels) / len(labels)
    np.testing.assert_allclose(probe.predict_proba(erased), np.tile(shares, (300, 1)), atol=1e-4)


def test_where_rows_are_few_shrinkage_changes_other_rows_less_and_erases_as_much():
    x, labels = labelled_rows(120, 2, features=96)
    others, their_labels = labelled_rows(4000, 2, seed=1, features=96)
    shrunk_eraser, plain = (leace(moments_of(x, labels), shrink=shrink) for shrink in (True, False))
    change = [(eraser(others) - others).square().sum().item() for eraser in (shrunk_eraser, plain)]
    assert change[0] < 0.7 * change[1]
    left = [least_squares_r2(eraser(others), their_labels) for eraser in (shrunk_eraser, plain)]
    assert left[0] == pytest.approx(left[1])
    assert left[0] < 0.5 * least_squares_r2(others, their_labels)


def test_leace_changes_rows_less_than_any_other_eraser():
    x, labels = labelled_rows(2000, 3)
    moments = moments_of(x, labels)
    optimal = leace(moments, shrink=False)

    def change(eraser: Eraser) -> float:
        return (eraser(x) - x).square().sum(1).mean().item()

    assert change(optimal) < change(mean_difference(moments))
    generator = torch.Generator().manual_seed(0)
    kernel = moments.cross_covariance[:, :2]
    for _ in range(20):  # D Rᵀ with the same D still erases for every R with RᵀΣ_xz unchanged on the columns
        noise = torch.randn(FEATURES, 2, generator=generator, dtype=torch.float64)
        free = noise - kernel @ torch.linalg.lstsq(kernel, noise).solution
        other = Eraser(optimal.directions, optimal.read + 0.05 * free, optimal.centre)
        assert least_squares_r2(other(x), labels) < 1e-6
        assert change(other) > change(optimal)


@pytest.mark.parametrize("classes", [2, 4])
def test_iterative_projection_removes_a_subspace_for_each_classifier_and_leaves_less_and_less(classes: int):
    x, labels = labelled_rows(800, classes)
    moments = moments_of(x, labels)
    left = []
    for iterations in (1, 3, 6):
        eraser = inlp(moments, iterations=iterations, shrink=False)
        assert eraser.rank == iterations * (classes - 1)
        torch.testing.assert_close(eraser.directions.T @ eraser.directions, torch.eye(eraser.rank).double())
        left.append(least_squares_r2(eraser(x), labels))
    assert least_squares_r2(x, labels) > left[0] > left[1] > left[2]


def test_a_random_subspace_removes_as_many_dimensions_and_leaves_the_label():
    x, labels = labelled_rows(2000, 3)
    moments = moments_of(x, labels)
    eraser = random_subspace(moments, 2, seed=0, shrink=False)
    ranks = [torch.linalg.matrix_rank((rows - rows.mean(0)).T @ (rows - rows.mean(0)), rtol=1e-12).item()
             for rows in (x, eraser(x))]  # fmt: skip
    assert ranks == [FEATURES, FEATURES - 2]
    assert least_squares_r2(eraser(x), labels) > 0.7 * least_squares_r2(x, labels)
    assert not torch.equal(eraser(x), random_subspace(moments, 2, seed=1, shrink=False)(x))


@pytest.mark.parametrize("make", [leace, mean_difference, inlp, lambda m: random_subspace(m, 3, seed=0)])
def test_erasers_are_projections_about_the_mean(make):
    x, labels = labelled_rows(500, 3)
    eraser = make(moments_of(x, labels))
    torch.testing.assert_close(eraser.read.T @ eraser.directions, torch.eye(eraser.rank).double(), rtol=0, atol=1e-8)
    torch.testing.assert_close(eraser(eraser(x)), eraser(x))
    torch.testing.assert_close(eraser(x).mean(0), x.mean(0))


def test_rows_that_do_not_differ_are_left_as_they_are():
    x, labels = torch.full((20, 4), 3.0), torch.arange(20) % 2
    moments = moments_of(x, labels)
    for eraser in (leace(moments), mean_difference(moments), inlp(moments), random_subspace(moments, 1, seed=0)):
        assert eraser.rank == 0
        assert torch.equal(eraser(x), x)


def test_moments_of_batches_are_those_of_all_rows():
    x, labels = labelled_rows(101, 3)
    moments = moments_of(x.float() + 1000, labels, batches=7)
    rows = (x.float() + 1000).double()
    indicators = torch.nn.functional.one_hot(labels).double()
    both = torch.cat([rows, indicators], 1).T.cov(correction=0)
    torch.testing.assert_close(moments.mean, rows.mean(0))
    torch.testing.assert_close(moments.covariance, both[:FEATURES, :FEATURES])
    torch.testing.assert_close(moments.cross_covariance, both[:FEATURES, FEATURES:])
    for c in range(3):
        torch.testing.assert_close(moments.class_means[c], rows[labels == c].mean(0))
    within = sum((labels == c).double().mean() * rows[labels == c].T.cov(correction=0) for c in range(3))
    torch.testing.assert_close(moments.covariance_within, within)


def test_correlations_are_shrunk_as_scikit_learn_shrinks_standardised_rows():
    x, _ = labelled_rows(40, 2)
    standardised = (x - x.mean(0)) / x.std(0, correction=0)
    expected = torch.from_numpy(oas(standardised.numpy())[0]) * torch.outer(*(2 * [x.std(0, correction=0)]))
    torch.testing.assert_close(shrunk(x.T.cov(correction=0), 40), expected)


def test_whitening_and_its_inverse_leave_what_has_variance():
    x, _ = labelled_rows(10, 2)  # fewer rows than features
    whitening = Whitening.of(x.T.cov(correction=0))
    rows = x - x.mean(0)
    torch.testing.assert_close(rows @ whitening.forth @ whitening.back, rows, rtol=0, atol=1e-6)
    assert torch.linalg.matrix_rank((rows @ whitening.forth).T.cov(correction=0), rtol=1e-6) == 9


def test_an_erasers_edit_is_the_same_map():
    x, labels = labelled_rows(200, 2)
    eraser = leace(moments_of(x, labels))
    torch.testing.assert_close(eraser.edit(1).change(x[None].float())[0], eraser(x).float(), rtol=1e-3, atol=1e-2)
