from __future__ import annotations

from dataclasses import replace

import numpy as np
from report_samples import MEAN, a_matrix, results_of
from rich.console import Console

from probes.report import layer_table
from probes.values import Result

VALUES = np.array([[0.5, 0.25], [0.75, 0.5], [0.25, np.nan], [1.0, 0.13]])


def some_results() -> list[Result]:
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
    sst2, trec = shown(some_results()).splitlines()[4:6]
    assert sst2.split() == [
        *("sst2", "0.250", "[0.15,", "0.35]", "2", "1.000", "[0.90,", "1.10]", "final", "0.625"),
        *("2", "of", "4", "400"),
    ]
    assert trec.split() == [
        *("trec", "0.130", "[0.03,", "0.23]", "final", "0.500", "[0.40,", "0.60]", "1", "0.293"),
        *("2", "of", "3", "400"),
    ]


def test_layers_below_the_level_are_counted_among_those_with_a_p():
    results = some_results()
    assert [row[6] for row in rows(results)] == ["2 of 4", "2 of 3"]  # 0.05 itself is not below
    assert [row[6] for row in rows([replace(r, p=None) for r in results])] == ["", ""]


def test_without_interval_or_n_the_value_stands_alone():
    bare = [replace(r, ci_low=None, n=None) for r in some_results()]
    assert rows(bare)[0][1] == "0.250"
    assert rows(bare)[0][-1] == ""


def test_the_first_reading_that_has_the_metric_is_shown():
    values = {row[0]: row[5] for row in rows(some_results()[::-1])}
    assert values == {"trec": "0.000", "sst2": "0.000"}


def test_a_task_without_any_value_and_an_unknown_metric_have_no_row():
    assert [row[0] for row in rows([replace(r, value=np.nan) if r.task == "trec" else r for r in some_results()])] == [
        "sst2"
    ]
    assert layer_table(some_results(), "nothing").row_count == 0


def test_names_in_brackets_are_shown_as_they_are():
    assert "[red]task" in shown([replace(r, task="[red]task") for r in some_results() if r.task == "sst2"])
