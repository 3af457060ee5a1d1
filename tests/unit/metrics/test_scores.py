"""Point values against torchmetrics and scikit-learn, draws against a loop that resamples rows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sklearn_metrics
from torch import Tensor
from torchmetrics import functional as torchmetrics

from probes.metrics import (
    MAIN_METRIC,
    METRICS,
    UNITS,
    TargetKind,
    bootstrap_counts,
    majority_logits,
    score_rows,
)

LAYERS, ROWS = 3, 60


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(high: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def case(kind: TargetKind, classes: int) -> tuple[Tensor, Tensor]:
    """Logits that follow the targets at the first two layers, and the targets; of numbers, both sides have ties."""
    if kind == "classification":
        logits, targets = normal(LAYERS, ROWS, classes), integers(classes, ROWS)
        logits[:2] += 2 * torch.nn.functional.one_hot(targets, classes)
    elif kind == "multilabel":
        logits, targets = normal(LAYERS, ROWS, classes), integers(2, ROWS, classes).float()
        logits[:2] += 2 * targets - 1
    else:
        targets = normal(ROWS, seed=2).round(decimals=1)
        logits = (normal(LAYERS, ROWS, 1) + targets[:, None]).round(decimals=1)
    return logits, targets


CASES: list[tuple[TargetKind, int]] = [
    ("classification", 2),
    ("classification", 4),
    ("classification", 12),
    ("multilabel", 3),
    ("regression", 1),
]


def by_torchmetrics(kind: TargetKind, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Every metric of one layer's logits, shape `(rows, classes)`."""
    classes = logits.shape[-1]
    if kind == "classification":
        f = torchmetrics.classification
        scores = {
            "accuracy": f.multiclass_accuracy(logits, targets, classes, average="micro"),
            "macro_f1": f.multiclass_f1_score(logits, targets, classes, average="macro"),
            "cross_entropy_bits": torch.nn.functional.cross_entropy(logits, targets) / math.log(2),
        }
        if classes >= 10:
            scores["top_5_accuracy"] = f.multiclass_accuracy(logits, targets, classes, average="micro", top_k=5)
        if classes == 2:
            scores["auroc"] = f.binary_auroc(logits.softmax(-1)[:, 1], targets)
        return scores
    if kind == "multilabel":
        f, labels = torchmetrics.classification, targets.long()
        return {
            "subset_accuracy": f.multilabel_exact_match(logits.sigmoid(), labels, classes),
            "label_accuracy": f.multilabel_accuracy(logits.sigmoid(), labels, classes, average="micro"),
            "macro_f1": f.multilabel_f1_score(logits.sigmoid(), labels, classes, average="macro"),
            "cross_entropy_bits": torch.nn.functional.binary_cross_entropy_with_logits(logits, targets) / math.log(2),
        }
    return {
        "mse": torchmetrics.mean_squared_error(logits[:, 0], targets),
        "r2": torchmetrics.r2_score(logits[:, 0], targets),
        "spearman": torchmetrics.spearman_corrcoef(logits[:, 0], targets),
    }


@pytest.mark.parametrize(("kind", "classes"), CASES)
def test_point_values_equal_torchmetrics(kind: TargetKind, classes: int):
    logits, targets = case(kind, classes)
    values = score_rows(kind, logits, targets).values
    for layer in range(LAYERS):
        expected = by_torchmetrics(kind, logits[layer], targets)
        assert values.keys() == expected.keys()
        for metric, value in expected.items():
            assert float(values[metric][layer]) == pytest.approx(float(value), abs=1e-5), metric


def test_classes_in_order_are_also_scored_by_the_rank_correlation_of_the_expected_class():
    logits, targets = case("classification", 4)
    counts = bootstrap_counts(ROWS, 20, seed=0)
    plain, ordered = (score_rows("classification", logits, targets, counts, ordered=flag) for flag in (False, True))
    assert ordered.values.keys() - plain.values.keys() == {"spearman"}
    expected_class = (logits.softmax(-1) * torch.arange(4)).sum(-1)
    rows = [np.arange(ROWS), *(np.repeat(np.arange(ROWS), count.long()) for count in counts)]
    found = torch.cat([ordered.values["spearman"][None], ordered.draws["spearman"]])
    for drawn, of_layers in zip(rows, found, strict=True):
        for layer, value in enumerate(of_layers.tolist()):
            expected = stats.spearmanr(expected_class[layer, drawn], targets[drawn]).statistic
            assert value == pytest.approx(expected, abs=1e-6)
    assert ordered.values["spearman"][:2].min() > 0.5 > ordered.values["spearman"][2].abs()


def test_predicting_a_neighbouring_class_costs_less_rank_correlation_than_predicting_a_far_one():
    targets = integers(4, ROWS)
    near, far = (targets + 1).clamp_max(3), (targets + 2) % 4
    logits = 5.0 * torch.nn.functional.one_hot(torch.stack([near, far]), 4)
    found = score_rows("classification", logits, targets, ordered=True).values
    assert found["spearman"][0] > 0.8
    assert found["spearman"][1] < 0


def test_macro_f1_leaves_out_a_class_that_is_neither_true_nor_predicted_as_in_scikit_learn():
    logits, targets = case("classification", 4)
    logits[..., 3], targets = -50, targets.clamp_max(2)
    values = score_rows("classification", logits, targets).values
    expected = sklearn_metrics.f1_score(targets, logits[2].argmax(-1), average="macro")
    assert float(values["macro_f1"][2]) == pytest.approx(expected)


def test_macro_f1_counts_a_label_that_is_neither_true_nor_predicted_as_zero_as_in_scikit_learn():
    logits, targets = case("multilabel", 3)
    logits[..., 2], targets[:, 2] = -50, 0
    values = score_rows("multilabel", logits, targets).values
    expected = sklearn_metrics.f1_score(targets, logits[2] > 0, average="macro", zero_division=0)
    assert float(values["macro_f1"][2]) == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "classes"), CASES)
def test_draws_equal_the_scores_of_the_resampled_rows(kind: TargetKind, classes: int):
    logits, targets = case(kind, classes)
    counts = bootstrap_counts(ROWS, 20, seed=0)
    draws = score_rows(kind, logits, targets, counts).draws
    for sample, count in enumerate(counts):
        rows = torch.repeat_interleave(torch.arange(ROWS), count.long())
        for layer in range(LAYERS):
            for metric, value in by_torchmetrics(kind, logits[layer, rows], targets[rows]).items():
                assert float(draws[metric][sample, layer]) == pytest.approx(float(value), abs=1e-4), metric


def test_auroc_of_tied_scores_equals_scikit_learn_and_is_nan_with_one_class():
    logits, targets = case("classification", 2)
    logits = logits.round()
    value = score_rows("classification", logits, targets).values["auroc"][2]
    expected = sklearn_metrics.roc_auc_score(targets, logits[2, :, 1] - logits[2, :, 0])
    assert float(value) == pytest.approx(expected)
    assert score_rows("classification", logits, torch.ones(ROWS).long()).values["auroc"].isnan().all()


def test_each_resample_has_as_many_rows_as_the_data_and_is_determined_by_the_seed():
    counts = bootstrap_counts(50, 200, seed=0)
    assert (counts.sum(1) == 50).all()
    assert torch.equal(counts, bootstrap_counts(50, 200, seed=0))
    assert not torch.equal(counts, bootstrap_counts(50, 200, seed=1))
    assert float((counts > 0).float().mean()) == pytest.approx(1 - math.exp(-1), abs=0.01)


def test_the_interval_of_an_accuracy_has_the_width_of_the_normal_approximation():
    targets = integers(2, 1000)
    right = integers(10, 1000, seed=3) < 8
    logits = torch.nn.functional.one_hot(torch.where(right, targets, 1 - targets), 2).float()[None]
    scores = score_rows("classification", logits, targets, bootstrap_counts(1000, 2000, seed=0))
    low, high = scores.interval("accuracy")
    accuracy = float(right.float().mean())
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / 1000)
    assert float(low[0]) == pytest.approx(accuracy - half, abs=0.004)
    assert float(high[0]) == pytest.approx(accuracy + half, abs=0.004)


def test_the_majority_baseline_depends_on_the_training_labels_alone():
    train, test = torch.tensor([2, 2, 2, 0, 1]), torch.tensor([0, 0, 2, 1])
    values = score_rows("classification", majority_logits("classification", train, 4, classes=3), test).values
    assert float(values["accuracy"]) == 0.25
    expected = -(2 * math.log2(0.2) + math.log2(0.6) + math.log2(0.2)) / 4
    assert float(values["cross_entropy_bits"]) == pytest.approx(expected)
    regression = score_rows("regression", majority_logits("regression", train, 4, classes=1), test.float()).values
    assert float(regression["mse"]) == pytest.approx(float(((test - 1.4) ** 2).mean()))
    assert regression["spearman"].isnan().all()
    constant = majority_logits("classification", train, 4, classes=3)
    assert score_rows("classification", constant, test, ordered=True).values["spearman"].isnan().all()


def test_cross_entropy_is_computed_from_logits_and_not_from_probabilities():
    """Applying the softmax twice would bound the loss of two classes from below by 0.313 nats."""
    logits = torch.tensor([[[20.0, -20.0]]])
    assert float(score_rows("classification", logits, torch.tensor([0])).values["cross_entropy_bits"]) < 1e-6
    softmaxed = score_rows("classification", logits.softmax(-1), torch.tensor([0])).values["cross_entropy_bits"]
    assert float(softmaxed) * math.log(2) == pytest.approx(0.313, abs=1e-3)


def test_scoring_without_rows_or_with_unequal_numbers_of_rows_is_an_error():
    with pytest.raises(ValueError, match=r"at least one row, .*; got 0 targets and 0 rows"):
        score_rows("classification", torch.zeros(1, 0, 2), torch.zeros(0).long())
    with pytest.raises(ValueError, match="as many targets as rows of logits; got 3 targets and 2 rows"):
        score_rows("classification", torch.zeros(1, 2, 2), torch.zeros(3).long())


def test_every_metric_has_a_unit_that_all_kinds_of_task_share():
    for metric in METRICS:
        assert metric.unit, metric
        assert UNITS[metric.name] == metric.unit, metric
    assert len({(metric.kind, metric.name) for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize(("kind", "classes"), CASES)
def test_every_kind_of_task_has_one_main_metric_and_it_is_always_defined(kind: TargetKind, classes: int):
    (main,) = [metric for metric in METRICS if metric.kind == kind and metric.is_main]
    assert main.classes is None
    assert main.name == MAIN_METRIC[kind]
    assert main.name in score_rows(kind, *case(kind, classes)).values


def test_a_metric_added_to_the_table_is_scored_and_resampled(monkeypatch: pytest.MonkeyPatch):
    error_rate = replace(METRICS[0], name="error_rate", function=lambda *rows: 1 - METRICS[0].function(*rows))
    monkeypatch.setattr("probes.metrics.scores.METRICS", (*METRICS, error_rate))
    found = score_rows("classification", *case("classification", 4), bootstrap_counts(ROWS, 5, seed=0))
    torch.testing.assert_close(found.values["error_rate"], 1 - found.values["accuracy"])
    torch.testing.assert_close(found.draws["error_rate"], 1 - found.draws["accuracy"])
