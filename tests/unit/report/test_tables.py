from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_samples import MEAN, a_matrix, results_of

from probes.report import best_layer_table, print_best_layers
from probes.values import Result

BEST = {"sst2": "final", "trec": 1}


def some_results() -> list[Result]:
    """Accuracy k/100 at the k-th of 8 cells, macro-F1 a hundredth less; another reading, another split."""
    values = np.arange(60, 68).reshape(4, 2) / 100
    layout = {"layers": (0, 1, 2, "final"), "tasks": ("sst2", "trec")}
    shown = a_matrix(values=values, **layout)
    results = results_of(shown, "accuracy") + results_of(a_matrix(values=values - 0.01, **layout), "macro_f1")
    results += results_of(a_matrix(values=values - 0.3, **layout), "macro_f1", control="shuffled_labels")
    results += results_of(a_matrix(values=values - 0.5, **layout), "selectivity")
    results += results_of(shown, "accuracy", split="validation")
    results += results_of(a_matrix(values=values * 0, reading=MEAN, **layout), "macro_f1")
    return [*results, Result(task="sst2", split="test", control="majority", metric="accuracy", value=0.5)]


def cells(table, row: int) -> list[str]:
    return [list(column.cells)[row] for column in table.columns]


def test_each_task_shows_its_scores_at_its_best_layer():
    table = best_layer_table(some_results(), best_layers=BEST, classes={"sst2": 2, "trec": 6})
    assert [str(column.header) for column in table.columns] == [
        *("task", "classes", "best layer", "macro_f1 [95 %]", "shuffled labels", "selectivity", "accuracy"),
        *("majority accuracy", "n"),
    ]
    scores = ["0.650 [0.55, 0.75]", "0.360", "+0.160", "0.660", "0.500", "400"]
    assert cells(table, 0) == ["sst2", "2", "final", *scores]
    assert cells(table, 1) == ["trec", "6", "1", "0.620 [0.52, 0.72]", "0.330", "+0.130", "0.630", "", "400"]


def test_a_regression_task_shows_its_share_of_variance():
    results = results_of(a_matrix(tasks=("age",), values=np.full((4, 1), 0.25)), "r2")
    table = best_layer_table(results, best_layers={"age": 0})
    assert cells(table, 0) == ["age", "0", "0.250 [0.15, 0.35]", "", "", "", "", "400"]
    assert str(table.columns[2].header) == "r2 [95 %]"


def test_another_reading_is_shown_when_asked_for():
    assert cells(best_layer_table(some_results(), best_layers=BEST, reading=MEAN), 0)[2].startswith("0.000")


def test_results_of_two_seeds_are_refused():
    results = some_results()
    with pytest.raises(ValueError, match="Two results claim accuracy of task 'sst2' at layer 0"):
        best_layer_table([*results, replace(results[0], seed=1)], best_layers=BEST)


def test_the_last_screen_is_the_table_and_paths_that_can_be_copied(capsys):
    out = Path("a" * 130) / "[bold]"
    print_best_layers(some_results(), best_layers=BEST, figure=out / "f.png", output_dir=out)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [f"picture: {out / 'f.png'}", f"everything: {out}"]
    assert any("sst2" in line and "0.650 [0.55, 0.75]" in line for line in lines)
