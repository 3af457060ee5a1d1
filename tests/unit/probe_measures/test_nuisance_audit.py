"""An audit finds the nuisance that was planted, spares what is independent of it, and says when neither can be told."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from nuisance_samples import SIZES, by_quantity, planted, probed, with_targets
from sklearn.metrics import f1_score

from probes.analysis import LayerTable, result_rows
from probes.architectures import MLPProbe
from probes.probe_measures import NuisanceAudit
from probes.training import ProbeSettings
from probes.values import LayerProfile

AUDIT = NuisanceAudit(resamples=100, permutations=100)


@cache
def audited(**options) -> dict[str, LayerProfile]:
    return by_quantity(AUDIT(planted(**options)))


def verdict(profiles: dict[str, LayerProfile], layer: int = 1) -> str:
    return profiles["residual_macro_f1"].estimates.remarks[layer].split("; ")[0]


def value(profiles: dict[str, LayerProfile], name: str, layer: int = 1) -> float:
    return float(profiles[name].estimates.values[layer])


TAG = {"label_is_tag": 0.9, "tag": 2.0}


def test_a_planted_tag_falls_to_chance_and_is_named():
    found = audited(**TAG)
    assert value(found, "alone_first_word", 0) > 0.85
    assert value(found, "residual_macro_f1") + value(found, "raw_minus_residual_macro_f1") > 0.85  # the raw score
    assert value(found, "residual_macro_f1") < 0.6
    low, _ = found["raw_minus_residual_macro_f1"].estimates.interval[:, 1]
    assert low > 0.2
    assert verdict(found) == "explained by first word"


def test_a_feature_that_is_independent_of_nuisances_survives():
    found = audited(signal=0.7)
    assert value(found, "residual_macro_f1") > 0.85
    assert abs(value(found, "raw_minus_residual_macro_f1")) < 0.05
    assert verdict(found) == "stands"


def test_a_feature_survives_beside_a_tag_that_tells_most_labels():
    found = audited(label_is_tag=0.8, tag=2.0, signal=0.7)
    assert value(found, "residual_macro_f1") > 0.7
    assert verdict(found) == "stands"


def test_a_label_that_is_the_nuisance_cannot_be_told_from_it():
    found = audited(label_is_tag=1.0, tag=2.0, signal=0.7)
    assert value(found, "alone_first_word", 0) == 1.0
    assert verdict(found) == "not identifiable"


def test_a_layer_at_chance_gets_no_verdict():
    assert verdict(audited(**TAG), layer=0) == "the score is not above chance"


def test_a_column_of_the_rows_is_a_nuisance_like_any_other():
    found = by_quantity(AUDIT(planted(**TAG, columns=True)))
    assert verdict(found) == "explained by source"
    assert value(found, "alone_first_word", 0) < 0.65


def test_a_nuisance_that_is_left_out_explains_nothing():
    found = by_quantity(
        NuisanceAudit(leave_out=["source"], resamples=50, permutations=50)(planted(**TAG, columns=True))
    )
    assert verdict(found) == "stands"
    assert "alone_source" not in found


def test_within_strata_of_the_tag_only_the_feature_beside_it_is_above_chance():
    of_tag, of_signal = (
        audited(**options)["within_strata_macro_f1"].estimates for options in (TAG, {**TAG, "tag": 0.0, "signal": 0.7})
    )
    assert of_tag.values[1] <= np.quantile(of_tag.null[:, 1], 0.99)
    assert of_signal.values[1] > of_signal.null[:, 1].max()
    assert of_tag.remarks[1] == "strata of first word"


def test_scores_are_those_of_scikit_learn_and_rows_of_results_hold_the_verdict():
    task = planted(**TAG)
    found = by_quantity(AUDIT(task))
    raw = value(found, "residual_macro_f1") + value(found, "raw_minus_residual_macro_f1")
    predicted = task.fit.predictions
    assert predicted is not None
    assert raw == pytest.approx(f1_score(predicted.targets, predicted.predicted[1], average="macro"))
    table = LayerTable()
    table.add(found.values())
    (row,) = [
        row
        for row in result_rows(table.findings().profiles)
        if (row.metric, row.layer) == ("nuisance/residual_macro_f1", 1)
    ]
    assert row.note.startswith("explained by first word; ")
    assert row.n == SIZES["test"]
    assert row.p is not None
    assert row.ci_low is not None


def test_numbers_that_follow_a_nuisance_are_explained_by_it_and_others_stand():
    own = planted(columns=True, tag=2.0)
    generator = torch.Generator().manual_seed(1)

    def targets(of_tag: float, of_layer: float) -> dict[str, torch.Tensor]:
        found = {}
        for split, rows in own.task.splits.items():
            tags = torch.tensor([name == "b" for name in rows.columns["source"]]).float()
            planted_in = getattr(own.data, split).activations.values[1, :, 7]
            found[split] = of_tag * tags + of_layer * planted_in + 0.3 * torch.randn(len(tags), generator=generator)
        return found

    explained = by_quantity(AUDIT(with_targets(own, "regression", targets(1.0, 0.0), ())))
    assert explained["residual_r2"].estimates.remarks[1].startswith("explained by source")
    stands = by_quantity(AUDIT(with_targets(own, "regression", targets(0.3, 1.0), ())))
    assert stands["residual_r2"].estimates.remarks[1].startswith("stands")
    assert stands["within_strata_r2"].estimates.values[1] > 0.5


def test_each_label_of_a_multi_label_task_is_audited_within_strata_of_its_own():
    own = planted(**TAG)
    targets = {
        split: torch.tensor([[label, 1 - label] for label in rows.labels]).float()
        for split, rows in own.task.splits.items()
    }
    found = by_quantity(AUDIT(with_targets(own, "multilabel", targets, ("one", "other"))))
    assert found["residual_macro_f1"].estimates.remarks[1].startswith("explained by first word")
    within = found["within_strata_macro_f1"].estimates
    assert within.remarks[1] == "strata of first word"
    assert (
        within.null.mean(0)[1] - 0.1
        < within.values[1]
        < within.null.mean(0)[1] + 0.1
        < found["alone_all_nuisances"].estimates.values[0]
    )


def test_probes_that_are_not_linear_are_audited_by_linear_ones():
    own = planted(signal=0.7)
    settings = ProbeSettings(
        architecture=MLPProbe, fit="minibatch", penalties=(0.01,), max_epochs=2, training_sets=0, permutations=0,
        bootstrap_samples=0, min_validation_rows=50,
    )  # fmt: skip
    found = by_quantity(AUDIT(probed(own.task, own.data, settings)))
    assert verdict(found) == "stands"


def test_a_constant_layer_has_no_value_and_says_why():
    own = planted(signal=0.7)
    for split in ("train", "validation", "test"):
        getattr(own.data, split).activations.values[0] = 1.0
    found = by_quantity(AUDIT(probed(own.task, own.data)))
    estimates = found["residual_macro_f1"].estimates
    assert np.isnan(estimates.values[0])
    assert "constant layer" in estimates.note
    assert verdict(found) == "stands"


def test_few_validation_rows_are_replaced_by_cross_validation():
    own = planted(**TAG)
    settings = ProbeSettings(
        bootstrap_samples=50, permutations=50, min_validation_rows=1000, training_sets=0, penalties=(0.01, 1.0)
    )
    assert verdict(by_quantity(AUDIT(probed(own.task, own.data, settings)))) == "explained by first word"
