"""Where classes are grades, the probe of their number learns from fewer rows; where they are not, it does not help."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from gaussian_rows import draw_float32
from planted_tasks import READING
from probed_samples import FEW, probed, profiles_of
from scipy.stats import spearmanr

from probes.analysis.significance import with_p_values
from probes.probe_measures import OrdinalProbe
from probes.probe_measures.ordinal import ordinal_predictions
from probes.training import LabelledActivations, TaskData
from probes.values import Activations

GRADES, WIDTH = 7, 20


def graded(*, scramble: bool = False, ordered: bool = True) -> TaskData:
    """Layer 1 holds a number that 7 grades divide; with `scramble`, grades have their names in another order."""
    names = torch.tensor([3, 0, 6, 2, 5, 1, 4]) if scramble else torch.arange(GRADES)
    splits = {}
    for number, (split, rows) in enumerate((("train", 90), ("validation", 60), ("test", 250))):
        values = draw_float32(2, rows, WIDTH, seed=number)
        latent = values[1, :, :4].sum(1) / 2 + 0.3 * draw_float32(rows, seed=10 + number)
        grade = torch.bucketize(latent, torch.tensor([-1.07, -0.57, -0.18, 0.18, 0.57, 1.07]))
        ids = tuple(f"{split}{row}" for row in range(rows))
        splits[split] = LabelledActivations(Activations(values, (0, 1), ids, READING), names[grade])
    labels = tuple(f"grade {k}" for k in range(GRADES))
    return TaskData(task="graded", kind="classification", labels=labels, ordered=ordered, **splits)


def test_the_ordinal_probe_beats_the_nominal_one_where_classes_are_grades():
    task = probed(graded(), settings=replace(FEW, bootstrap_samples=100, permutations=100))
    found = profiles_of(OrdinalProbe()(task))
    gain, (tested,) = found["ordinal/gain"].estimates, with_p_values([found["ordinal/gain"]])
    assert gain.values[1] > 0.03
    assert gain.freedom == ((len(gain.errors), gain.n - 1),)
    assert tested.estimates.p[1] < 0.05
    assert found["ordinal/spearman"].estimates.values[1] > 0.8
    assert found["ordinal/mean_absolute_error"].estimates.values[1] < 1
    (score,) = with_p_values([found["ordinal/spearman"]])
    assert score.estimates.p[1] < 0.05 < score.estimates.p[0]  # layer 0 is noise


def test_the_correlation_is_scipys():
    task = probed(graded())
    predicted = ordinal_predictions(task)
    expected = spearmanr(predicted[1], task.data.test.targets).statistic
    found = profiles_of(OrdinalProbe()(task))["ordinal/spearman"].estimates
    assert abs(found.values[1] - expected) < 1e-6
    assert found.interval[0, 1] < expected < found.interval[1, 1]
    assert predicted.min() >= 0
    assert predicted.max() <= GRADES - 1


def test_resamples_and_permutations_are_those_of_the_probes():
    found = profiles_of(OrdinalProbe()(probed(graded(), settings=replace(FEW, bootstrap_samples=30, permutations=40))))
    assert found["ordinal/spearman"].estimates.null.shape == (40, 2)
    assert found["ordinal/gain"].estimates.errors.shape == (30, 2)
    none = profiles_of(OrdinalProbe()(probed(graded(), settings=replace(FEW, bootstrap_samples=0, permutations=0))))
    assert none["ordinal/spearman"].estimates.null is None
    assert none["ordinal/spearman"].estimates.interval is None
    assert none["ordinal/gain"].estimates.errors is None
    np.testing.assert_array_equal(none["ordinal/spearman"].estimates.values, found["ordinal/spearman"].estimates.values)


def test_the_ordinal_probe_loses_where_the_order_means_nothing():
    found = profiles_of(OrdinalProbe()(probed(graded(scramble=True))))
    assert found["ordinal/gain"].estimates.values[1] < 0


def test_classes_without_order_have_no_ordinal_probe_and_constant_layers_no_value():
    assert list(OrdinalProbe()(probed(graded(ordered=False)))) == []
    data = graded()
    for split in (data.train, data.validation, data.test):
        split.activations.values[0] = 1.0
    values = profiles_of(OrdinalProbe()(probed(data)))["ordinal/spearman"].estimates.values
    assert np.isnan(values).tolist() == [True, False]
    assert replace(data, ordered=False).ordered is False
