"""Patches between base and tuned models: a gain enters at the tuned blocks, and nowhere else, to the bit."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from study_samples import TUNING, toy_suite

from probes.activations import ExtractionSettings
from probes.backbones import tiny_backbone
from probes.studies import MixtureSettings, ModelPatchingSettings
from probes.studies.layer_by_layer.model_patching import AnswerRows, ModelPatching, _another, _Loaded
from probes.studies.layer_by_layer.models import ModelTuner, tune_models
from probes.tasks import Split, Task
from probes.trainers import default_trainer

BLOCK, BLOCKS = 2, 5
"""Counted from 0: block 2 reads layer 2 and puts out layer 3."""
SETTINGS = ModelPatchingSettings(every=1, rows=12)


def patching(folder) -> ModelPatching:
    tuning = replace(TUNING, layers_to_transform=[BLOCK], max_steps=40, learning_rate=5e-2, dropout=0.0)
    tuner = ModelTuner(
        tiny_backbone(num_layers=BLOCKS), toy_suite(), tuning, default_trainer, ExtractionSettings(), 0, folder
    )
    return ModelPatching(tuner, tune_models(tuner, MixtureSettings(replicate_tasks=0)), SETTINGS)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return folder, list(patching(folder).profiles())


def of(profiles, quantity: str, role: str):
    return {p.task: p.estimates for p in profiles if (p.quantity, p.role) == (quantity, role)}


@pytest.mark.parametrize(
    "role", ["control_into_base", "base_into_control", "experimental_into_base", "base_into_experimental"]
)
def test_the_gain_enters_at_the_tuned_block_exactly(found, role: str):
    _, profiles = found
    whole = of(profiles, "model_patching/log_prob_all", role)
    assert set(whole) == {"a", "b", "c"}
    for estimates in whole.values():
        assert estimates.values.tolist() == [0.0] * (BLOCK + 1) + [1.0] * (BLOCKS - BLOCK)
        assert estimates.interval_over == "rows"
    for estimates in of(profiles, "model_patching/log_prob_last", role).values():
        assert estimates.values[: BLOCK + 1].tolist() == [0.0] * (BLOCK + 1)
        assert (np.abs(estimates.values[BLOCK + 1 :]) > 1e-6).all()


def test_the_gain_is_that_of_the_answers(found):
    _, profiles = found
    base, control = (of(profiles, "answer/log_prob", role) for role in ("base", "control"))
    for task in "abc":
        assert control[task].values[0] > base[task].values[0] + 0.2  # one block of a random model learns little
        assert of(profiles, "answer/log_odds", "base")[task].n == 12


def test_a_model_that_was_tuned_on_another_task_brings_little_of_it(found):
    _, profiles = found
    other = of(profiles, "model_patching/log_prob_all", "other_control_into_base")
    assert set(other) == {"a", "b", "c"}
    for estimates in other.values():
        assert estimates.values[: BLOCK + 1].tolist() == [0.0] * (BLOCK + 1)
    assert np.mean([estimates.values[-1] for estimates in other.values()]) < 0.85
    assert not of(profiles, "model_patching/log_prob_all", "base_into_other_control")


def test_a_second_run_loads_no_model_and_finds_the_same(found, monkeypatch):
    folder, profiles = found
    again = patching(folder)
    monkeypatch.setattr(_Loaded, "lm", property(lambda _: pytest.fail("was loaded")))
    for before, after in zip(profiles, again.profiles(), strict=True):
        np.testing.assert_array_equal(before.estimates.values, after.estimates.values)


def test_a_preference_for_one_label_is_no_quality_of_answers_and_log_probabilities_are_not_tested():
    right = np.array([0] * 9 + [1] * 3)
    same = np.tile([-1.0, -2.0], (12, 1)) + 1e-3 * np.arange(12)[:, None] * [1, -1]
    informed = np.where(right[:, None] == [0, 1], -1.0, -2.0) + 1e-3 * np.arange(12)[:, None] * [1, -1]
    task = Task("sign", "classification", ("no", "yes"), {})
    base_alone = SimpleNamespace(base=tiny_backbone())
    rows, found = AnswerRows(task, None, right), {"base": same, "tuned": informed}  # pyright: ignore[reportArgumentType]
    profiles = list(ModelPatching(base_alone, None, SETTINGS)._of_role(rows, "control", found, found))  # pyright: ignore[reportArgumentType]
    odds = {role: of(profiles, "answer/log_odds", role)["sign"] for role in ("base", "control")}
    assert odds["base"].values == pytest.approx(0, abs=0.01)  # the mean over all rows is 0.5
    assert odds["control"].values == pytest.approx(1, abs=0.01)
    assert odds["control"].p_cell[0] < 1e-6
    for role in ("base", "control"):
        untested = of(profiles, "answer/log_prob", role)["sign"]
        assert untested.null is None
        assert untested.p_cell is None
        assert np.isfinite(untested.interval).all()


def test_another_task_is_one_of_another_cluster_if_there_is_one():
    a, b, c = toy_suite().tasks
    assert [_another(task, (a, b, c)).name for task in (a, b, c)] == ["c", "c", "a"]  # pyright: ignore[reportOptionalMemberAccess]
    assert _another(a, (a, b)) is b
    assert _another(a, (a,)) is None


def test_free_text_has_its_log_probability_alone():
    rows = Split(("one:", "two:", "three:"), (None,) * 3, ("eins", "zwei", "drei"))
    task = Task("german", "generation", (), {"test": rows})
    answers = AnswerRows.of(task, tiny_backbone(), SETTINGS)
    log_probs = np.log(np.array([[0.5], [0.25], [0.125]]))
    assert list(answers.qualities(log_probs)) == ["log_prob"]
    np.testing.assert_allclose(answers.qualities(log_probs)["log_prob"], log_probs[:, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, r"study\.patching\.every` must be at least 1"),
        ({"rows": 2}, r"study\.patching\.rows` must be at least 3"),
        ({"positions": ["first"]}, r"Unknown positions \['first'\].*study\.patching\.positions"),
    ],
)
def test_settings_out_of_range_are_refused(options, message: str):
    with pytest.raises(ValueError, match=message):
        ModelPatchingSettings(**options)
