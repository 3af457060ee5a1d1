"""Calibration of a task's probes: a probe fitted to noise is too sure, one of the planted layer is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from planted_tasks import PLANTED
from probed_samples import FEW, probed, profiles_of, tables_of

from probes.analysis.significance import with_p_values
from probes.probe_measures import Calibration


def test_probes_without_penalty_are_too_sure_on_noise_and_calibrated_ones_are_not():
    barely_penalised = replace(FEW, penalties=(1e-4,))
    task = probed(settings=barely_penalised, rows=(60, 60, 300), planted=False)
    found = profiles_of(Calibration()(task))
    (tested,) = with_p_values([found["calibration_error"]])
    assert (tested.estimates.p < 0.05).all()
    assert (found["over_confidence"].estimates.values > 0.1).all()
    of_many_rows = probed(settings=replace(FEW, penalties=(0.01,)), rows=(2000, 60, 300), noise=1.0)
    found = profiles_of(Calibration()(of_many_rows))
    (tested,) = with_p_values([found["calibration_error"]])
    assert tested.estimates.p_cell[PLANTED] > 0.05
    assert abs(found["over_confidence"].estimates.values[PLANTED]) < 0.05


def test_the_table_holds_the_bins_of_the_best_layer():
    task = probed(classes=3)
    assert task.fit.validation_best_layer == PLANTED
    columns = tables_of(Calibration()(task))["reliability"].columns
    assert sum(columns["answers"]) == 160
    for low, accuracy, high in zip(columns["lower end"], columns["accuracy"], columns["upper end"], strict=True):
        assert low <= accuracy <= high


def test_multilabel_answers_are_counted_by_row_and_regression_has_none():
    found = profiles_of(Calibration()(probed(kind="multilabel", classes=2)))["over_confidence"].estimates
    assert found.errors.shape == (160, 4)
    assert np.isfinite(found.values).all()
    assert list(Calibration()(probed(kind="regression", classes=1))) == []
