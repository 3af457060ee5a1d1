import numpy as np
import pytest
import torch
from gaussian_rows import draw
from scipy import stats

from probes.analysis import cka_leave_one_out, confidence_interval, half_sample_errors, jackknife_errors, linear_cka
from probes.analysis.intervals import degrees_of_freedom, halves_of
from probes.analysis.similarity.leave_one_out import LeaveOneOut


def means(x: torch.Tensor) -> LeaveOneOut:
    """Mean of each column, and without each row."""
    rows = len(x)
    return LeaveOneOut(x.mean(0), ((x.sum(0) - x) / (rows - 1)).T)


def test_jackknife_errors_of_means_give_the_covariance_of_means():
    x = draw(30, 3) @ draw(3, 3, seed=1)
    errors = jackknife_errors(means(x))
    np.testing.assert_allclose(errors.T @ errors, np.cov(x.numpy().T) / 30, rtol=1e-10)


def test_errors_of_a_difference_are_the_difference_of_errors():
    x = draw(30, 2)
    x[:, 1] += x[:, 0]
    errors = jackknife_errors(means(x))
    difference = errors[:, 1] - errors[:, 0]
    assert difference @ difference == pytest.approx((x[:, 1] - x[:, 0]).var().item() / 30, rel=1e-10)


def test_the_interval_of_a_mean_is_students():
    x = draw(12, 2)
    low, high = confidence_interval(x.mean(0).numpy(), jackknife_errors(means(x)))
    expected = stats.ttest_1samp(x.numpy(), 0).confidence_interval(0.95)
    np.testing.assert_allclose((low, high), (expected.low, expected.high), rtol=1e-10)
    narrow = confidence_interval(x.mean(0).numpy(), jackknife_errors(means(x)), level=0.5)
    np.testing.assert_allclose(narrow[1], stats.ttest_1samp(x.numpy(), 0).confidence_interval(0.5).high, rtol=1e-10)


def test_the_jackknife_interval_of_cka_covers_the_truth_in_about_95_percent_of_draws():
    weights, scale = draw(6, 5, seed=1) * 0.6, torch.logspace(0, -0.5, 6, dtype=torch.float64)
    of_x = torch.diag(scale**2)
    between, of_y = of_x @ weights, weights.T @ of_x @ weights + torch.eye(5, dtype=torch.float64)
    truth = between.square().sum() / (of_x.norm() * of_y.norm())
    x = draw(200, 150, 6, seed=2) * scale  # 200 independent draws, as if they were layers
    alignment = cka_leave_one_out(x, x @ weights + draw(200, 150, 5, seed=3))
    low, high = confidence_interval(alignment.values.numpy(), jackknife_errors(alignment))
    assert 0.2 < truth < 0.8
    assert 0.91 <= np.mean((low <= truth.item()) & (truth.item() <= high)) <= 0.99
    errors = jackknife_errors(alignment)
    assert np.sqrt((errors**2).sum(0)).mean() == pytest.approx(alignment.values.std().item(), rel=0.15)


@pytest.mark.parametrize("rows", [8, 9, 40, 41])
def test_half_sample_errors_of_a_mean_are_its_standard_error(rows: int):
    x = draw(rows, 50)
    errors = half_sample_errors(lambda half: x[half].mean(0), rows, half_samples=300)
    expected = x.std(0).numpy() / np.sqrt(rows)
    ratio = np.sqrt((errors**2).sum(0)) / expected
    assert ratio.mean() == pytest.approx(1, abs=0.05)


def test_with_groups_of_given_sizes_each_half_holds_half_of_each():
    groups = torch.arange(42) % 3
    offsets = 10.0 * groups[:, None]
    x = draw(42, 50) + offsets
    errors = half_sample_errors(lambda half: x[half].mean(0), 42, groups=groups, half_samples=300)
    within = (x - offsets).std(0).numpy() / np.sqrt(42)  # differences between groups add no uncertainty
    assert (np.sqrt((errors**2).sum(0)) / within).mean() == pytest.approx(1, abs=0.05)
    apart = half_sample_errors(lambda half: x[half].mean(0), 42, half_samples=300)
    assert (np.sqrt((apart**2).sum(0)) / within).min() > 4


def test_half_sample_errors_of_a_smooth_statistic_are_its_sampling_deviation():
    x = draw(300, 81, 4, seed=4) * torch.tensor([1.0, 2.0, 3.0, 4.0])

    def ratio_of_norms(rows: torch.Tensor) -> torch.Tensor:
        return rows[..., :2].square().mean((-1, -2)) / rows[..., 2:].square().mean((-1, -2))

    errors = half_sample_errors(lambda half: ratio_of_norms(x[:, half]), 81, half_samples=40)
    assert np.sqrt((errors**2).sum(0)).mean() == pytest.approx(ratio_of_norms(x).std().item(), rel=0.15)


def test_halves_hold_no_row_twice_and_are_decided_by_the_seed():
    seen: list[torch.Tensor] = []

    def remember(half: torch.Tensor) -> torch.Tensor:
        seen.append(half)
        return half.double().mean()[None]

    half_sample_errors(remember, 11, half_samples=4)
    half_sample_errors(remember, 11, half_samples=4)
    half_sample_errors(remember, 11, half_samples=4, seed=1)
    assert all(len(half.unique()) == 5 for half in seen)
    assert [torch.equal(seen[i], seen[i + 4]) for i in range(4)] == [True] * 4
    assert not any(torch.equal(seen[i], seen[i + 8]) for i in range(4))
    assert not torch.equal(seen[0], seen[2])
    assert all(len(torch.cat(seen[i : i + 2]).unique()) == 10 for i in range(0, 12, 2))  # a pair shares no row


@pytest.mark.parametrize("half_samples", [2, 5])
def test_halves_that_are_no_pairs_are_refused(half_samples: int):
    with pytest.raises(ValueError, match=rf"even number of at least 4.*got {half_samples}"):
        half_sample_errors(lambda half: half.double().mean()[None], 20, half_samples=half_samples)


def squared_mean(x: torch.Tensor) -> torch.Tensor:
    """The squared length of the mean row without bias, from pairs of rows: `(sets, rows, features)` → `(sets,)`."""
    rows = x.shape[1]
    return (x.sum(1).square() - x.square().sum(1)).sum(1) / (rows * (rows - 1))


@pytest.mark.parametrize("mean", [0.0, 0.1, 1.0])
def test_errors_have_the_variance_of_a_statistic_of_pairs_also_where_the_sum_over_rows_vanishes(mean: float):
    x = mean + draw(1000, 40, 20, seed=5)
    errors = half_sample_errors(lambda half: squared_mean(x[:, half]), 40, half_samples=100, half_means="subtracted")
    variance = np.square(errors).sum(0).mean()
    # an estimate that is kept from falling below its least value is somewhat too large on average where that is true
    assert variance == pytest.approx(squared_mean(x).var().item(), rel=0.4 if mean == 0 else 0.15)
    if mean == 0:
        plain = np.var([squared_mean(x[:, half]) for half in halves_of(40)], axis=0, ddof=1).mean()
        assert plain > 2 * variance


def test_the_variance_of_the_means_of_halves_is_added_or_ignored_or_subtracted_down_to_half_of_the_whole():
    x = draw(50, 40, 20, seed=6)
    of_halves = torch.stack([squared_mean(x[:, half]) for half in halves_of(40)]).numpy()
    means = of_halves.reshape(20, 2, 50).mean(1).var(0, ddof=1)
    added, ignored, subtracted = (
        np.square(half_sample_errors(lambda half: squared_mean(x[:, half]), 40, half_means=what)).sum(0)
        for what in ("added", "ignored", "subtracted")
    )
    np.testing.assert_allclose(ignored, np.square(of_halves[::2] - of_halves[1::2]).mean(0) / 4)
    np.testing.assert_allclose(added, ignored + means)
    np.testing.assert_allclose(subtracted, np.maximum(ignored - means, ignored / 2))
    assert 0 < np.mean(subtracted > ignored / 2) < 1


def test_a_statistic_that_does_not_vary_has_no_errors():
    assert not half_sample_errors(lambda half: torch.ones(3), 20).any()


def test_rows_drawn_with_replacement_look_similar_and_rows_left_out_do_not():
    x, y = draw(1, 400, 576).float(), draw(1, 400, 576, seed=1).float()
    value = linear_cka(x, y).item()
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(400, (400,), generator=generator) for _ in range(3)]
    bootstrap = np.mean([linear_cka(x[:, rows], y[:, rows]).item() for rows in drawn])
    halves: list[float] = []

    def of_half(half: torch.Tensor) -> torch.Tensor:
        halves.append(linear_cka(x[:, half], y[:, half]).item())
        return torch.tensor(halves[-1:])

    half_sample_errors(of_half, 400, half_samples=6)
    jackknife = cka_leave_one_out(x, y).without_row.mean().item()
    assert abs(value) < 0.02
    assert bootstrap > 0.4
    assert bootstrap == pytest.approx(0.59, abs=0.03)
    assert jackknife == pytest.approx(value, abs=0.001)
    assert np.mean(halves) == pytest.approx(value, abs=0.02)


def test_two_sources_of_errors_have_the_degrees_of_freedom_of_welchs_test():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(30, 3)), rng.normal(size=(6, 3)) * [0.3, 1.0, 3.0]
    errors = np.concatenate([(x - x.mean(0)) / np.sqrt(len(x) * (len(x) - 1)) for x in (first, second)])
    expected = stats.ttest_ind(first, second, equal_var=False)
    freedom = [(30, 29), (6, 5)]
    np.testing.assert_allclose(degrees_of_freedom(errors, freedom), expected.df)
    interval = confidence_interval(first.mean(0) - second.mean(0), errors, freedom=freedom)
    ends = expected.confidence_interval(0.95)
    np.testing.assert_allclose(interval, (ends.low, ends.high))


def test_errors_without_named_sources_are_one_more_than_their_degrees_of_freedom():
    assert degrees_of_freedom(np.ones((12, 2))).tolist() == [11, 11]
    assert degrees_of_freedom(np.ones((1000, 2)), [(1000, 39)]).tolist() == [39, 39]
