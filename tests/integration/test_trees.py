"""`study=trees` on the generated treebank: what a run leaves, and what it refuses."""

from __future__ import annotations

import base64
import csv
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from logged_objectives import with_logged_objective

from probes.cli import CONFIG_DIR
from probes.run import run


def configured(tmp_path: Path, *overrides: str):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        paths = (f"paths.cache_dir={tmp_path / 'cache'}", f"paths.output_dir={tmp_path / 'out'}")
        chosen = ("experiment=trees", "backbone=tiny", "backbone.layers=all", "logger=csv", *paths)
        return compose("train", overrides=[*chosen, *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    folder = tmp_path_factory.mktemp("trees")
    sizes = "suite.max_rows={train: 60, validation: 20, test: 30}"
    quick = ("study.probes.max_epochs=2", "study.probes.ranks=[2,4]", "study.probes.bootstrap_samples=50")
    cfg = configured(folder, sizes, *quick, "study.probes.permutations=30", "study.sentences_drawn=2")
    objective = with_logged_objective(lambda: run(cfg))
    return folder / "out", objective


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_way_of_finding_trees_stands_beside_the_others(finished: tuple[Path, float]) -> None:
    rows = [row for row in rows_of(finished[0]) if row["split"] == "test" and not row["control"]]
    tasks = {
        metric: {row["task"] for row in rows if row["metric"] == metric} for metric in {row["metric"] for row in rows}
    }
    without_labels = {"cosine, no labels", "euclidean, no labels", "attention, no labels"}
    assert tasks["trees/uuas"] == tasks["trees/uuas_gain_over_chain"] == {
        "distance probe", "attention, chosen head", *without_labels
    }  # fmt: skip
    assert tasks["trees/span_f1"] == {"syntactic distance probe", *without_labels}
    assert tasks["trees/root_accuracy"] == {"depth probe"}
    assert tasks["trees/uuas_by_rank"] == {"rank 2", "rank 4"}
    uuas = [row for row in rows if row["metric"] == "trees/uuas" and row["value"] != "nan"]
    for row in uuas:
        assert float(row["ci_low"]) <= float(row["value"]) <= float(row["ci_high"])
        assert row["interval_over"] == "sentences"
        assert row["null_mean"] != ""
        assert row["n"] == "30"
    attention = {
        row["layer"]: row for row in rows if row["task"] == "attention, no labels" and row["metric"] == "trees/uuas"
    }
    assert attention["0"]["value"] == "nan"
    assert "no attention" in attention["0"]["note"]
    assert attention["1"]["value"] != "nan"


def test_baselines_and_controls_are_among_the_results(finished: tuple[Path, float]) -> None:
    controls = {
        row["control"] for row in rows_of(finished[0]) if row["metric"] == "trees/uuas" and row["split"] == "test"
    }
    assert controls == {"", "shuffled_labels", "chain", "random"}
    of_spans = {row["control"] for row in rows_of(finished[0]) if row["metric"] == "trees/span_f1"}
    assert of_spans >= {"right branching", "left branching"}


def test_trees_and_heatmaps_are_drawn_and_the_objective_is_that_of_validation(finished: tuple[Path, float]) -> None:
    out, objective = finished
    for name in (
        "figures/predicted_trees.png",
        "figures/trees_uuas.png",
        "layer_by_task/trees_uuas.csv",
        "report.html",
    ):
        assert (out / name).stat().st_size > 0
    trees = base64.b64encode((out / "figures" / "predicted_trees.png").read_bytes()).decode()
    assert f"data:image/png;base64,{trees}" in (out / "report.html").read_text()
    validation = [
        float(row["value"])
        for row in rows_of(out)
        if (row["task"], row["metric"], row["split"]) == ("distance probe", "trees/uuas", "validation")
    ]
    assert objective == pytest.approx(max(validation))


def test_a_suite_without_trees_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Suite 'starter' has no trees.*`suite` to treebank or conllu"):
        run(configured(tmp_path, "suite=starter", "suite.tasks=[topic]"))
