"""The study of lenses on the toy model: the sign that is read is seen at the last layers, the ignored one nowhere."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from intervention_runs import cells, run_on_toy
from toy_language_model import LAYERS, toy_language_model, toy_suite

from probes.interventions import KeptArrays, TunedLensSettings
from probes.report import read_results
from probes.studies import LensStudy
from probes.studies.interventions.answered import AnsweredTask
from probes.studies.interventions.lensing import HELD_OUT, Lenses, LensOfTask, lens_profiles
from probes.values import Reading

TUNED = TunedLensSettings(
    texts=400, tokens=1200, held_out_tokens=300, steps=120, batch_tokens=64, learning_rate=1e-2, check_every=20
)


@pytest.fixture(scope="module", autouse=True)
def no_heatmaps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("probes.report.run_report.save_pictures", lambda drawings: None)
        yield


def run(folder, **options):
    return run_on_toy(LensStudy(**{"tuned": TUNED} | options), folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, no_heatmaps):
    folder = tmp_path_factory.mktemp("lens")
    return folder, run(folder), read_results(folder / "out" / "results.csv")


def test_both_lenses_see_the_sign_that_is_read_at_the_end_and_the_ignored_one_nowhere(finished):
    _, depth, results = finished
    for lens in ("logit_lens", "tuned_lens"):
        odds = cells(results, f"{lens}/log_odds")
        assert len(odds) == 2 * (LAYERS + 1)
        gap = odds[LAYERS, "read"].value
        assert gap > 3
        assert odds[LAYERS, "read"].p < 0.001
        ignored = [odds[layer, "ignored"] for layer in range(LAYERS + 1)]
        assert all(abs(row.value) < 0.2 * gap for row in ignored)
        assert all(row.p > 0.05 for row in ignored)
        rank = cells(results, f"{lens}/log10_rank")
        assert rank[LAYERS, "read"].value == 0  # the answer is the most likely token
        assert rank[LAYERS, "ignored"].value > 0.1  # in half of the rows the other answer is
    assert 0 <= depth <= 1


def test_at_the_last_layer_both_lenses_are_the_model(finished):
    _, _, results = finished
    for quantity in ("log_prob", "log10_rank", "log_odds", "kl"):
        logit, tuned = (cells(results, f"{lens}/{quantity}")[LAYERS, "read"] for lens in ("logit_lens", "tuned_lens"))
        assert logit.value == tuned.value
    assert cells(results, "tuned_lens/kl")[LAYERS, HELD_OUT].value == pytest.approx(0, abs=1e-6)


def test_the_tuned_lens_is_nearer_to_the_model_on_held_out_texts_than_the_logit_lens_and_the_unigrams(finished):
    _, _, results = finished
    gain = cells(results, "tuned_lens/kl_gain")
    tuned, unigram = cells(results, "tuned_lens/kl"), cells(results, "tuned_lens/kl", control="unigram")
    for layer in range(LAYERS):
        assert gain[layer, HELD_OUT].ci_low > 0
        assert gain[layer, HELD_OUT].p < 0.01
        assert tuned[layer, HELD_OUT].value < unigram[layer, HELD_OUT].value
        assert gain[layer, HELD_OUT].interval_over == "rows"


def test_controls_stand_beside_what_is_seen(finished):
    _, _, results = finished
    free = cells(results, "logit_lens/log_prob", control="content_free")
    assert set(free) == {(layer, task) for layer in range(LAYERS + 1) for task in ("read", "ignored")}
    assert free[LAYERS, "read"].value < cells(results, "logit_lens/log_prob")[LAYERS, "read"].value - 1


def test_the_run_leaves_its_figures_and_report(finished):
    folder, _, _ = finished
    left = {path.name for path in (folder / "out").rglob("*") if path.is_file()}
    assert left >= {"lenses.png", "report.html", "tuned_lens_kl.csv", "logit_lens_log10_rank.csv"}
    assert "would answer already" in (folder / "out" / "report.html").read_text()


def test_a_second_run_trains_nothing_and_finds_the_same(finished, tmp_path, monkeypatch):
    folder, depth, _ = finished
    monkeypatch.setattr(Lenses, "_train", lambda *_: pytest.fail("was trained again"))
    again = run_on_toy(LensStudy(tuned=TUNED), tmp_path, cache=folder / "cache")
    assert again == pytest.approx(depth, nan_ok=True)


def test_without_a_tuned_lens_there_is_the_logit_lens_alone(tmp_path):
    run(tmp_path, tuned=None, every=2)
    results = read_results(tmp_path / "out" / "results.csv")
    assert {row.metric.partition("/")[0] for row in results} == {"logit_lens"}
    assert {row.layer for row in results} == {1, 3}


def test_a_layer_at_which_all_rows_are_equal_says_nothing_of_the_answer():
    task = toy_suite().tasks[0]
    answered = AnsweredTask.of(task, toy_language_model().backbone, tokens_per_batch=64)
    rng = np.random.default_rng(0)
    shape = (2, answered.test.rows, 2)
    log_probs = np.broadcast_to([-100.1, -90.3], shape) + 1e-5 * rng.normal(size=shape)
    log_probs[1] += rng.normal(size=shape[1:])
    seen = LensOfTask(log_probs, np.zeros(shape), np.zeros(shape[:2]))
    lenses = SimpleNamespace(layers=(0, 3), of_task=lambda _: {"logit_lens": (seen, seen)})
    profiles = {own.quantity: own for own in lens_profiles(lenses, answered, Reading("decoder", "residual", "last"))}
    odds = profiles["logit_lens/log_odds"].estimates
    assert odds.values[0] == 0 != odds.values[1]
    assert odds.p_cell[0] == 0.5


def test_no_held_out_text_is_trained_on(tmp_path):
    train, held_out = LensStudy()._texts(toy_suite(), 0)
    assert train
    assert held_out
    assert not set(train) & set(held_out)
    with pytest.raises(ValueError, match="1 texts are both trained on and held out"):
        Lenses(toy_language_model(), (0, 3), KeptArrays(tmp_path, {}), 0, TUNED, ["a", "b"], ["b"])
    (tmp_path / "texts.txt").write_text("w1 w2\n\nw2 w3\n")
    with pytest.raises(ValueError, match=r"at least 10 training texts that are no test prompts; got 2\..*text_file"):
        LensStudy(text_file=str(tmp_path / "texts.txt"))._texts(toy_suite(), 0)
    (tmp_path / "texts.txt").write_text("\n".join(f"w{i} w{i + 1}" for i in range(20)))
    own, _ = LensStudy(text_file=str(tmp_path / "texts.txt"))._texts(toy_suite(), 0)
    assert 10 < len(own) <= 20
    assert all(np.char.startswith(own, "w"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, r"`study\.every` must be at least 1; got 0"),
        ({"tokens_per_batch": 0}, r"`study\.tokens_per_batch` must be at least 1; got 0"),
        ({"text_file": "no/such.txt"}, r"no file 'no/such\.txt'.*`study\.text_file`"),
    ],
)
def test_settings_out_of_range_are_refused(options, message: str):
    with pytest.raises(ValueError, match=message):
        LensStudy(**options)
