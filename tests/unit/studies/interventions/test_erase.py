"""The study of erasure on the toy model: what is used, what is only decodable, and what a run leaves."""

from __future__ import annotations

import numpy as np
import pytest
from intervention_runs import cells, run_on_toy
from toy_language_model import LAYERS, toy_suite

from probes.activations import ExtractionSettings
from probes.report import read_results
from probes.studies import EraseStudy, ErasureSettings
from probes.studies.interventions import erasure
from probes.tasks import Suite, Task, starter_suite

SETTINGS = ErasureSettings(
    every=1, erasers=["leace", "inlp"], random_subspaces=3, inlp_iterations=14, collateral_rows=20
)


def run_study(folder, *, settings=SETTINGS, **parts) -> float:
    return run_on_toy(EraseStudy(erasure=settings), folder, **parts)


@pytest.fixture(scope="module", autouse=True)
def no_heatmaps():
    """Drawing all of them takes most of a run's time, and other tests look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("probes.report.run_report.save_pictures", lambda drawings: None)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, no_heatmaps):
    folder = tmp_path_factory.mktemp("erase")
    objective = run_study(folder)
    return folder, objective, read_results(folder / "out" / "results.csv")


def test_both_labels_are_decodable_at_every_layer_and_none_is_after_erasure(finished):
    _, _, results = finished
    scores = [row for row in results if (row.metric, row.split, row.control) == ("macro_f1", "test", "")]
    assert len([row for row in scores if row.probe]) == 2 * (LAYERS + 1)
    assert min(row.value for row in scores) > 0.95
    after = cells(results, "after_erasure/leace")
    assert len(after) == 2 * (LAYERS + 1)
    assert max(row.value for row in after.values()) < 0.65


@pytest.mark.parametrize("metric", ["effect/leace", "effect/inlp", "usedness/leace", "usedness_from/leace"])
def test_only_the_direction_that_the_model_reads_is_used(finished, metric: str):
    _, _, results = finished
    (answered,) = [row for row in results if (row.metric, row.task) == ("answer/log_odds", "read")]
    found = cells(results, metric)
    assert len(found) == 2 * (LAYERS + 1)
    for (_, task), row in found.items():
        share = row.value / answered.value
        assert share > 0.9 if task == "read" else abs(share) < 0.05
        assert row.ci_low < row.value < row.ci_high
        assert row.interval_over == ("rows" if metric.startswith("effect") else "rows and random subspaces")
        assert row.p < 0.01 if task == "read" else True


def test_accuracy_falls_to_chance_where_the_answer_is_erased(finished):
    _, _, results = finished
    lost = cells(results, "usedness_accuracy/leace")
    assert all(0.3 < lost[layer, "read"].value < 0.7 for layer in range(1, LAYERS + 1))
    assert all(abs(lost[layer, "ignored"].value) < 0.05 for layer in range(LAYERS + 1))


def test_what_else_is_erased_is_reported(finished):
    _, _, results = finished
    # erasing what is read takes the other task's answers as well: they are the same answers, and say nothing of it
    for metric in ("collateral/other_tasks", "collateral/text", "collateral_beyond_random/text"):
        assert {task for _, task in cells(results, metric)} == {"read", "ignored"}
        assert all(np.isfinite(row.value) for row in cells(results, metric).values())


def test_the_run_leaves_its_matrices_figure_and_objective(finished):
    folder, objective, results = finished
    left = {path.name for path in (folder / "out").rglob("*") if path.is_file()}
    assert left >= {"results.csv", "report.html", "decodable_and_used.png", "usedness_leace.csv"}
    largest = [max(r.value for (_, t), r in cells(results, "usedness/leace").items() if t == name)
               for name in ("read", "ignored")]  # fmt: skip
    assert objective == pytest.approx(np.mean(largest))


def test_a_second_run_edits_nothing_and_finds_the_same(finished, tmp_path, monkeypatch):
    folder, objective, _ = finished
    monkeypatch.setattr(erasure.TaskErasure, "_compute", lambda *_: pytest.fail("was computed again"))
    assert run_study(tmp_path, cache=folder / "cache") == objective


def test_a_run_that_died_goes_on_with_the_layers_it_lacks(tmp_path, monkeypatch):
    computed = []
    few = ErasureSettings(every=1, erasers=["leace"], random_subspaces=2, collateral_rows=0)
    original = erasure.TaskErasure._compute

    def dying(self, layer):
        computed.append((self.answered.task.name, layer))
        if len(computed) == 6:
            raise KeyboardInterrupt
        return original(self, layer)

    monkeypatch.setattr(erasure.TaskErasure, "_compute", dying)
    with pytest.raises(KeyboardInterrupt):
        run_study(tmp_path, settings=few)
    run_study(tmp_path, settings=few)
    assert computed[:6] == [*(("read", layer) for layer in range(4)), ("ignored", 0), ("ignored", 1)]
    assert computed[6:] == [("ignored", layer) for layer in (1, 2, 3)]


def test_a_run_with_fewer_texts_does_not_take_those_that_another_run_kept(finished, tmp_path):
    folder = finished[0]
    fewer = ErasureSettings(every=9, erasers=["leace"], random_subspaces=2, collateral_rows=12)
    run_study(tmp_path / "shared", settings=fewer, cache=folder / "cache")
    run_study(tmp_path / "own", settings=fewer)
    found = [
        cells(read_results(tmp_path / place / "out" / "results.csv"), "collateral/text") for place in ("shared", "own")
    ]
    assert [row.value for row in found[0].values()] == [row.value for row in found[1].values()]
    assert found[0]


def test_models_and_tasks_that_do_not_suit_are_refused(tmp_path, caplog):
    generation = Task("text", "generation", (), toy_suite().tasks[0].splits)
    with pytest.raises(ValueError, match="no classification task"):
        run_study(tmp_path, suite=lambda: Suite("s", (generation,)))
    with pytest.raises(ValueError, match=r"1 test rows of 'no'.*suite\.max_rows"):
        run_study(
            tmp_path, suite=lambda: starter_suite(["entailment"], max_rows={"train": 8, "validation": 4, "test": 2})
        )
    with pytest.raises(ValueError, match=r"extraction\.pooling=last"):
        run_study(tmp_path, extraction=ExtractionSettings(pooling="mean"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"erasers": ["leece"]}, r"Unknown eraser \['leece'\].*leace"),
        ({"erasers": ["inlp"]}, r"from_layer_on.*leace"),
        ({"random_subspaces": 1}, r"random_subspaces` must be at least 2"),
        ({"every": 0}, r"every` must be at least 1"),
        ({"positions": "middle"}, r"Unknown positions 'middle'. There are all, last.*study\.erasure\.positions"),
    ],
)
def test_settings_out_of_range_are_refused(options, message: str):
    with pytest.raises(ValueError, match=message):
        ErasureSettings(**options)
