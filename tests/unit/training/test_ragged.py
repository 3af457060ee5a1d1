"""Rows with a vector for each of their tokens: cut, padded and batched."""

from __future__ import annotations

import pytest
import torch
from tensor_samples import draw

from probes.training.data_module import RowBatches, Rows
from probes.training.ragged import RaggedRows, concatenated_rows

LENGTHS = torch.tensor([3, 1, 4, 2, 5, 2])


def ragged(lengths: torch.Tensor = LENGTHS, *, layers: int = 2, features: int = 3) -> RaggedRows:
    return RaggedRows(draw(layers, int(lengths.sum()), features), lengths)


def test_some_rows_keep_their_tokens() -> None:
    rows = ragged()
    of_rows = rows.of_rows()
    some = rows.at(torch.tensor([4, 0, 4]))
    assert some.lengths.tolist() == [5, 3, 5]
    for vectors, row in zip(some.of_rows(), (4, 0, 4), strict=True):
        assert torch.equal(vectors, of_rows[row])
    assert torch.equal(rows.at(slice(1, 3)).tokens, torch.cat(of_rows[1:3], dim=1))
    assert torch.equal(rows.of_layers(slice(1, 2)).tokens, rows.tokens[1:])


def test_padding_is_zero_and_masked() -> None:
    values, mask = ragged().padded()
    assert values.shape == (2, 6, 5, 3)
    assert mask.sum(1).tolist() == LENGTHS.tolist()
    assert (values[:, ~mask] == 0).all()
    assert torch.equal(values[:, mask], ragged().tokens)


def test_parts_are_put_together() -> None:
    rows = ragged()
    parts = concatenated_rows([rows.at(slice(0, 2)), rows.at(slice(2, 6))])
    assert isinstance(parts, RaggedRows)
    assert torch.equal(parts.tokens, rows.tokens)
    assert parts.shape == (2, 6, 3)


def test_lengths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 rows of 5 tokens"):
        RaggedRows(torch.zeros(1, 4, 2), torch.tensor([2, 3]))


def test_each_row_is_in_one_batch_with_targets_cut_to_its_longest_row() -> None:
    lengths = torch.randint(1, 30, (300,), generator=torch.Generator().manual_seed(0))
    targets = torch.arange(300.0)[None, :, None].expand(1, -1, 30)
    rows = Rows(ragged(lengths), targets, torch.ones(1, 300), token_axes=1)
    batches = RowBatches(rows, 8, shuffle_seed=0)
    orders, padded = [], 0
    for _ in range(2):
        seen = []
        for batch in batches:
            assert batch.mask is not None
            assert batch.values.shape[2] == batch.targets.shape[2] == batch.mask.sum(1).max()
            seen += batch.targets[0, :, 0].int().tolist()
            padded += batch.mask.numel()
        assert sorted(seen) == list(range(300))
        orders.append(seen)
    assert orders[0] != orders[1]
    assert padded < 1.4 * 2 * lengths.sum()  # with rows in random order, 1.8
