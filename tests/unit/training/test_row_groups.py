"""Test rows that share a value of `suite.group` are resampled and permuted together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_tasks import EXACT, PLANTED, fit, planted_task, result

from probes.analysis import paired_score_difference
from probes.report.predictions_file import read_predictions, write_predictions
from probes.training.task_data import LabelledActivations, TaskData
from probes.values import SPLITS

COPIES = 5


def with_copies(data: TaskData) -> TaskData:
    """Each test row five times: what one of them says, all of them say."""
    rows = torch.arange(len(data.test.targets)).repeat_interleave(COPIES)
    activations = data.test.activations
    names = tuple(f"{activations.row_ids[row]}-{copy % COPIES}" for copy, row in enumerate(rows.tolist()))
    copied = replace(activations, values=activations.values[:, rows], row_ids=names)
    return replace(data, test=LabelledActivations(copied, data.test.targets[rows]))


def in_groups(data: TaskData, size: int = COPIES) -> TaskData:
    return replace(
        data, group_values={split: torch.arange(len(getattr(data, split).targets)) // size for split in SPLITS}
    )


@pytest.fixture(scope="module")
def data() -> TaskData:
    return with_copies(planted_task(classes=3))


@pytest.fixture(scope="module")
def grouped(data):
    return fit(in_groups(data))


@pytest.fixture(scope="module")
def by_row(data):
    return fit(data)


def width(of) -> float:
    return of.ci_high - of.ci_low


def test_copies_of_rows_do_not_make_intervals_narrower(grouped, by_row):
    single = fit(planted_task(classes=3))
    for metric in ("accuracy", "macro_f1", "cross_entropy_bits", "selectivity"):
        own, naive, once = (result(fitted, metric) for fitted in (grouped, by_row, single))
        assert own.value == pytest.approx(naive.value)
        assert (own.interval_over, naive.interval_over) == ("groups", "rows")
        assert width(own) == pytest.approx(width(once), rel=0.25)
        assert width(naive) < 0.7 * width(own)  # the control: copies treated as independent


def test_labels_are_permuted_among_groups(grouped, by_row):
    own, naive = (fitted.profile("macro_f1").estimates.null[:, PLANTED].std() for fitted in (grouped, by_row))
    assert own > 1.5 * naive


def test_predictions_keep_their_groups_and_differences_are_over_groups(grouped, by_row, tmp_path):
    kept = read_predictions(write_predictions(grouped.predictions, tmp_path / "a.npz"))
    assert kept.group_numbers.tolist() == (np.arange(len(kept.targets)) // COPIES).tolist()
    assert kept.groups.name == "groups"
    assert len(kept.sentences) == 0
    noisy = replace(kept, predicted=np.where(np.arange(len(kept.targets)) // COPIES % 4 == 0, 0, kept.predicted))
    own = paired_score_difference(kept, noisy, resamples=200, exchanges=100)
    assert own.interval_over == "groups"
    without = [replace(one, group_numbers=np.empty(0, np.int32)) for one in (kept, noisy)]
    naive = paired_score_difference(*without, resamples=200, exchanges=100)
    assert naive.interval_over == "rows"
    assert np.diff(own.interval, axis=0)[0, PLANTED] > 1.5 * np.diff(naive.interval, axis=0)[0, PLANTED]
    assert by_row.predictions.groups is None


def test_values_that_no_row_shares_change_nothing(data, by_row):
    alone = fit(in_groups(data, size=1))
    assert alone.results == by_row.results


def test_one_group_has_no_interval(data):
    fitted = fit(in_groups(data, size=10**6))
    score = result(fitted, "macro_f1")
    assert score.ci_low is None
    assert "no interval: all test rows are of one group" in score.note


def test_halves_of_the_training_rows_are_added(data):
    refitted = fit(in_groups(data), replace(EXACT, training_sets=3))
    assert result(refitted, "macro_f1").interval_over == "groups and training sets"
