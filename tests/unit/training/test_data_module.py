from __future__ import annotations

import pytest
import torch

from probes.architectures import MultiMaxProbe
from probes.training.bank.minibatch_module import row_loss_for
from probes.training.bank.probe_bank import ProbeBank
from probes.training.data_module import ActivationDataModule, LayerBatches, RowBatches, Rows
from probes.training.ragged import RaggedRows


def rows(count, *, layers=3, controls=1):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(layers, count, 6, generator=generator) * 3 + 1
    targets = torch.randint(2, (1 + controls, count), generator=generator)
    return Rows(values, targets, torch.ones(targets.shape))


def test_each_pass_serves_every_row_once_in_an_order_that_the_seed_decides():
    data = rows(50)
    seen = [torch.cat([batch.values[0, :, 0] for batch in RowBatches(data, 16, shuffle_seed=s)]) for s in (0, 0, 1)]
    assert torch.equal(seen[0].sort().values, data.values[0, :, 0].sort().values)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    batches = RowBatches(data, 16, shuffle_seed=0)
    assert not torch.equal(next(iter(batches)).values, next(iter(batches)).values)


@pytest.mark.parametrize("shuffle_seed", [None, 0])
def test_rows_in_order_are_served_as_views_and_shuffled_rows_are_copied(shuffle_seed):
    data = rows(60)
    parts = [list(RowBatches(data, 16, shuffle_seed=shuffle_seed, rank=rank, world_size=3)) for rank in range(3)]
    for number, start in enumerate(range(0, 60, 16)):
        for rank in range(3):
            in_order = slice(start + rank, min(start + 16, 60), 3)
            batch = parts[rank][number]
            assert (batch.values.data_ptr() == data.values[:, in_order].data_ptr()) == (shuffle_seed is None)
            if shuffle_seed is None:
                assert torch.equal(batch.values, data.values[:, in_order])
                assert torch.equal(batch.targets, data.targets[:, in_order])


def test_the_mean_over_processes_is_the_mean_over_the_whole_batch():
    data = rows(50)

    def mean(batch):
        return (batch.values * batch.weights[0, :, None]).sum() * batch.mean_factor

    whole = [mean(batch) for batch in RowBatches(data, 16, shuffle_seed=0)]
    by_rank = []
    for rank in range(3):
        batches = RowBatches(data, 16, shuffle_seed=0, rank=rank, world_size=3)
        by_rank.append(torch.stack([mean(batch) for batch in batches]))
    assert torch.allclose(torch.stack(by_rank).mean(0), torch.stack(whole), rtol=1e-4)


def test_gradients_are_those_of_one_process_where_the_last_batch_has_fewer_rows_than_processes():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.arange(33) % 4 + 1
    tokens = torch.randn(2, int(lengths.sum()), 6, generator=generator)
    targets, weights = torch.randint(2, (1, 33), generator=generator), torch.rand(1, 33, generator=generator)
    rows = Rows(RaggedRows(tokens, lengths), targets, weights)
    bank = ProbeBank(MultiMaxProbe, 6, 2, layers=(0, 1))

    def gradients(rank: int, world_size: int) -> torch.Tensor:
        of_batches = []
        for batch in RowBatches(rows, 16, shuffle_seed=0, rank=rank, world_size=world_size):
            bank.zero_grad()
            losses = bank.losses(batch.values, batch.targets, row_loss_for("classification"), mask=batch.mask)
            ((losses * batch.weights).sum() * batch.mean_factor).backward()
            of_batches.append(torch.cat([parameter.grad.flatten() for parameter in bank.parameters()]))
        return torch.stack(of_batches)

    of_one = gradients(0, 1)
    assert of_one.shape[0] == 3
    assert of_one[-1].abs().max() > 0
    by_rank = torch.stack([gradients(rank, 3) for rank in range(3)])
    torch.testing.assert_close(by_rank.mean(0), of_one)
    assert by_rank[:, -1].abs().amax(1).count_nonzero() == 1  # the last batch has one row, which one process reads


def test_layer_batches_hold_all_rows_of_every_layer_once():
    data = rows(20, layers=5)
    batches = list(LayerBatches(data, 2))
    assert [batch.first_layer for batch in batches] == [0, 2, 4]
    assert torch.equal(torch.cat([batch.values for batch in batches]), data.values)
    assert all(batch.targets is data.targets for batch in batches)
    assert len(LayerBatches(data, 2)) == 3


def test_a_data_module_serves_rows_or_layers_and_all_validation_rows():
    train, validation = rows(20), rows(10)
    by_rows = ActivationDataModule(train, validation, batch_size=8)
    assert isinstance(by_rows.train_dataloader(), RowBatches)
    (batch,) = by_rows.val_dataloader()
    assert torch.equal(batch.values, validation.values)
    by_layers = ActivationDataModule(train, layers_per_batch=2)
    assert isinstance(by_layers.train_dataloader(), LayerBatches)
    assert by_layers.val_dataloader() == []
