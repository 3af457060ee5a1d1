import pytest
import torch
from gaussian_rows import draw

from probes.analysis.moments import cross_moments
from probes.analysis.similarity.cka import minibatch_cka
from probes.analysis.streaming import LinearLabelCKA, MinibatchCKA
from probes.analysis.streaming.linear_cka import cka_of_moments


def test_no_spread_is_nan_even_where_rounding_left_some_covariance():
    moments = cross_moments(draw(3, 47, 5), draw(3, 47, 5, seed=1))
    no_spread = torch.zeros_like(moments)
    no_spread[:, 0, 0] = 47
    assert cka_of_moments(moments, no_spread, moments, debiased=True).isnan().all()
    assert cka_of_moments(moments, moments, no_spread, debiased=True).isnan().all()


def test_labels_all_the_same_give_nan_and_two_classes_do_not():
    x, labels = draw(2, 20, 4), torch.zeros(20, dtype=torch.long)
    metric = LinearLabelCKA(2, 4, 2)
    metric.update(x, labels)
    assert metric.compute().isnan().all()
    metric.update(x, labels + 1)
    assert metric.compute().isfinite().all()


def test_a_layer_that_holds_the_labels_is_found():
    labels = torch.arange(300) % 3
    x = draw(2, 300, 16)
    x[1, :, :3] += 3 * torch.nn.functional.one_hot(labels, 3)
    metric = LinearLabelCKA(2, 16, 3)
    for rows, some in zip(x.split(64, dim=1), labels.split(64), strict=True):
        metric.update(rows, some)
    assert metric.compute()[0].abs() < 0.05
    assert metric.compute()[1] > 0.3


@pytest.mark.parametrize(
    ("num_classes", "labels", "message"),
    [
        (3, torch.tensor([0, 1, 2, 3]), "class indices from 0 to 2; got 3. Set `num_classes`"),
        (3, torch.tensor([0, -1, 2, 1]), "class indices from 0 to 2; got -1"),
        (3, torch.rand(4), "expect class indices, int64; got torch.float32. Set `num_classes`"),
        (None, torch.arange(4), r"expect real values \(`num_classes` is None\); got torch.int64"),
        (None, torch.tensor([0.0, torch.nan, 1.0, 2.0]), "1 of the 4 rows of a batch of `labels` hold NaN"),
        (3, torch.zeros(4, 1, dtype=torch.long), r"`labels` expect the shape \(rows,\); got \(4, 1\)"),
    ],
)
def test_labels_of_another_kind_are_refused(num_classes: int | None, labels: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        LinearLabelCKA(1, 2, num_classes).update(draw(1, 4, 2), labels)


def test_no_classes_at_all_are_refused():
    with pytest.raises(ValueError, match="`num_classes` expects 1 or more, or None for real-valued labels; got 0"):
        LinearLabelCKA(1, 2, 0)


def test_minibatch_cka_streams_and_merges_as_the_function_does():
    x, y = draw(3, 60, 5), draw(2, 60, 4, seed=1) + draw(3, 60, 5)[:2, :, :4]
    x[2] = 0.1
    batches = list(zip(x.split(12, dim=1), y.split(12, dim=1), strict=True))
    metric, other = MinibatchCKA(3, 2), MinibatchCKA(3, 2)
    for batch in batches[:2]:
        metric(*batch)
    for batch in batches[2:]:
        other.update(*batch)
    metric.merge_state(other)
    expected = minibatch_cka(batches)
    torch.testing.assert_close(metric.compute(), expected, rtol=1e-12, atol=1e-12, equal_nan=True)
    assert expected.isnan().tolist() == [[False] * 2, [False] * 2, [True] * 2]


def test_minibatches_that_cannot_be_used_are_refused():
    metric = MinibatchCKA(3, 2)
    x, y = draw(3, 12, 5), draw(2, 12, 4)
    with pytest.raises(
        ValueError, match=r"3 layers of `x` and 2 of `y`, as it was made for; got \(2, 12, 4\) and \(3,"
    ):
        metric.update(y, x)
    with pytest.raises(ValueError, match="same rows on both sides; got 12 of `x` and 11 of `y`"):
        metric.update(x, y[:, 1:])
    with pytest.raises(ValueError, match="Every minibatch expects at least 4 rows; got one of 3"):
        metric.update(x[:, :3], y[:, :3])
    metric.reset()
    metric._update_count = 1
    with pytest.raises(ValueError, match="at least one batch of at least 4 rows; none came"):
        metric.compute()
