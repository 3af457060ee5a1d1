"""Calibration errors against torchmetrics, and on answers that are calibrated or too sure by construction."""

from __future__ import annotations

import pytest
import torch
from tensor_samples import draw
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from probes.metrics.calibration import (
    Answers,
    calibrated_errors,
    expected_calibration_error,
    over_confidence,
    reliability,
)


def calibrated(rows: int, *, sharpness: float = 2.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `(1, rows, 4)`, and classes drawn with the probabilities that they stand for."""
    logits = sharpness * draw(1, rows, 4, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    return logits, torch.multinomial(logits[0].softmax(-1), 1, generator=generator)[:, 0]


def test_the_error_of_classes_is_that_of_torchmetrics():
    logits, targets = 2 * draw(3, 500, 4), torch.randint(4, (500,), generator=torch.Generator().manual_seed(0))
    found = expected_calibration_error(Answers.of_logits("classification", logits, targets))
    expected = [multiclass_calibration_error(layer.softmax(-1), targets, 4, n_bins=15) for layer in logits]
    torch.testing.assert_close(found, torch.stack(expected).double(), atol=1e-5, rtol=0)


def test_the_error_of_labels_is_that_of_their_predicted_values():
    logits = draw(1, 300, 3, seed=2)
    targets = (draw(300, 3, seed=3) > 0).float()
    found = expected_calibration_error(Answers.of_logits("multilabel", logits, targets))
    correct = ((logits[0] > 0).float() == targets).long().flatten()
    confidence = logits[0].abs().sigmoid().flatten()
    expected = binary_calibration_error(confidence, correct, n_bins=15)
    torch.testing.assert_close(found, expected[None].double(), atol=1e-5, rtol=0)


def test_the_error_of_a_calibrated_probe_is_one_of_those_by_chance():
    ranks = []
    for seed in range(60):
        answers = Answers.of_logits("classification", *calibrated(120, seed=10 * seed))
        observed = expected_calibration_error(answers)
        ranks.append((calibrated_errors(answers, 99, seed=seed) >= observed).double().mean())
    share_below = (torch.stack(ranks) < 0.05).double().mean()
    assert share_below < 0.15
    assert 0.35 < torch.stack(ranks).mean() < 0.65


def test_a_probe_that_is_too_sure_lies_outside_what_chance_gives_and_its_sign_shows():
    logits, targets = calibrated(400)
    sure = Answers.of_logits("classification", 3 * logits, targets)
    assert expected_calibration_error(sure) > calibrated_errors(sure, 200, seed=0).max()
    assert over_confidence(sure).mean() > 0.05
    timid = Answers.of_logits("classification", logits / 3, targets)
    assert over_confidence(timid).mean() < -0.05
    assert abs(over_confidence(Answers.of_logits("classification", logits, targets)).mean()) < 0.05


def test_bins_hold_all_answers_and_their_mean_accuracy():
    answers = Answers.of_logits("classification", *calibrated(300))
    bins = reliability(answers, 0)
    assert sum(one.answers for one in bins) == 300
    mean = sum(one.answers * one.accuracy for one in bins) / 300
    assert mean == pytest.approx(answers.correct.mean().item())
    error = sum(one.answers * abs(one.accuracy - one.confidence) for one in bins) / 300
    assert error == pytest.approx(expected_calibration_error(answers).item())


def test_numbers_have_no_confidence():
    with pytest.raises(ValueError, match="regression"):
        Answers.of_logits("regression", draw(1, 5, 1), torch.zeros(5))
