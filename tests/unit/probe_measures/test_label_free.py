"""The panel of label-free quantities: what the study has to read for it, and what it makes of that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussian_rows import draw_float32
from planted_tasks import planted_task
from probed_samples import probed, profiles_of
from scipy.stats import spearmanr

from probes.probe_measures import LabelFreePanel
from probes.probe_measures.label_free.panel import alter


def with_copies(task, noise: tuple[float, ...]):
    """Two altered copies, whose activations differ from the task's by so much noise at each layer."""
    copies = {}
    for number in range(2):
        moved = draw_float32(4, 160, 10, seed=number) * 4 * torch.tensor(noise)[:, None, None]
        test = task.data.test.activations
        altered = replace(test, values=test.values + moved)
        copies[f"altered copy {number}"] = replace(task.data, test=task.data.test._replace(activations=altered))
    return replace(task, variants=copies)


def test_layers_that_recognise_altered_copies_have_larger_values():
    task = with_copies(probed(), (0.05, 2.0, 0.05, 2.0))
    found = profiles_of(LabelFreePanel(texts=60, tokens=False)(task))
    for name in ("info_nce", "dime", "lidar"):
        estimates = found[f"label_free/{name}"].estimates
        if name != "lidar":  # counts directions, however clear they are
            assert estimates.values[[0, 2]].min() > estimates.values[[1, 3]].max()
        assert estimates.n == 60
        assert (np.square(estimates.errors).sum(0) > 0).all()


def test_correlations_over_layers_are_spearmans_with_the_scores():
    task = with_copies(probed(), (0.5, 1.0, 0.1, 2.0))
    found = profiles_of(LabelFreePanel(texts=60, tokens=False)(task))
    scores = task.fit.profile("macro_f1").estimates.values
    expected = spearmanr(found["label_free/info_nce"].estimates.values, scores).statistic
    correlation = found["score_correlation/info_nce"]
    assert correlation.estimates.values.item() == pytest.approx(expected)
    assert correlation.layers == (None,)


def test_quantities_of_tokens_are_means_over_prompts_that_are_long_enough():
    paths = {"prompt_entropy": torch.rand(4, 9).double(), "token_curvature": torch.rand(4, 9).double()}
    paths["token_curvature"][:, 2] = torch.nan  # a prompt of two tokens
    found = profiles_of(LabelFreePanel(copies=0)(replace(probed(), token_paths=paths)))
    assert found["label_free/prompt_entropy"].estimates.n == 9
    curvature = found["label_free/token_curvature"].estimates
    assert curvature.n == 8
    np.testing.assert_allclose(curvature.values, paths["token_curvature"].nanmean(1))


def test_without_passes_for_it_there_is_no_panel():
    assert list(LabelFreePanel()(probed())) == []
    assert LabelFreePanel(tokens=False).token_texts == 0
    assert LabelFreePanel(texts=7).token_texts == 7


def test_only_some_test_prompts_are_altered_and_each_copy_differently():
    task = probed(planted_task(rows=(60, 20, 40))).task
    variants = LabelFreePanel(texts=10, copies=2, altered_share=0.2).variants(task)
    original = task.splits["test"].prompts
    first, second = (variant.splits["test"].prompts for variant in variants.values())
    assert [a != b for a, b in zip(first, original, strict=True)].count(True) >= 8
    assert first[10:] == original[10:]
    assert first != second
    for variant in variants.values():
        assert variant.splits["train"] is task.splits["train"]
        assert variant.splits["test"].labels == task.splits["test"].labels


def test_altering_is_seeded_and_changes_few_characters():
    text = "The tenants never assisted my doctors though their sister obviously ignores their champion."
    once = alter(text, 0.05, seed=3)
    assert once == alter(text, 0.05, seed=3) != alter(text, 0.05, seed=4)
    assert abs(len(once) - len(text)) <= 5
    assert alter("a", 0.5, seed=0) == "a"
