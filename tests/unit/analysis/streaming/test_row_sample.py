from collections import Counter
from functools import partial

import pytest
import torch
from gaussian_rows import draw_float32

from probes.analysis.between_tasks.separability import silhouette
from probes.analysis.geometry.point_cloud import two_nn
from probes.analysis.similarity.neighbours import neighbour_overlap
from probes.analysis.similarity.rbf_cka import rbf_cka
from probes.analysis.streaming import RowSample, SampledMeasure

IDS = [f"row {index}" for index in range(100)]


def fed(sample: RowSample, order: torch.Tensor, rows_per_batch: int, *streams: torch.Tensor) -> RowSample:
    for chosen in order.split(rows_per_batch):
        parts = [stream[:, chosen] if stream.ndim == 3 else stream[chosen] for stream in streams]
        sample.update([IDS[index] for index in chosen.tolist()], *parts)
    return sample


def kept(sample: RowSample) -> list[int]:
    """Which rows were kept, of a sample whose last stream is their numbers."""
    return sample.compute()[-1].tolist()


def test_the_sample_depends_on_neither_order_nor_batches_nor_ranks():
    numbers = torch.arange(100)
    expected = kept(fed(RowSample(20, 0, num_streams=1), numbers, 100, numbers))
    assert len(set(expected)) == 20
    shuffled = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    for order, rows in ((numbers, 7), (numbers.flip(0), 1), (shuffled, 33)):
        assert kept(fed(RowSample(20, 0, num_streams=1), order, rows, numbers)) == expected
    ranks = [fed(RowSample(20, 0, num_streams=1), shuffled[start::2], 9, numbers) for start in (0, 1)]
    ranks[0].merge_state(ranks[1])
    assert kept(ranks[0]) == expected
    assert (ranks[0].num_rows_used, ranks[0].num_rows_seen) == (20, 100)


def test_compute_gathers_the_rows_of_all_ranks_and_each_rank_keeps_its_sample():
    numbers, x = torch.arange(100), draw_float32(2, 100, 3)
    one, two = (fed(RowSample(20, 0), numbers[start::2], 9, x, numbers) for start in (0, 1))
    position = iter([torch.cat(state) if isinstance(state, list) else state for state in two.metric_state.values()])
    one.dist_sync_fn = lambda tensor, group=None: [tensor, next(position)]
    one.distributed_available_fn = lambda: True
    joined_x, joined = one.compute()
    assert joined.tolist() == kept(fed(RowSample(20, 0, num_streams=1), numbers, 100, numbers))
    assert torch.equal(joined_x, x[:, joined])
    assert one.num_rows_seen == 50
    assert all(number % 2 == 0 for number in one.sample()[1].tolist())


def test_streams_keep_the_same_rows():
    x, y, labels = draw_float32(2, 100, 3), draw_float32(4, 100, 5, seed=1), torch.arange(100)
    sampled_x, sampled_y, rows = fed(RowSample(30, 5, num_streams=3), labels, 13, x, y, labels).compute()
    assert torch.equal(sampled_x, x[:, rows])
    assert torch.equal(sampled_y, y[:, rows])
    assert rows.dtype == torch.int64
    assert sampled_x.dtype == torch.float32


def test_every_row_is_equally_likely_and_seeds_give_different_samples():
    numbers = torch.arange(100)
    samples = [kept(fed(RowSample(20, seed, num_streams=1), numbers, 100, numbers)) for seed in range(400)]
    counts = Counter(number for sample in samples for number in sample)
    chi_square = sum((counts[number] - 80) ** 2 / (80 * 0.8) for number in range(100))
    assert 60 < chi_square < 145
    assert samples[0] != samples[1]


def test_fewer_rows_than_asked_for_are_all_kept():
    numbers = torch.arange(100)
    sample = fed(RowSample(500, 0, num_streams=1), numbers, 10, numbers)
    assert sorted(kept(sample)) == numbers.tolist()
    assert (sample.num_rows_used, sample.num_rows_seen) == (100, 100)


def test_a_row_that_comes_twice_is_kept_once():
    numbers = torch.arange(100)
    twice = fed(RowSample(20, 0, num_streams=1), torch.cat([numbers, numbers[:30]]), 17, numbers)
    assert kept(twice) == kept(fed(RowSample(20, 0, num_streams=1), numbers, 100, numbers))
    assert twice.num_rows_seen == 130
    few = fed(RowSample(20, 0, num_streams=1), numbers[:5].repeat(3), 4, numbers)
    assert (sorted(kept(few)), few.num_rows_used) == ([0, 1, 2, 3, 4], 5)


def test_integer_ids_are_the_same_in_a_list_and_a_tensor():
    numbers = torch.arange(100)
    listed, tensor = RowSample(20, 0, num_streams=1), RowSample(20, 0, num_streams=1)
    listed.update(numbers.tolist(), numbers)
    tensor.update(numbers, numbers)
    assert kept(listed) == kept(tensor)


def test_memory_holds_no_more_than_the_sample():
    sample = RowSample(10, 0, num_streams=1)
    source = draw_float32(2, 100, 3)
    for start in range(0, 100, 20):
        sample(IDS[start : start + 20], source[:, start : start + 20])
        (held,) = sample.stream_0
        assert len(held) == 10
        assert held.untyped_storage().nbytes() == 10 * 2 * 3 * 4
    assert sample.num_rows_seen == 100


@pytest.mark.parametrize(
    ("function", "second"),
    [
        (rbf_cka, draw_float32(2, 100, 4, seed=1)),
        (partial(neighbour_overlap, k=3), draw_float32(2, 100, 4, seed=1)),
        (silhouette, torch.arange(100) % 3),
    ],
)
def test_a_sampled_measure_is_the_measure_of_the_sample(function, second: torch.Tensor):
    x = draw_float32(2, 100, 6)
    metric = fed(SampledMeasure(function, 40, 3), torch.arange(100), 15, x, second)
    rows = torch.tensor(kept(fed(RowSample(40, 3, num_streams=1), torch.arange(100), 100, torch.arange(100))))
    expected = function(x[:, rows], second[:, rows] if second.ndim == 3 else second[rows])
    assert torch.equal(metric.compute(), expected)
    assert (metric.num_rows_used, metric.num_rows_seen) == (40, 100)


def test_a_measure_of_all_rows_is_the_measure_of_the_stream():
    x = draw_float32(2, 100, 6)
    metric = fed(SampledMeasure(two_nn, 100, 0, num_streams=1), torch.arange(100), 15, x)
    torch.testing.assert_close(metric.compute(), two_nn(x), rtol=1e-9, atol=0)
    metric.reset()
    assert (metric.num_rows_used, metric.num_rows_seen) == (0, 0)


@pytest.mark.parametrize("sample", [RowSample(20, 0), SampledMeasure(rbf_cka, 20, 0)])
def test_too_few_rows_are_refused_with_their_number(sample: RowSample):
    sample.update(["a", "b", "c", "a"], draw_float32(1, 4, 2), draw_float32(1, 4, 2))
    with pytest.raises(ValueError, match=f"{type(sample).__name__} expects at least 4 rows; 3 came"):
        sample.compute()


def test_a_sample_of_fewer_than_4_rows_is_refused():
    with pytest.raises(ValueError, match="`max_rows` of at least 4 and `num_streams` of at least 1; got 3 and 2"):
        RowSample(3, 0)
    with pytest.raises(ValueError, match="got 20 and 0"):
        RowSample(20, 0, num_streams=0)


def test_batches_that_do_not_fit_are_refused():
    x, labels = draw_float32(2, 6, 3), torch.arange(6)
    sample = RowSample(20, 0)
    sample.update(IDS[:6], x, labels)
    with pytest.raises(ValueError, match="expects 2 streams after the row ids; got 1"):
        sample.update(IDS[:6], x)
    with pytest.raises(ValueError, match="one id for each row; got 6 row ids and 5 rows of stream 1"):
        sample.update(IDS[:6], x, labels[1:])
    with pytest.raises(ValueError, match=r"`stream 1` expects \(layers, rows, features\) or \(rows,\); got \(6, 1\)"):
        sample.update(IDS[:6], x, labels[:, None])
    with pytest.raises(
        ValueError, match=r"`stream 0` came with \(layers, features\) = \(2, 3\) before; now with \(2, 2\)"
    ):
        sample.update(IDS[:6], x[..., :2], labels)
    with pytest.raises(ValueError, match="1 of the 6 rows of a batch of `stream 0` hold NaN"):
        sample.update(IDS[:6], x.index_fill(1, torch.tensor([2]), torch.nan), labels)
    assert sample.num_rows_seen == 6


def test_an_empty_batch_changes_nothing():
    x, labels = draw_float32(2, 6, 3), torch.arange(6)
    sample = RowSample(20, 0)
    sample.update([], x[:, :0], labels[:0])
    sample.update(IDS[:6], x, labels)
    sample.update([], x[:, :0], labels[:0])
    assert sample.num_rows_used == 6
