"""Runs of `train.py` compared with each other by `probes compare`, from their folders alone."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from probes.cli import CONFIG_DIR, main
from probes.report import read_results, read_run
from probes.run import run
from probes.studies.compare_runs import compare_runs, labels_of

pytestmark = pytest.mark.slow


def finished(folder, *overrides: str):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        paths = (f"paths.cache_dir={folder.parent / 'cache'}", f"paths.output_dir={folder}")
        run(compose("train", overrides=["experiment=quick", "logger=csv", *paths, *overrides]))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return (
        finished(folder / "linear"),
        finished(folder / "strong", "probe.penalties=[1000.0]"),
        finished(folder / "other_rows", "suite.max_rows=60"),
    )


def command(monkeypatch, capsys, *words) -> str:
    monkeypatch.setattr(sys, "argv", ["probes", *map(str, words)])
    main()
    return capsys.readouterr().out


def test_two_probes_are_compared_from_the_command_line(runs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    printed = command(monkeypatch, capsys, "compare", *runs[:2], "--output", out, "--exchanges", 50, "--resamples", 50)
    assert "Score of strong minus score of linear" in printed
    assert (out / "report.html").is_file()
    assert (out / "figures" / "difference_macro_f1.png").is_file()
    rows = read_results(out / "results.csv")
    sides = [read_run(folder).matrix("macro_f1") for folder in runs[:2]]
    for row in (row for row in rows if row.metric == "difference/macro_f1"):
        place = sides[0].layers.index(row.layer), sides[0].tasks.index(row.task)
        assert row.value == pytest.approx(sides[1].values[place] - sides[0].values[place], abs=1e-9)
        assert row.p is not None
        assert row.p >= row.p_cell
    again = command(monkeypatch, capsys, "compare", *runs[:2], "--output", out, "--exchanges", 50, "--resamples", 50)
    assert again == printed


def test_a_run_does_not_differ_from_itself_and_three_runs_have_roles(runs, tmp_path):
    first, second = (read_run(folder) for folder in runs[:2])
    found = compare_runs([first, second, first], tmp_path / "out", labels=["a", "b", "c"], exchanges=20, resamples=20)
    differences = {row.role: [] for row in found.rows if row.metric == "difference/macro_f1"}
    for row in found.rows:
        if row.metric == "difference/macro_f1":
            differences[row.role].append(row.value)
    assert np.abs(differences["b"]).max() > 0
    assert np.abs(differences["c"]).max() == 0


def test_other_test_rows_are_refused_by_name(runs, tmp_path):
    with pytest.raises(ValueError, match="Task 'subject_number' cannot be compared: the runs have different test rows"):
        compare_runs([read_run(folder) for folder in (runs[0], runs[2])], tmp_path / "out")


def test_equal_names_are_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="2 runs need as many different names; got a, a"):
        compare_runs([read_run(folder) for folder in runs[:2]], tmp_path / "out", labels=["a", "a"])


def test_a_folder_that_holds_something_else_is_refused_before_anything_is_computed(runs, tmp_path, monkeypatch):
    (tmp_path / "thesis.txt").write_text("mine")
    never = "probes.studies.compare_runs.paired_score_difference"
    monkeypatch.setattr(never, lambda *_, **__: pytest.fail("differences were computed"))
    monkeypatch.setattr(sys, "argv", ["probes", "compare", *map(str, runs[:2]), "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="holds something other than a comparison"):
        main()


def test_runs_without_hydra_are_named_by_their_folders(runs):
    assert labels_of([read_run(folder) for folder in runs[:2]]) == ("linear", "strong")
