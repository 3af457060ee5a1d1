from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_samples import LAST, MEAN, a_matrix, best_at, results_of
from rich.console import Console
from rich.table import Table

from probes.report import best_layer_table, difference_table, layer_table, learning_table, path_lines, print_best_layers
from probes.values import Result

BEST = best_at({"sst2": "final"}) | best_at({"trec": 1}, (0, 1, "final"))


def row(table: Table, number: int) -> list[str]:
    return [str(list(column.cells)[number]) for column in table.columns]


def rows(table: Table) -> list[list[str]]:
    return [row(table, number) for number in range(table.row_count)]


def printed(table: Table) -> str:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


class TestBestLayerTable:
    @pytest.fixture
    def results(self) -> list[Result]:
        """Accuracy k/100 in the k-th of 8 cells, macro-F1 0.01 less; another reading and another split."""
        values = np.arange(60, 68).reshape(4, 2) / 100
        layout = {"layers": (0, 1, 2, "final"), "tasks": ("sst2", "trec")}
        accuracy = a_matrix(values=values, **layout)
        return [
            *results_of(accuracy, "accuracy"),
            *results_of(a_matrix(values=values - 0.01, **layout), "macro_f1"),
            *results_of(a_matrix(values=values - 0.3, **layout), "macro_f1", control="shuffled_labels"),
            *results_of(a_matrix(values=values - 0.5, **layout), "selectivity"),
            *results_of(accuracy, "accuracy", split="validation"),
            *results_of(a_matrix(values=values * 0, reading=MEAN, **layout), "macro_f1"),
            Result(task="sst2", split="test", control="majority", metric="accuracy", value=0.5),
        ]

    def test_each_task_shows_its_scores_at_its_best_layer(self, results):
        table = best_layer_table(results, best_layers=BEST, classes={"sst2": 2, "trec": 6})
        assert [str(column.header) for column in table.columns] == [
            *("task", "classes", "best layer", "best_layers", "macro_f1 [95 %]", "shuffled labels", "selectivity"),
            *("accuracy", "majority accuracy", "n"),
        ]
        assert rows(table) == [
            ["sst2", "2", "final", "final", "0.650 [0.55, 0.75]", "0.360", "+0.160", "0.660", "0.500", "400"],
            ["trec", "6", "1", "0–1, final", "0.620 [0.52, 0.72]", "0.330", "+0.130", "0.630", "", "400"],
        ]

    def test_a_narrow_terminal_gets_five_columns_and_a_sketch_over_layers(self, results):
        table = best_layer_table(results, best_layers=BEST, classes={"sst2": 2, "trec": 6}, width=80)
        assert [str(column.header) for column in table.columns] == [
            *("task", "best layers", "macro_f1 [95 %]", "selectivity", "over layers"),
        ]
        assert rows(table) == [
            ["sst2", "final (final)", "0.650 [0.55, 0.75]", "+0.160", "▁▃▆█"],
            ["trec", "1 (0–1, final)", "0.620 [0.52, 0.72]", "+0.130", "▁▃▆█"],
        ]
        assert best_layer_table(results, best_layers=BEST, width=120).columns[-1].header == "n"

    @pytest.mark.parametrize("width", [80, 120])
    def test_the_name_of_a_task_stands_on_one_line(self, results, width):
        named = [replace(result, task={"sst2": "formal_fallacies"}.get(result.task, result.task)) for result in results]
        chosen = best_at({"formal_fallacies": 1, "trec": 1})
        many = tuple(range(0, 40, 2))
        chosen = {task: replace(best, layers=many) for task, best in chosen.items()}
        table = best_layer_table(named, best_layers=chosen, classes={"formal_fallacies": 2, "trec": 6}, width=width)
        console = Console(width=width)
        with console.capture() as capture:
            console.print(table)
        assert "formal_fallacies" in capture.get()

    def test_a_regression_task_shows_its_r2(self):
        results = results_of(a_matrix(tasks=("age",), values=np.full((4, 1), 0.25)), "r2")
        table = best_layer_table(results, best_layers=best_at({"age": 0}))
        assert rows(table) == [["age", "0", "0", "0.250 [0.15, 0.35]", "", "", "", "", "400"]]
        assert str(table.columns[3].header) == "r2 [95 %]"

    def test_the_header_says_what_the_intervals_are_over(self, results):
        wide = [replace(r, interval_over="rows and training sets" if r.task == "sst2" else "rows") for r in results]
        headers = [
            str(best_layer_table(wide, best_layers={task: BEST[task] for task in tasks}).columns[3].header)
            for tasks in (["sst2"], ["trec"], ["sst2", "trec"])
        ]
        assert [" ".join(header.split()) for header in headers] == [
            "macro_f1 [95 % over rows and training sets]",
            "macro_f1 [95 % over rows]",
            "macro_f1 [95 % over rows and training sets or rows]",
        ]
        assert max(len(line) for header in headers for line in header.splitlines()) <= 20

    def test_another_reading_can_be_chosen(self, results):
        assert row(best_layer_table(results, best_layers=BEST, reading=MEAN), 0)[3].startswith("0.000")

    def test_results_of_two_seeds_are_refused(self, results):
        with pytest.raises(ValueError, match="Two results give accuracy of task 'sst2' at layer 0"):
            best_layer_table([*results, replace(results[0], seed=1)], best_layers=BEST)

    def test_below_the_table_are_paths_that_can_be_copied(self, results, capsys):
        folder = Path("a" * 130) / "[bold]"
        print_best_layers(results, best_layers=BEST, figure=folder / "f.png", output_dir=folder)
        lines = capsys.readouterr().out.splitlines()
        assert lines[-2:] == [f"picture: {folder / 'f.png'}", f"everything: {folder}"]
        assert any("sst2" in line and "0.650 [0.55, 0.75]" in line for line in lines)


class TestLayerTable:
    VALUES = np.array([[0.5, 0.25], [0.75, 0.5], [0.25, np.nan], [1.0, 0.13]])

    @pytest.fixture
    def results(self) -> list[Result]:
        """Values of one quantity with p = 0.01, 0.02, …, then another quantity, another reading and a single number."""
        tasks = ("sst2", "trec")
        tested = results_of(a_matrix(values=self.VALUES, tasks=tasks), "reference_cka")
        return [
            *(replace(result, p=0.01 * (k + 1)) for k, result in enumerate(tested)),
            *results_of(a_matrix(values=self.VALUES * 0, tasks=tasks), "label_cka"),
            *results_of(a_matrix(values=self.VALUES * 0, tasks=tasks, reading=MEAN), "reference_cka"),
            Result(task="sst2", metric="reference_cka", value=9.0),
        ]

    def table(self, results: list[Result]) -> Table:
        return layer_table(results, "reference_cka")

    def test_each_task_shows_its_lowest_and_highest_value_and_its_mean_over_layers(self, results):
        sst2, trec = printed(self.table(results)).splitlines()[4:6]
        assert sst2.split() == [
            *("sst2", "0.250", "[0.15,", "0.35]", "2", "1.000", "[0.90,", "1.10]", "final", "0.625"),
            *("2", "of", "4", "400"),
        ]
        assert trec.split() == [
            *("trec", "0.130", "[0.03,", "0.23]", "final", "0.500", "[0.40,", "0.60]", "1", "0.293"),
            *("2", "of", "3", "400"),
        ]

    def test_significant_layers_are_counted_among_those_with_a_p(self, results):
        counts = [cells[6] for cells in rows(self.table(results))]
        assert counts == ["2 of 4", "2 of 3"]  # 0.05 itself is not significant
        without_p = [replace(result, p=None) for result in results]
        assert [cells[6] for cells in rows(self.table(without_p))] == ["", ""]

    def test_without_interval_or_n_only_the_value_is_shown(self, results):
        cells = row(self.table([replace(result, ci_low=None, n=None) for result in results]), 0)
        assert cells[1] == "0.250"
        assert cells[-1] == ""

    def test_the_first_reading_that_has_the_metric_is_shown(self, results):
        means = {cells[0]: cells[5] for cells in rows(self.table(results[::-1]))}
        assert means == {"trec": "0.000", "sst2": "0.000"}

    def test_a_task_without_any_value_and_an_unknown_metric_have_no_row(self, results):
        without_trec = [replace(result, value=np.nan) if result.task == "trec" else result for result in results]
        assert [cells[0] for cells in rows(self.table(without_trec))] == ["sst2"]
        assert layer_table(results, "nothing").row_count == 0

    def test_names_with_brackets_are_printed_as_they_are(self, results):
        assert "[red]task" in printed(self.table([replace(result, task="[red]task") for result in results]))


def score(task: str, role: str, value: float, metric: str = "answer_loss_nats", seed: int | None = None) -> Result:
    return Result(task=task, role=role, metric=metric, value=value, seed=seed, split="test")


class TestLearningTable:
    BASE, CONTROL = score("sst2", "base", 5.125), score("sst2", "control", 0.25, seed=3)

    def test_a_row_shows_the_scores_of_the_base_and_of_the_tuned_model(self):
        exact = [score("sst2", "base", 0.5, "exact_match"), score("sst2", "control", 0.875, "exact_match", seed=3)]
        table = learning_table([self.BASE, self.CONTROL, *exact])
        assert rows(table) == [["sst2 (control)", "5.125 → 0.250", "0.500 → 0.875", " → ", " → "]]
        assert [column.header for column in table.columns] == ["model", "loss (nats)", "exact match", "ROUGE-L", "chrF"]

    def test_the_seed_tells_later_models_of_the_same_task_apart(self):
        second = replace(self.CONTROL, seed=4, value=0.3)
        table = learning_table([self.BASE, self.CONTROL, second, score("trec", "control", 1.0, seed=3)])
        assert [cells[:2] for cells in rows(table)] == [
            ["sst2 (control)", "5.125 → 0.250"],
            ["sst2 (control, seed 4)", "5.125 → 0.300"],
            ["trec (control)", " → 1.000"],
        ]

    def test_each_model_is_compared_with_the_base_on_its_task(self):
        mixture = [score("mixture", "base", 4.0), score("mixture", "experimental", 2.0)]
        table = learning_table([self.BASE, self.CONTROL, *mixture])
        assert [cells[:2] for cells in rows(table)] == [
            ["sst2 (control)", "5.125 → 0.250"],
            ["mixture (experimental)", "4.000 → 2.000"],
        ]

    def test_unknown_scores_are_blank_and_other_results_have_no_row(self):
        table = learning_table(
            [
                score("merged", "experimental", math.nan),
                Result(task="probed", role="control", metric="chrf", layer=2, value=0.9),
                Result(task="other", role="control", metric="macro_f1", value=0.9),
            ]
        )
        assert rows(table) == [["merged (experimental)", *[" → "] * 4]]

    def test_names_with_brackets_are_printed_as_they_are(self):
        assert "odd[/red] (control)" in printed(learning_table([score("odd[/red]", "control", 1.0)]))


@pytest.mark.parametrize("readings", [(LAST,), (LAST, MEAN)])
def test_differences_have_a_row_for_each_task_and_reading(readings):
    differences = [
        replace(row, backbone="b", p=p)
        for place, reading in enumerate(readings)
        for row, p in zip(
            results_of(
                a_matrix(
                    layers=(0, 1), tasks=("sst2",), values=np.array([[0.1], [-0.3]]) / (1 + place), reading=reading
                ),
                "difference/macro_f1",
            ),
            (0.5, 0.01),
            strict=True,
        )
    ]
    best = replace(differences[0], layer=None, metric="difference_at_best_layers/macro_f1", value=0.2, p=0.04)
    found = rows(difference_table([*differences, best], label="b", reference="a"))
    names = ["sst2"] if len(readings) == 1 else [f"sst2 ({reading})" for reading in readings]
    assert [row[0] for row in found] == names
    assert found[0][1:] == ["+0.200 [0.00, 0.20]", "0.04", "layer 1", "-0.300 [-0.40, -0.20]", "1 of 2", "400"]
    assert [row[1:] for row in found[1:]] == [["", "", "layer 1", "-0.150 [-0.25, -0.05]", "1 of 2", "400"]] * (
        len(readings) - 1
    )


def test_paths_inside_the_working_folder_are_shown_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = path_lines(report=tmp_path / "out" / "report.html", picture=None, everything=Path("/elsewhere"))
    assert lines == ["report: out/report.html", "everything: /elsewhere"]
