from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_samples import MEAN, a_matrix, results_of
from rich.console import Console

from probes.report import best_layer_table, layer_table, learning_table, print_best_layers
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


VALUES = np.array([[0.5, 0.25], [0.75, 0.5], [0.25, np.nan], [1.0, 0.13]])


def some_results_layer_summary() -> list[Result]:
    results = results_of(a_matrix(values=VALUES, tasks=("sst2", "trec")), "reference_cka")
    results = [replace(r, p=0.01 * (i + 1)) for i, r in enumerate(results)]
    other = a_matrix(values=VALUES * 0, tasks=("sst2", "trec"))
    results += results_of(other, "label_cka")
    results += results_of(a_matrix(values=VALUES * 0, tasks=("sst2", "trec"), reading=MEAN), "reference_cka")
    return [*results, Result(task="sst2", metric="reference_cka", value=9.0)]  # of no layer


def rows(results: list[Result]) -> list[list[str]]:
    table = layer_table(results, "reference_cka")
    return [list(row) for row in zip(*(column.cells for column in table.columns), strict=True)]


def shown(results: list[Result]) -> str:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(layer_table(results, "reference_cka"))
    return capture.get()


def test_each_task_shows_its_lowest_highest_and_mean_over_layers():
    sst2, trec = shown(some_results_layer_summary()).splitlines()[4:6]
    assert sst2.split() == [
        *("sst2", "0.250", "[0.15,", "0.35]", "2", "1.000", "[0.90,", "1.10]", "final", "0.625"),
        *("2", "of", "4", "400"),
    ]
    assert trec.split() == [
        *("trec", "0.130", "[0.03,", "0.23]", "final", "0.500", "[0.40,", "0.60]", "1", "0.293"),
        *("2", "of", "3", "400"),
    ]


def test_layers_below_the_level_are_counted_among_those_with_a_p():
    results = some_results_layer_summary()
    assert [row[6] for row in rows(results)] == ["2 of 4", "2 of 3"]  # 0.05 itself is not below
    assert [row[6] for row in rows([replace(r, p=None) for r in results])] == ["", ""]


def test_without_interval_or_n_the_value_stands_alone():
    bare = [replace(r, ci_low=None, n=None) for r in some_results_layer_summary()]
    assert rows(bare)[0][1] == "0.250"
    assert rows(bare)[0][-1] == ""


def test_the_first_reading_that_has_the_metric_is_shown():
    values = {row[0]: row[5] for row in rows(some_results_layer_summary()[::-1])}
    assert values == {"trec": "0.000", "sst2": "0.000"}


def test_a_task_without_any_value_and_an_unknown_metric_have_no_row():
    assert [
        row[0]
        for row in rows([replace(r, value=np.nan) if r.task == "trec" else r for r in some_results_layer_summary()])
    ] == ["sst2"]
    assert layer_table(some_results_layer_summary(), "nothing").row_count == 0


def test_names_in_brackets_are_shown_as_they_are():
    assert "[red]task" in shown(
        [replace(r, task="[red]task") for r in some_results_layer_summary() if r.task == "sst2"]
    )


def printed(*results: Result) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(learning_table(results))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def score(task: str, role: str, value: float, metric: str = "answer_loss_nats", seed: int | None = None) -> Result:
    return Result(task=task, role=role, metric=metric, value=value, seed=seed, split="test")


SST2 = [score("sst2", "base", 5.125), score("sst2", "control", 0.25, seed=3)]


def line(text: str, start: str) -> list[str]:
    (found,) = [line.split() for line in text.splitlines() if line.strip().startswith(start)]
    return found


def test_a_model_is_a_line_from_its_base_to_itself():
    text = printed(*SST2, score("sst2", "base", 0.5, "exact_match"), score("sst2", "control", 0.875, "exact_match", 3))
    assert line(text, "sst2") == ["sst2", "(control)", "5.125", "→", "0.250", "0.500", "→", "0.875", "→", "→"]
    assert all(title in text for title in ("loss (nats)", "exact match", "ROUGE-L", "chrF"))


def test_controls_after_the_first_are_told_apart_by_their_seeds():
    text = printed(*SST2, replace(SST2[1], seed=4, value=0.3), score("trec", "control", 1.0, seed=3))
    assert line(text, "sst2 (control)")[2:5] == ["5.125", "→", "0.250"]
    assert line(text, "sst2 (control, seed 4)")[4:7] == ["5.125", "→", "0.300"]
    assert line(text, "trec (control)")[2:4] == ["→", "1.000"]


def test_each_task_meets_its_own_base():
    text = printed(*SST2, score("mixture", "base", 4.0), score("mixture", "experimental", 2.0))
    assert line(text, "mixture (experimental)")[2:5] == ["4.000", "→", "2.000"]
    assert line(text, "sst2")[2:5] == ["5.125", "→", "0.250"]


def test_unknown_scores_and_other_results_leave_no_number():
    text = printed(
        *SST2,
        score("merged", "experimental", math.nan),
        Result(task="probed", role="control", metric="chrf", layer=2, value=0.9),
        Result(task="other", role="control", metric="macro_f1", value=0.9),
    )
    assert line(text, "merged")[2:] == ["→"] * 4
    assert "probed" not in text
    assert "other" not in text


def test_names_with_brackets_are_printed_as_they_are():
    assert "odd[/red] (control)" in printed(score("odd[/red]", "control", 1.0))
