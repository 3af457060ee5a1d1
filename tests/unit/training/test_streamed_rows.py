"""Rows on disk: statistics of one pass, blocks of any subset, and an order that reads few files at a time."""

from __future__ import annotations

import pytest
import torch

from probes.training import StreamedRows, TensorRows
from probes.training.bank.probe_module import Standardiser


@pytest.fixture
def values() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(2, 101, 5, generator=generator) + 1000
    x[:, :, 4] = 7.0  # varies nowhere
    return x


def test_statistics_of_one_pass_are_those_of_all_rows(values):
    streamed = StreamedRows(TensorRows(values, 16), most_bytes=400)
    ours, constant = Standardiser.of(streamed)
    theirs, expected = Standardiser.of(values)
    assert torch.allclose(ours.mean, theirs.mean)
    assert torch.allclose(ours.deviation, theirs.deviation, rtol=1e-5)
    assert constant.tolist() == expected.tolist() == [False, False]
    assert Standardiser.of(StreamedRows(TensorRows(values[:, :, 4:])))[1].all()


def test_blocks_hold_every_row_of_a_subset_once(values):
    rows = torch.tensor([90, 3, 17, 60, 4])
    streamed = StreamedRows(TensorRows(values, 16), most_bytes=80).at(rows).of_layers(torch.tensor([1]))
    assert streamed.shape == (1, 5, 5)
    assert torch.equal(streamed.read(), values[1:][:, rows])
    seen = []
    for places, block in streamed.blocks():
        assert torch.equal(block, values[1:][:, rows[places]])
        seen += places.tolist()
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_an_order_has_every_row_once_and_depends_on_the_seed(values):
    streamed = StreamedRows(TensorRows(values, 2))
    one, again, other = (streamed.shuffled(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(one.sort().values, torch.arange(101))
    files = [set((one[i : i + 32] // 2).tolist()) for i in range(0, 96, 32)]
    assert all(len(of_batch) <= 17 for of_batch in files)  # a random order would touch about 27 of the 51


def test_activations_that_are_not_finite_are_refused(values):
    values[1, 50, 2] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        StreamedRows(TensorRows(values, 16)).statistics()
