"""Features of nuisances, residuals, strata and verdicts, each against a plain reference or its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from probes.metrics import RowGroups
from probes.probe_measures import nuisances
from probes.probe_measures.main_scores import Scored, main_score_estimates
from probes.probe_measures.nuisances.features import BLOCK_NORM, NUISANCES, NuisanceGroup
from probes.probe_measures.nuisances.linear_fit import Labelled, fit_linear
from probes.probe_measures.nuisances.residuals import hat_matrix, residuals
from probes.probe_measures.nuisances.strata import strata_of, within_strata
from probes.probe_measures.nuisances.verdicts import verdict_of
from probes.tasks import Split, Task
from probes.training import ProbeSettings


def task(prompts: list[str], **columns: list) -> Task:
    rows = Split(tuple(prompts), tuple(i % 2 for i in range(len(prompts))), ("",) * len(prompts), columns=columns)
    return Task("toy", "classification", ("no", "yes"), dict.fromkeys(("train", "validation", "test"), rows))


def names(own: Task) -> list[str]:
    return [group.name for group in nuisances.nuisances_of(own)]


def test_only_what_varies_is_a_nuisance():
    assert names(task(["the same text"] * 8)) == []
    assert "last word" not in names(task([f"{word} end." for word in ("one", "two", "six", "ten") for _ in range(3)]))
    assert "last word" in names(task([f"end {word}" for word in ("one", "two", "six", "ten") for _ in range(3)]))
    assert "last word" in names(task([f"end{mark}" for mark in ".?" for _ in range(6)]))


def test_nuisances_of_texts_are_those_that_an_audit_can_leave_out():
    prompts = [f"{first} {'so ' * (i % 3)}end{'.?'[i % 2]}" for i, first in enumerate("abcd" * 6)]
    found = names(task(prompts))
    assert len(found) == 5
    assert set(found) < set(NUISANCES)


def test_templates_are_what_many_prompts_begin_or_end_with():
    frames = ["Is it so that {}?", "Say whether {} holds."]
    prompts = [frames[i % 2].format(f"a{i} b{i} c{i} d{i}") for i in range(200)]
    (template,) = [group for group in nuisances.nuisances_of(task(prompts)) if group.name == "template"]
    assert len(template.features["train"].unique(dim=0)) == 2
    assert "template" not in names(task([f"a{i} b{i} c{i} d{i}" for i in range(200)]))


def test_columns_of_numbers_are_lengths_and_others_are_categories():
    own = task([f"word{i}" for i in range(60)], year=list(range(60)), source=["x", "y", "z"] * 20)
    groups = {group.name: group.features["train"] for group in nuisances.nuisances_of(own)}
    assert groups["source"].shape == (60, 3)
    assert groups["year"].shape == (60, 4)  # piecewise linear with three knots
    for features in groups.values():
        assert features.square().sum(1).mean().item() == pytest.approx(BLOCK_NORM, rel=1e-4)


def test_the_hat_matrix_predicts_as_ridge_regression_does():
    rng = np.random.default_rng(0)
    fitted, others, values = rng.normal(size=(50, 7)), rng.normal(size=(9, 7)), rng.normal(size=(50, 4))
    expected = Ridge(alpha=1.0).fit(fitted, values).predict(others)
    found = hat_matrix(torch.from_numpy(fitted), torch.from_numpy(others)) @ torch.from_numpy(values)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)


def group(rows: dict[str, torch.Tensor], *, is_large: bool = False) -> NuisanceGroup:
    return NuisanceGroup("g", rows, is_large)


def test_what_follows_from_a_nuisance_is_removed_and_the_rest_is_kept():
    generator = torch.Generator().manual_seed(0)
    features, values, kept = {}, {}, {}
    for split, rows in {"train": 200, "validation": 50, "test": 100}.items():
        features[split] = 5 * torch.randn(rows, 4, generator=generator)
        kept[split] = torch.randn(2, rows, 6, generator=generator)
        values[split] = features[split] @ torch.ones(4, 6) + kept[split]
    found = residuals(values, [group(features)], torch.arange(200) % 5)
    for split in ("train", "test"):
        assert (found.values[split] - kept[split]).square().mean() < 0.06  # an error of 4 / 160 is expected
    assert (found.explained > 0.97).all()


def test_a_training_row_has_no_part_in_its_own_correction():
    generator = torch.Generator().manual_seed(0)
    features = {split: torch.randn(40, 3, generator=generator) for split in ("train", "validation", "test")}
    values = {split: torch.randn(1, 40, 2, generator=generator) for split in features}
    fold = torch.arange(40) % 4
    before = residuals(values, [group(features)], fold).values["train"]
    values["train"] = values["train"].clone()
    values["train"][0, 0] += 100  # in fold 0
    after = residuals(values, [group(features)], fold).values["train"]
    torch.testing.assert_close(after[0, 0] - before[0, 0], torch.full((2,), 100.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(after[0, 4::4], before[0, 4::4])  # the rest of the fold
    assert not torch.allclose(after[0, 1::4], before[0, 1::4])


def test_words_that_tell_nothing_of_activations_are_not_regressed_out():
    generator = torch.Generator().manual_seed(0)
    features = {split: torch.randn(100, 300, generator=generator) / 1.7 for split in ("train", "validation", "test")}
    values = {split: torch.randn(1, 100, 5, generator=generator) for split in features}
    found = residuals(values, [group(features, is_large=True)], torch.arange(100) % 5)
    ratio = found.values["test"].square().mean() / values["test"].square().mean()
    assert ratio.item() == pytest.approx(1, abs=0.05)


def test_covariates_that_tell_the_label_leave_nothing_to_learn_of_it():
    generator = torch.Generator().manual_seed(0)
    targets = {split: torch.arange(rows) % 2 for split, rows in {"train": 200, "validation": 100}.items()}
    x = {split: torch.randn(1, len(y), 10, generator=generator) + y[None, :, None] for split, y in targets.items()}
    labelled = Labelled("classification", 2, targets, ProbeSettings(penalties=(0.01,), min_validation_rows=50), 0)
    free = fit_linear(x, labelled)
    told = fit_linear(x, labelled, covariates=(2.0 * targets["train"] - 1)[:, None])
    assert told.weights.norm() < 0.1 * free.weights.norm()
    useless = fit_linear(x, labelled, covariates=torch.randn(200, 1, generator=generator))
    assert useless.weights.norm() > 0.9 * free.weights.norm()


def test_probes_without_a_penalty_are_audited_at_the_penalties_of_linear_ones_and_say_if_they_do_not_converge():
    generator = torch.Generator().manual_seed(0)
    targets = {split: torch.arange(rows) % 2 for split, rows in {"train": 60, "validation": 60}.items()}
    x = {split: torch.randn(1, len(y), 80, generator=generator) for split, y in targets.items()}  # separable
    fits = {}
    for settings in (
        ProbeSettings(min_validation_rows=50),
        ProbeSettings(min_validation_rows=50, penalties=(0.0,), fit="minibatch"),
        ProbeSettings(min_validation_rows=50, max_iterations=1),
    ):
        labelled = Labelled("classification", 2, targets, settings, 0)
        fits[settings.penalties, settings.max_iterations] = fit_linear(x, labelled, out_of_fold=True)
    linear, mlp, stopped = fits.values()
    torch.testing.assert_close(mlp.weights, linear.weights, rtol=0, atol=0)
    torch.testing.assert_close(mlp.out_of_fold, linear.out_of_fold, rtol=0, atol=0)
    assert linear.remarks == mlp.remarks == ("",)
    assert stopped.remarks[0].startswith("not converged")


def test_strata_hold_rows_of_one_prediction_and_about_equal_confidence():
    logits = torch.tensor([[0.0, k] for k in (1.0, 2.0, 3.0, -1.0, -2.0, -3.0)])
    assert strata_of("classification", logits).tolist() == [3, 4, 5, 0, 1, 2]
    assert strata_of("regression", torch.arange(12.0)[:, None]).tolist() == [k for k in range(6) for _ in range(2)]


def test_a_score_that_comes_from_the_strata_alone_is_at_the_chance_of_its_strata():
    targets = torch.arange(400) % 2
    strata = targets.clone()
    strata[::5] = 1 - strata[::5]  # a stratum tells four of five labels
    logits = torch.nn.functional.one_hot(strata, 2).float()[None]
    settings = {"resamples": 50, "permutations": 50, "seed": 0}
    found = within_strata("classification", logits, targets, strata, **settings)
    assert found.values[0] == pytest.approx(found.null.mean())
    right = torch.nn.functional.one_hot(targets, 2).float()[None]
    assert within_strata("classification", right, targets, strata, **settings).values[0] == 1.0
    alone = within_strata("classification", logits, targets, targets, **settings)
    assert np.isnan(alone.values).all()
    assert "one label alone" in alone.note


def test_words_in_one_stratum_have_the_interval_of_their_main_score():
    generator = torch.Generator().manual_seed(0)
    sentences, targets = torch.arange(400) // 20, torch.arange(400) % 2
    right = torch.rand(400, generator=generator) < 0.8
    logits = torch.nn.functional.one_hot(torch.where(right, targets, 1 - targets), 2).float()[None]
    settings = {"resamples": 500, "permutations": 10, "seed": 0, "groups": RowGroups(sentences, "sentences")}
    found = within_strata("classification", logits, targets, torch.zeros_like(targets), **settings)
    main = main_score_estimates("classification", logits, targets, **settings)
    assert found.values[0] == pytest.approx(main.values[0])
    assert found.interval is not None
    np.testing.assert_allclose(found.interval, main.interval, atol=0.02)
    assert np.diff(found.interval, axis=0).item() < 0.12  # of 20 rows it would be 0.3 wide


def test_labels_have_strata_of_their_own_and_equal_weights():
    nuisance = torch.tensor([[0.1, -3.0], [2.0, -1.0], [-1.0, -2.0], [-5.0, 4.0], [1.0, 5.0], [-2.0, 6.0]])
    strata = strata_of("multilabel", nuisance)
    assert strata.tolist() == [[3, 2], [5, 0], [0, 1], [2, 3], [4, 4], [1, 5]]

    targets = torch.stack([torch.arange(400) % 2, torch.arange(400) // 8 % 2], dim=1).float()
    strata = torch.stack([(torch.arange(400) % 5 > 0).long(), targets[:, 1].long()], dim=1)
    settings = {"resamples": 50, "permutations": 50, "seed": 0}
    logits = (2 * targets - 1)[None].repeat(2, 1, 1)
    logits[1, :, 0] *= -1
    found = within_strata("multilabel", logits, targets, strata, **settings)
    assert found.values.tolist() == [1.0, 0.0]  # the second label varies in no stratum, so that it counts for nothing
    both = within_strata("multilabel", logits, targets, strata[:, [0, 0]], **settings)
    assert both.values.tolist() == [1.0, 0.5]
    assert both.null.mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("raw", "residual", "alone", "word"),
    [
        ((0.9, 0.001), (0.85, 0.001), (0.9, 0.001), "stands"),
        ((0.9, 0.001), (0.52, 0.3), (0.85, 0.001), "explained by length"),
        ((0.9, 0.001), (0.52, 0.3), (0.55, 0.1), "stands"),
        ((0.9, 0.001), (0.52, 0.3), (0.65, 0.001), "not identifiable"),
        ((1.0, 0.001), (0.9, 0.001), (0.96, 0.001), "not identifiable"),
        ((0.56, 0.04), (0.52, 0.3), (0.54, 0.2), "not identifiable"),
        ((0.53, 0.2), (0.5, 0.5), (0.9, 0.001), ""),
        ((0.9, 0.001), (0.33, float("nan")), (0.85, 0.001), "explained by length"),
    ],
)
def test_verdicts_follow_their_rules(raw, residual, alone, word):
    scored = [Scored(value, 0.5, p) for value, p in (raw, residual, alone)]
    assert verdict_of(*scored, "length").word == word
