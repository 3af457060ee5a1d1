"""A run's folder alone gives tables, matrices, figures, predictions and the report."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from report_samples import MEAN, a_matrix, best_at

from probes.metrics import Predictions
from probes.probe_measures import TaskTable
from probes.report import (
    FilesOnly,
    read_predictions,
    read_run,
    report_run,
    write_predictions,
    write_report,
    write_task_table,
)
from probes.report.csv_files import read_best_layers, read_task_maps, write_best_layers, write_task_maps
from probes.report.figures.task_maps import TaskMap
from probes.report.page.sentences import findings_in_words
from probes.values import BestLayers, Reading, Result

HOSTILE = '</script><script>alert("x")</script>&é'


def rows_of(matrix, **same):
    return [
        Result(
            task=task,
            cluster="syntax" if task == "sst2" else "other",
            stack=matrix.reading.stack,
            site=matrix.reading.site,
            pooling=matrix.reading.pooling,
            layer=layer,
            split="test",
            metric=matrix.quantity.removeprefix("probe/"),
            probe="linear" if matrix.quantity.startswith("probe/") else "",
            unit=matrix.unit,
            value=float(matrix.values[i, j]),
            ci_low=float(matrix.ci_low[i, j]),
            ci_high=float(matrix.ci_high[i, j]),
            interval_over="rows",
            null_mean=0.5,
            p=0.001,
            p_cell=0.0005,
            n=400,
            **same,
        )
        for i, layer in enumerate(matrix.layers)
        for j, task in enumerate(matrix.tasks)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    names = {"study": "probe", "backbone": HOSTILE, "suite": "toys"}
    scores, others = a_matrix("probe/macro_f1", tasks=("sst2", "trec", HOSTILE)), a_matrix("label_cka", reading=MEAN)
    results = [*rows_of(scores, **names), *rows_of(others, **names)]
    best = best_at({"sst2": 2, HOSTILE: "final"}, possible=(1, 2, "final"))
    report_run(path, results=results, matrices=[scores, others], best_layers=best, logger=FilesOnly())
    (path / "config.yaml").write_text("seed: 0\nprobe: {penalties: [0.1]}\n")
    (path / "provenance.json").write_text('{"command": ["train.py", "seed=0"], "tasks": {"sst2": {"test": 400}}}')
    write_report(path)
    return path


def test_results_matrices_and_config_read_back(folder):
    run = read_run(folder)
    assert run.quantities == ("probe/macro_f1", "label_cka")
    matrix, sample = run.matrix("macro_f1"), a_matrix("probe/macro_f1")
    np.testing.assert_array_equal(matrix.values, sample.values)
    np.testing.assert_array_equal(matrix.n, 400)
    assert (matrix.clusters, matrix.interval_over) == (("syntax", "other", "other"), "rows")
    assert run.matrix("label_cka", "decoder.residual.mean").reading == MEAN
    assert run.results.query("metric == 'macro_f1'")["value"].tolist() == sample.values.ravel().tolist()
    assert (run.config["seed"], run.main_quantity) == (0, "probe/macro_f1")
    assert run.best_layers["sst2"].layers == (1, 2, "final")


def test_figures_are_drawn_again_from_the_folder(folder):
    run = read_run(folder)
    assert run.heatmap("macro_f1").axes[0].get_title(loc="left").startswith("probe/macro_f1")
    assert [axes.get_title() for axes in run.profile("trec").axes] == ["trec"]


def test_what_the_run_lacks_is_named_with_what_it_has(folder, tmp_path):
    run = read_run(folder)
    with pytest.raises(KeyError, match=r"no quantity 'auroc' of any reading. It has macro_f1, label_cka"):
        run.matrix("auroc")
    with pytest.raises(KeyError, match=r"has no task rte. It has sst2, trec"):
        run.profile("rte")
    with pytest.raises(FileNotFoundError, match=r"is no run's folder: it holds no results.csv"):
        read_run(tmp_path)


def test_the_report_is_written_again_to_the_same_bytes_in_another_place(folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "moved")
    first = (folder / "report.html").read_bytes()
    assert write_report(moved).read_bytes() == first
    assert len(first) < 3e6


def test_no_text_of_a_run_is_markup_in_its_report(folder):
    page = (folder / "report.html").read_text()
    assert "alert(" in page  # it is shown,
    assert "<script>alert" not in page  # but escaped
    assert page.count("</script>") == 3


def test_the_report_says_what_was_found(folder):
    page = (folder / "report.html").read_text()
    assert "is decoded best" in page
    assert "python train.py seed=0" in page


def test_every_study_has_its_question_whatever_its_name(folder):
    run = read_run(folder)
    options = sorted((Path(__file__).parents[3] / "conf" / "study").glob("*.yaml"))
    asked = {}
    for option in options:
        target = yaml.safe_load(option.read_text())["_target_"]
        own = replace(run, config={"study": {"_target_": target, "name": "mine"}})
        assert own.kind == option.stem
        asked[option.stem] = findings_in_words(own)[0].partition(", on ")[0]
    assert len(set(asked.values())) == len(options) == 13
    assert "hold the trees of sentences" in asked["trees"]
    assert not [question for question in asked.values() if "what the layers of" in question]


def test_the_name_of_a_study_says_its_kind_where_the_config_does_not(folder):
    assert read_run(folder).kind == "probe"


def test_the_report_of_an_interrupted_run_says_so_first(folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert read_run(moved).state == ""
    for state, words in (("interrupted", "This run was interrupted before its end"), ("finished", "This run asks")):
        (moved / "run_state.json").write_text(f'{{"state": "{state}", "config_digest": ""}}')
        with warnings.catch_warnings(action="ignore"):
            page = write_report(moved).read_text()
        assert page.split("<li>")[1].startswith(words)
        assert read_run(moved).state == state


def test_best_layers_and_maps_read_back(tmp_path):
    best = [
        BestLayers("a", 3, (3, 4, 5, 9, "final"), "macro_f1", 0.8, n=400),
        BestLayers("b", "final", None, "mse", 0.1, n=5),
    ]
    assert read_best_layers(write_best_layers(best, tmp_path / "best.csv")) == best
    points = np.array([[0.1, 1 / 3], [np.nan, 2.0]])
    maps = [TaskMap(layer, points, ("a", "b"), apart) for layer, apart in ((1, 0.5), ("final", float("nan")))]
    for own, read in zip(maps, read_task_maps(write_task_maps(maps, tmp_path / "maps.csv")), strict=True):
        assert (own.layer, own.tasks) == (read.layer, read.tasks)
        np.testing.assert_array_equal(own.points, read.points)


KINDS = {
    "classification": (np.array([[0, 1, 2]], np.int16), np.array([0, 1, 1], np.int16), ("a", "b", "c")),
    "multilabel": (np.array([[[True, False], [False, True]]]), np.array([[True, True], [False, True]]), ("a", "b")),
    "regression": (np.array([[0.5, 1.5]], np.float32), np.array([0.25, 2.0], np.float32), ()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_read_back(kind, tmp_path):
    predicted, targets, labels = KINDS[kind]
    own = Predictions(
        task="t/…",
        kind=kind,
        reading=Reading("decoder", "residual", "last"),
        labels=labels,
        layers=("final",),
        row_ids=tuple(map(str, range(len(targets)))),
        predicted=predicted,
        targets=targets,
    )
    read = read_predictions(write_predictions(own, tmp_path / "p.npz"))
    np.testing.assert_array_equal(read.predicted, predicted)
    np.testing.assert_array_equal(read.targets, targets)
    assert (read.task, read.reading, read.row_ids, read.labels) == (own.task, own.reading, own.row_ids, labels)
    with pytest.raises(ValueError, match="expect the shape"):
        replace(own, layers=(0, 1))


def test_damaged_predictions_are_named(tmp_path):
    path = tmp_path / "p.npz"
    path.write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(ValueError, match=r"p.npz cannot be read as predictions"):
        read_predictions(path)


def test_small_tables_of_tasks_are_read_back_and_shown_with_rounded_numbers(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    place = {"task": "sst2", "reading": MEAN}
    small = TaskTable(name="per_class", columns={"class": [HOSTILE, "b"], "f1": [-0.123456, float("nan")]}, **place)
    wide = TaskTable(name="by_row", columns={f"layer {k}": [0.5] for k in range(9)}, **place)
    for table in (small, wide):
        write_task_table(table, tmp_path / "run" / "tables", stem="sst2")
    run = read_run(tmp_path / "run")
    assert run.tables["per_class"]["sst2"] == [["class", "f1"], [HOSTILE, "-0.123456"], ["b", "nan"]]
    text = write_report(run).read_text()
    assert "<td>−0.1235</td>" in text
    assert "per class (1 task)" in text
    assert "by row" not in text
    assert "<td>" + HOSTILE not in text


def test_results_of_150_classes_are_shown_whole_and_those_of_many_layers_at_the_best_one(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    place = {"task": "sst2", "reading": MEAN}
    best = read_run(tmp_path / "run").best_layers["sst2"].layer
    layers = [best, *(layer for layer in range(100, 160))]
    classes = [f"class {k}" for k in range(150)]
    tables = (
        TaskTable(name="per_class", columns={"class": classes, "f1": [0.5] * 150}, **place),
        TaskTable(name="curves", columns={"layer": layers, "at": [f"curve {layer}" for layer in layers]}, **place),
        TaskTable(name="by_row", columns={"row": [f"row {k}" for k in range(161)]}, **place),
    )
    for table in tables:
        write_task_table(table, tmp_path / "run" / "tables", stem="sst2")
    text = write_report(read_run(tmp_path / "run")).read_text()
    assert "<td>class 149</td>" in text
    assert f"<td>curve {best}</td>" in text
    assert "<td>curve 101</td>" not in text
    assert "<td>row 1</td>" not in text
