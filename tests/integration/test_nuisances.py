"""Audits in whole runs: a tag in the texts of a folder is found, and stands in the run's files and on its page."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from logged_objectives import with_logged_objective

from probes.cli import CONFIG_DIR
from probes.report import read_results
from probes.run import run

WORDS = ["ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine", "rowan", "willow"]
ROWS = {"train": 200, "validation": 60, "test": 120}


def write_task(folder: Path) -> Path:
    """A task whose label the first word tells in nine of ten rows; the rest of the text is random."""
    draw = random.Random(0)
    (folder / "tagged").mkdir(parents=True)
    for split, rows in ROWS.items():
        lines = []
        for i in range(rows):
            tag = i % 2 if draw.random() < 0.9 else 1 - i % 2
            text = " ".join([("no", "yes")[tag], *draw.choices(WORDS, k=3), "end"])
            place = ("north", "south")[i // 2 % 2]
            row = {"inputs": text, "label": i % 2, "targets": ("bad", "good")[i % 2], "place": place}
            lines.append(json.dumps(row))
        (folder / "tagged" / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def configured(folder: Path, *overrides: str):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        paths = (f"paths.cache_dir={folder / 'cache'}", f"paths.output_dir={folder / 'out'}", "logger=csv")
        data = ("suite=local", f"suite.path={write_task(folder / 'data')}", "backbone=tiny", "extraction.pooling=mean")
        small = ("probe.min_validation_rows=20", "probe.training_sets=0", "probe.bootstrap_samples=50")
        return compose("train", overrides=[*paths, *data, *small, *overrides])


def test_a_tag_in_the_texts_of_a_folder_is_found(tmp_path):
    run(configured(tmp_path, "analysis=nuisances", "analysis.probe_measures.nuisances.resamples=50"))
    out = tmp_path / "out"
    with (out / "audit.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["layer"] for row in rows} == {"0", "1", "2", "3"}
    assert {row["verdict"] for row in rows} == {"explained by first word"}
    assert all(float(row["raw"]) > 0.8 > 0.65 > float(row["residual"]) for row in rows)
    metrics = {row.metric for row in read_results(out / "results.csv")}
    assert {"nuisance/residual_macro_f1", "nuisance/alone_words", "nuisance/alone_all_nuisances"} <= metrics
    assert (out / "figures" / "nuisance_residual_macro_f1.png").is_file()
    assert "explained by first word" in (out / "report.html").read_text()


def test_nuisances_that_do_not_exist_are_refused_before_anything_is_read(tmp_path):
    leave_out = "analysis.probe_measures.nuisances.leave_out"
    of_place = "suite.nuisances=[place]"
    with pytest.raises(ValueError, match=rf"`{leave_out}` names lenght, .* There are length, .*position, place\."):
        run(configured(tmp_path, "analysis=nuisances", of_place, f"{leave_out}=[lenght,place,first word]"))
    assert not (tmp_path / "cache" / "activations").exists()


def test_random_weights_are_read_in_another_pass_only_if_a_measure_asks(tmp_path):
    run(configured(tmp_path, "analysis=baselines", "analysis.probe_measures.baselines.resamples=50"))
    rows = read_results(tmp_path / "out" / "results.csv")
    metrics = {row.metric for row in rows}
    gains = {f"gain_over/{name}_macro_f1" for name in ("tfidf", "layer_0", "random_weights")}
    assert gains | {"baseline/tfidf_macro_f1", "baseline/random_weights_macro_f1"} <= metrics
    (tfidf,) = [row for row in rows if row.metric == "baseline/tfidf_macro_f1"]
    assert tfidf.value > 0.8
    stores = [path for path in (tmp_path / "cache" / "activations").iterdir() if path.is_dir()]
    assert len(stores) == 2  # of both backbones


def test_probes_of_tasks_that_share_labels_are_tried_on_each_other(tmp_path):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        paths = (f"paths.cache_dir={tmp_path / 'cache'}", f"paths.output_dir={tmp_path / 'out'}", "logger=csv")
        data = ("suite.tasks=[subject_number,object_number,tense]", "suite.max_rows=60", "backbone=tiny")
        small = ("study.resamples=50", "study.permutations=50", "study.training_sets=3", "study.shuffles=3")
        derived = "analysis.specificity_of=[transfer/minus_own_*]"
        cfg = compose("train", overrides=["study=transfer", *paths, *data, *small, "probe.training_sets=0", derived])
        with_logged_objective(lambda: run(cfg))
    out = tmp_path / "out"
    rows = read_results(out / "results.csv")
    pairs = {row.task for row in rows if row.metric == "transfer/minus_own_macro_f1"}
    assert pairs == {"subject_number → object_number", "object_number → subject_number"}
    assert {row.task for row in rows if row.metric == "transfer/cosine"} == {"subject_number → object_number"}
    assert {row.task for row in rows if row.metric == "specificity/transfer/minus_own_macro_f1"} == pairs
    assert all(row.ci_low is not None for row in rows if row.metric.startswith("transfer/") and row.layer != 0)
    page = (out / "report.html").read_text()
    assert "whether probes of tiny-0 that are trained on one task serve another" in page


def test_a_task_is_divided_by_a_column_and_tasks_without_a_partner_are_refused(tmp_path):
    small = (
        "study=transfer",
        "study.resamples=20",
        "study.permutations=20",
        "study.training_sets=0",
        "study.shuffles=0",
    )
    run(configured(tmp_path, *small, "suite.nuisances=[place]", "study.divide_by=place"))
    rows = read_results(tmp_path / "out" / "results.csv")
    pairs = {row.task: row for row in rows if row.metric == "transfer/macro_f1" and row.layer == 2}
    assert set(pairs) == {"tagged[north] → tagged[south]", "tagged[south] → tagged[north]"}
    assert all(row.value > 0.7 for row in pairs.values())
    with pytest.raises(ValueError, match=r"No two tasks of suite 'data' have the same labels \(tagged: bad, good\)"):
        run(configured(tmp_path / "other", "study=transfer"))


def test_without_the_tag_the_score_falls_to_chance_and_without_a_random_span_it_does_not(tmp_path):
    measure = "analysis/probe_measures=[spans]"
    spans = ("analysis.probe_measures.spans.spans={tag: '^(no|yes) '}", "analysis.probe_measures.spans.resamples=50")
    run(configured(tmp_path, "analysis=none", measure, *spans))
    rows = {(row.metric, row.layer): row for row in read_results(tmp_path / "out" / "results.csv")}
    assert rows["span/without_tag_macro_f1", 3].value < 0.65
    assert rows["span/without_random_tag_macro_f1", 3].value > 0.8
    assert rows["span/without_tag_macro_f1", 3].note.startswith("explained by tag; ")
    assert {row.task for row in rows.values()} == {"tagged"}
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert list(provenance["rows_cut"]) == ["tagged"]


def test_words_of_a_treebank_have_nuisances_and_baselines_of_their_own(tmp_path):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        paths = (f"paths.cache_dir={tmp_path / 'cache'}", f"paths.output_dir={tmp_path / 'out'}", "logger=csv")
        data = ("suite=treebank", "suite.tasks=[upos]", "suite.max_rows=30", "backbone=tiny", "backbone.layers=[0,3]")
        small = ("probe.bootstrap_samples=20", "probe.permutations=20", "probe.min_validation_rows=20")
        measures = ("analysis=none", "analysis/probe_measures=[nuisances,baselines]", "probe.training_sets=0")
        names = [(name, key) for name in ("nuisances", "baselines") for key in ("resamples", "permutations")]
        draws = [f"analysis.probe_measures.{name}.{key}=20" for name, key in names]
        run(compose("train", overrides=[*paths, *data, *small, *measures, *draws]))
    metrics = {row.metric for row in read_results(tmp_path / "out" / "results.csv")}
    assert {"nuisance/alone_word", "baseline/tfidf_macro_f1", "gain_over/random_weights_macro_f1"} <= metrics
