"""The study of steering on the toy model: only the direction that the model reads moves its answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from intervention_runs import cells, run_on_toy
from toy_language_model import LAYERS, toy_language_model, toy_task

from probes.interventions import (
    KeptArrays,
    LabelMoments,
    contrasts,
    lda_directions,
    mean_difference_directions,
    of_equal_length,
)
from probes.report import read_results
from probes.studies import SteeringSettings, SteerStudy
from probes.studies.interventions.answered import AnsweredTask
from probes.studies.interventions.steering import TaskSteering, slopes
from probes.training import fit_probes

SETTINGS = SteeringSettings(every=1, doses=(1.0, 2.0), random_directions=6)
KINDS = ("probe", "mean_difference", "lda")


@pytest.fixture(scope="module", autouse=True)
def no_heatmaps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("probes.report.run_report.save_pictures", lambda drawings: None)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, no_heatmaps):
    folder = tmp_path_factory.mktemp("steer")
    objective = run_on_toy(SteerStudy(steering=SETTINGS), folder)
    return folder, objective, read_results(folder / "out" / "results.csv")


@pytest.mark.parametrize("kind", KINDS)
def test_the_direction_that_is_read_moves_the_answer_and_the_ignored_one_does_not(finished, kind: str):
    _, _, results = finished
    (answered,) = [row for row in results if (row.metric, row.task) == ("answer/log_odds", "read")]
    found = cells(results, f"steering/{kind}")
    assert len(found) == 2 * (LAYERS + 1)
    for (_, task), row in found.items():
        # The classes lie one gap on either side of 0. Moving rows of one class to the other takes two gaps, and those
        # of the other hardly move: the mean over both classes is one gap.
        share = row.value / answered.value
        if task == "ignored":
            assert abs(share) < 0.05 * 2
        else:  # a direction that only reads the label is not the one along which the model holds it
            assert share > (0.9 if kind == "mean_difference" else 0.25)


@pytest.mark.parametrize("layer", range(LAYERS + 1))
def test_rows_of_one_class_are_moved_to_the_other_by_what_is_read_and_not_by_what_is_ignored(
    layer: int,
):
    """The distance between both classes, along the direction that is read, is the whole logit gap."""
    lm, settings = toy_language_model(), SteeringSettings(directions=["mean_difference"], every=1, doses=(1.0,))
    whole = None
    for which in (0, 1):
        answered = AnsweredTask.of(toy_task(which), lm.backbone, tokens_per_batch=2048)
        steering = TaskSteering(lm, answered, None, settings, KeptArrays(Path(), {}), 0)
        before, labels = lm.log_probs(answered.test).numpy(), answered.labels("test").numpy()
        found = steering._steered(
            steering._carried("test", answered.test, layer), mean_differences(steering, layer), layer
        )
        odds = [own[..., 1] - own[..., 0] for own in (before, found[0, -1])]  # of yes, without and with dose 1
        if whole is None:
            whole = odds[0][labels == 1].mean() - odds[0][labels == 0].mean()
        share = (odds[1] - odds[0])[labels == 0].mean() / whole
        assert share > 0.9 if which == 0 else abs(share) < 0.05


def mean_differences(steering: TaskSteering, layer: int) -> torch.Tensor:
    train = steering._carried("train", steering.answered.train, layer)
    return mean_difference_directions(train.moments(steering.answered.labels("train"), 2, "last")["last"])


def test_the_answer_rises_with_the_dose_and_falls_with_its_negative(finished):
    _, _, results = finished
    for layer in range(LAYERS + 1):
        by_dose = [
            cells(results, "steering/mean_difference", control=f"dose {dose:+g}")[layer, "read"].value
            for dose in (-2, -1, 1, 2)
        ]
        assert by_dose == sorted(by_dose)
        assert by_dose[1] < 0 < by_dose[2]


def test_steering_is_compared_with_random_directions_of_the_same_length(finished):
    _, _, results = finished
    beyond, random = cells(results, "steering_beyond_random/mean_difference"), cells(
        results, "steering/random", control="dose +1"
    )  # fmt: skip
    assert len(random) == 2 * (LAYERS + 1)
    for (_, task), row in beyond.items():
        assert row.interval_over == "rows and random directions"
        assert row.p_cell < 0.05 if task == "read" else row.ci_low < 0.5


def test_the_run_leaves_its_figures_and_objective(finished):
    folder, objective, results = finished
    left = {path.name for path in (folder / "out").rglob("*") if path.is_file()}
    assert left >= {"dose_response.png", "decodable_and_steered.png", "report.html", "best_layers.csv"}
    beyond = cells(results, "steering_beyond_random/probe")
    largest = [max(row.value for (_, task), row in beyond.items() if task == name) for name in ("read", "ignored")]
    assert objective == pytest.approx(np.mean(largest))


def test_a_second_run_steers_nothing_and_finds_the_same(finished, tmp_path, monkeypatch):
    folder, objective, _ = finished
    monkeypatch.setattr(TaskSteering, "_compute", lambda *_: pytest.fail("was computed again"))
    assert run_on_toy(SteerStudy(steering=SETTINGS), tmp_path, cache=folder / "cache") == objective


def test_the_direction_of_a_linear_probe_is_its_weights():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 200, 6, generator=generator) * torch.tensor([1.0, 2, 3, 4, 5, 6])
    y = (x[0, :, 1] + 0.3 * x[0, :, 2] > 0).long()
    fit = fit_probes(x, y, penalties=(0.01,), controls=0, bootstrap_samples=0, permutations=0)
    gradient = contrasts(slopes(fit.probes, features_at_once=4)[0])[1].float()
    step = torch.randn(6, generator=generator)
    logits = [fit.probes.logits(x + scale * step)[0, 0] for scale in (0.0, 1.0)]
    moved = (logits[1][1] - logits[1][0]) - (logits[0][1] - logits[0][0])
    assert (gradient @ step).item() == pytest.approx(moved.item(), rel=1e-3)


def test_the_discriminant_of_white_classes_is_their_mean_difference():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(2, (50_000,), generator=generator)
    x = torch.randn(50_000, 4, generator=generator) + labels[:, None] * torch.tensor([2.0, 0, 0, 1])
    moments = LabelMoments(4, 2)
    moments.update(x, labels)
    difference, discriminant = mean_difference_directions(moments), lda_directions(moments)
    torch.testing.assert_close(difference[1], torch.tensor([2.0, 0, 0, 1]).double(), rtol=0, atol=0.05)
    torch.testing.assert_close(of_equal_length(discriminant, difference), difference, rtol=0, atol=0.08)
    assert not of_equal_length(torch.zeros(2, 4).double(), difference).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": ["prob"]}, r"Unknown direction \['prob'\].*mean_difference"),
        ({"doses": [2.0]}, r"doses` must be above 0, and 1 among them"),
        ({"positions": "middle"}, r"Unknown positions 'middle'"),
        ({"random_directions": 1}, r"random_directions` must be at least 2"),
    ],
)
def test_settings_out_of_range_are_refused(options, message: str):
    with pytest.raises(ValueError, match=message):
        SteeringSettings(**options)
