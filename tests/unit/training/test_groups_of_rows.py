"""Rows of one group, such as of one text, are together in folds and halves; rows of no group are as without groups."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_tasks import planted_task
from probed_samples import FEW, probed

from probes.probe_measures.linear_refits import select_by_loss
from probes.probe_measures.nuisances.linear_fit import Labelled, fit_linear, main_score
from probes.training import TaskData, TaskProbes, fit_probes
from probes.training.selection import fold_of_rows
from probes.training.task_data import LabelledActivations
from probes.training.training_sets import half_weights
from probes.values import NO_READING, Activations

TEXTS, WIDTH = 160, 128
TWICE = torch.arange(TEXTS).repeat(2)
QUIET = {"bootstrap_samples": 0, "permutations": 0, "controls": 0}


def repeated() -> tuple[torch.Tensor, torch.Tensor]:
    """Each of 160 texts twice, with random labels."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(TEXTS, WIDTH, generator=generator)[TWICE], torch.randint(2, (TEXTS,), generator=generator)[TWICE]


def fitted(**settings: object) -> TaskProbes:
    generator = torch.Generator().manual_seed(1)
    test = {
        "x_test": torch.randn(50, WIDTH, generator=generator),
        "y_test": torch.randint(2, (50,), generator=generator),
    }
    return fit_probes(*repeated(), **test, **QUIET, **settings)


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_a_group_is_in_one_fold_and_classes_are_spread(kind):
    _, targets = repeated()
    values = {"classification": targets, "multilabel": targets[:, None].float(), "regression": targets + TWICE / 100}
    fold = fold_of_rows(kind, values[kind], 5, seed=0, groups=TWICE)
    assert torch.equal(fold[:TEXTS], fold[TEXTS:])
    assert torch.bincount(fold).tolist() == [64] * 5
    apart = fold_of_rows(kind, values[kind], 5, seed=0)
    assert (apart[:TEXTS] != apart[TEXTS:]).float().mean() > 0.6
    spread = values[kind].float()
    means = torch.stack([spread[fold == number].mean() for number in range(5)])
    assert (means - spread.mean()).abs().max() < 0.1 * spread.std()


def test_rows_that_are_groups_of_their_own_have_the_folds_and_halves_of_rows():
    targets, own = torch.arange(81) % 3, torch.randperm(81)
    plain = fold_of_rows("classification", targets, 5, seed=0)
    assert torch.equal(plain, fold_of_rows("classification", targets, 5, seed=0, groups=own))
    assert torch.equal(half_weights(81, 4, seed=0), half_weights(81, 4, seed=0, groups=own))
    data = planted_task(rows=(60, 20, 50))
    numbers = dict(zip(("train", "validation"), torch.arange(80).split([60, 20]), strict=True))
    assert torch.equal(
        select_by_loss(data, FEW, seed=0).logits, select_by_loss(replace(data, groups=numbers), FEW, seed=0).logits
    )


def test_a_group_that_holds_a_class_stays_in_training():
    targets, groups = (
        torch.tensor([0, 1] * 20 + [2, 2, 0]),
        torch.cat([torch.arange(20).repeat(2), torch.full((3,), 20)]),
    )
    fold = fold_of_rows("classification", targets, 5, seed=0, groups=groups)
    assert fold[-3:].tolist() == [-1] * 3
    assert (fold[:-3] >= 0).all()


def test_where_no_two_groups_can_be_held_out_they_are_ignored_with_a_warning(caplog):
    targets = torch.arange(40) % 2
    with caplog.at_level(logging.WARNING):
        fold = fold_of_rows("classification", targets, 5, seed=0, groups=targets)
    assert torch.equal(fold, fold_of_rows("classification", targets, 5, seed=0))
    assert "fewer than two" in caplog.text


def test_a_half_keeps_a_group_with_all_of_its_rows():
    weights = half_weights(2 * TEXTS, 6, seed=0, groups=TWICE)
    assert torch.equal(weights[:, :TEXTS], weights[:, TEXTS:])
    assert ((weights > 0).sum(1) == TEXTS).all()
    assert not torch.equal(*half_weights(2 * TEXTS, 6, seed=0).split(TEXTS, dim=1))


def test_equal_sentences_of_words_are_together_and_others_keep_the_folds_of_sentences():
    targets, sentences = torch.arange(40) % 2, torch.arange(10).repeat_interleave(4)
    options = {"kind": "classification", "targets": targets, "folds": 5, "seed": 0, "sentences": sentences}
    fold = fold_of_rows(**options, groups=sentences % 5)
    assert torch.equal(fold[:20], fold[20:])
    assert not torch.equal(*fold_of_rows(**options).split(20))
    assert torch.equal(fold_of_rows(**options), fold_of_rows(**options, groups=sentences))


def test_random_labels_of_repeated_texts_are_not_learnt_out_of_fold():
    leaking, honest = fitted(), fitted(groups=TWICE)
    of_leaking, of_honest = (fit.profile("macro_f1", split="validation").estimates for fit in (leaking, honest))
    assert of_leaking.values[0] > 0.85
    assert of_honest.values[0] < 0.65
    assert of_honest.n == 2 * TEXTS
    assert "cross-validation" in of_honest.remarks[0]


def test_rows_held_out_as_test_rows_share_no_group_with_training():
    x, y = repeated()
    fit = fit_probes(x, y, groups=TWICE, **QUIET)
    assert fit.profile("accuracy").estimates.n == 64
    assert fit.profile("accuracy").estimates.values[0] < 0.7
    assert fit_probes(x, y, **QUIET).profile("accuracy").estimates.values[0] > 0.85


def with_repeats() -> TaskData:
    (x, y), layers = repeated(), (0, 1)
    splits = {
        split: LabelledActivations(Activations(x[None, rows].expand(2, -1, -1), layers, ids[rows], NO_READING), y[rows])
        for split, rows in (("train", slice(None)), ("validation", slice(0, 0)), ("test", slice(0, 40)))
        for ids in [tuple(f"{split}{row}" for row in range(len(y)))]
    }
    return TaskData(task="repeated", kind="classification", labels=("a", "b"), **splits)


def test_measures_and_audits_keep_groups_together_too():
    leaking = with_repeats()
    honest = replace(leaking, groups={"train": TWICE, "validation": torch.empty(0, dtype=torch.long)})
    chosen = [select_by_loss(data, FEW, seed=0).chosen for data in (leaking, honest)]
    assert (chosen[0] < chosen[1]).all()  # only what is learnt by heart speaks for a small penalty
    scores = []
    for data in (leaking, honest):
        targets = {"train": data.train.targets, "validation": data.validation.targets}
        labelled = Labelled(data.kind, 2, targets, FEW, 0, data.groups_of("train"))
        fit = fit_linear({"train": data.train.values}, labelled, out_of_fold=True)
        scores.append(main_score(data.kind, fit.out_of_fold, targets["train"]).numpy())
    assert (scores[0] > scores[1] + 0.1).all()
    assert np.abs(scores[1] - 0.5).max() < 0.15
    assert probed().data.groups is None
