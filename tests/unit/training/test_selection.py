from __future__ import annotations

import itertools

import torch

from probes.training.selection import fold_of_rows, with_shuffled_controls

TARGETS = torch.tensor([0] * 50 + [1] * 25 + [2] * 5)


def test_folds_hold_every_class_evenly():
    fold = fold_of_rows("classification", TARGETS, 5, seed=0)
    for k, share in ((0, 10), (1, 5), (2, 1)):
        assert torch.bincount(fold[TARGETS.eq(k)], minlength=5).tolist() == [share] * 5


def test_the_only_row_of_a_class_is_in_no_fold():
    fold = fold_of_rows("classification", torch.cat([TARGETS, torch.tensor([3])]), 5, seed=0)
    assert fold[-1] == -1
    assert (fold[:-1] >= 0).all()


def test_every_fold_of_a_regression_task_spans_the_range_of_targets():
    targets = torch.arange(100.0)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    fold = fold_of_rows("regression", targets, 5, seed=0)
    assert torch.bincount(fold).tolist() == [20] * 5
    assert all(abs(float(targets[fold == f].mean()) - 49.5) < 1.5 for f in range(5))


def test_rows_with_the_same_set_of_labels_are_spread_evenly_over_folds():
    targets = torch.tensor([[0, 1]] * 10 + [[1, 1]] * 10 + [[1, 0]] * 5).float()
    fold = fold_of_rows("multilabel", targets, 5, seed=0)
    assert all(targets[fold == f].sum(0).tolist() == [3, 4] for f in range(5))


def test_the_seed_decides_and_zero_is_a_seed():
    for assign in (
        lambda seed: fold_of_rows("classification", TARGETS, 5, seed=seed),
        lambda seed: with_shuffled_controls(TARGETS, 2, seed=seed, split="train"),
    ):
        assert torch.equal(assign(0), assign(0))
        assert not torch.equal(assign(0), assign(1))


def test_controls_are_the_true_labels_in_other_orders():
    with_controls = with_shuffled_controls(TARGETS, 3, seed=0, split="train")
    assert torch.equal(with_controls[0], TARGETS)
    assert (with_controls.sort(1).values == TARGETS.sort().values).all()
    agreement = [float((a == b).float().mean()) for a, b in itertools.combinations(with_controls, 2)]
    assert max(agreement) < 0.75
    assert not torch.equal(with_controls, with_shuffled_controls(TARGETS, 3, seed=0, split="test"))
