"""Real runs whose every quantity is looked up in the files, in `results.csv` and in the W&B log."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from wandb_log import OfflineRun, offline_run_dirs, read_offline_run

from probes.cli import CONFIG_DIR
from probes.report import read_results
from probes.run import run
from probes.values import Result

LAYERS = ("0", "1", "2", "3")
TASKS = {"subject_number", "topic"}
OF_TASKS = {"label_cka", "effective_rank", "reference_cka", "reference_cka_biased"}
BETWEEN = {"task_separability/silhouette", "task_separability/between_share"}
SPECIFICITY = {"specificity/label_cka", "specificity/selectivity"}


def configured(folder: Path, *overrides: str):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        paths = (f"paths.cache_dir={folder / 'cache'}", f"paths.output_dir={folder / 'out'}")
        tracked = ("logger=wandb", "logger.mode=offline")
        other = ("reference_backbone=tiny", "reference_backbone.seed=1", "reference_backbone.num_layers=6")
        return compose("train", overrides=["experiment=quick", *tracked, *other, *paths, *overrides])


class Finished:
    """What a run left: rows of `results.csv` by metric, matrices by file, the log, the number it returned."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.objective = run(configured(folder, *overrides))
        self.out = folder / "out"
        self.results: dict[str, list[Result]] = defaultdict(list)
        for result in read_results(self.out / "results.csv"):
            if result.split == "test" and not result.control:
                self.results[result.metric].append(result)
        (run_dir,) = offline_run_dirs(self.out)
        self.logged: OfflineRun = read_offline_run(run_dir)

    def matrix(self, stem: str, folder: str = "layer_by_task") -> dict[tuple[str, str], float]:
        with (self.out / folder / f"{stem}.csv").open() as file:
            rows = list(csv.DictReader(file))
        return {(row["layer"], column): float(row[column]) for row in rows for column in row if column != "layer"}

    @property
    def probe_scores(self) -> set[str]:
        """Metrics of the probes: their rows name a probe."""
        return {metric for metric, rows in self.results.items() if any(r.probe for r in rows)}


@pytest.fixture(scope="module")
def probed(tmp_path_factory) -> Finished:
    return Finished(tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Finished:
    return Finished(tmp_path_factory.mktemp("compare"), "study=compare")


def same(number: float | None, other: float | None) -> bool:
    unknown = [value is None or math.isnan(value) for value in (number, other)]
    return all(unknown) or (not any(unknown) and number == other)


def assert_everywhere(finished: Finished, quantities: set[str]) -> None:
    """Every quantity is one CSV, one W&B table, one picture and one result a cell, all with the same numbers."""
    for quantity in quantities:
        name = f"probe/{quantity}" if quantity in finished.probe_scores else quantity
        matrix = finished.matrix(quantity.replace("/", "_"))
        results = {(str(r.layer), r.task): r for r in finished.results[quantity] if r.layer is not None}
        assert len(results) == len([r for r in finished.results[quantity] if r.layer is not None])
        assert set(matrix) == set(results), quantity
        table: dict[str, Any] = finished.logged["tables"][f"layer_by_task/{name}"]
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        assert len(rows) == len(results)
        for row in rows:
            result = results[row["layer"], row["task"]]
            assert same(matrix[row["layer"], row["task"]], result.value)
            for column in ("value", "ci_low", "ci_high", "null_mean", "p", "p_cell"):
                assert same(row[column], getattr(result, column)), (quantity, column)
            assert row["note"] == result.note
        picture = finished.out / f"figures/{quantity.replace('/', '_')}.png"
        assert finished.logged["images"][f"heatmap/{name}"].read_bytes() == picture.read_bytes()


def test_every_quantity_of_a_probe_run_is_in_all_three_places_with_the_same_numbers(probed):
    assert probed.probe_scores >= {"macro_f1", "accuracy", "selectivity", "cross_entropy_bits"}
    everything = probed.probe_scores | OF_TASKS | BETWEEN | SPECIFICITY
    names = {f"probe/{q}" for q in probed.probe_scores} | OF_TASKS | BETWEEN | SPECIFICITY
    assert {f"layer_by_task/{name}" for name in names} == set(probed.logged["tables"])
    stems = {q.replace("/", "_") for q in everything}
    assert {path.stem for path in (probed.out / "layer_by_task").iterdir()} == stems
    assert_everywhere(probed, everything)


def test_interval_null_and_p_stand_where_they_make_sense(probed):
    tested = {"label_cka", "reference_cka", "reference_cka_biased"} | BETWEEN | SPECIFICITY
    for quantity in OF_TASKS | BETWEEN | SPECIFICITY:
        known = [r for r in probed.results[quantity] if math.isfinite(r.value)]
        assert known
        for r in known:
            assert r.ci_low is not None
            assert r.ci_high is not None
            assert r.ci_low < r.value < r.ci_high
            assert (r.p is not None) == (r.p_cell is not None) == (quantity in tested), quantity
            assert (r.null_mean is not None) == (quantity in tested), quantity
            assert (r.study, r.backbone, r.reference, r.suite) == ("probe", "tiny-0", "tiny-1", "starter")
            assert r.n is not None
            assert r.n > 50
    biased = {(r.layer, r.task): r for r in probed.results["reference_cka_biased"]}
    for r in (r for r in probed.results["reference_cka"] if math.isfinite(r.value)):
        beside = biased[r.layer, r.task]
        assert r.value < beside.value
        assert r.null_mean is not None
        assert beside.null_mean is not None
        assert abs(r.null_mean) < 0.02 < beside.null_mean


def test_a_constant_layer_is_nan_with_its_reason_in_every_quantity_of_tasks(probed):
    for quantity in OF_TASKS:  # every sentence ends in the same token, so layer 0 of its last token is constant
        first = [r for r in probed.results[quantity] if r.layer == 0]
        assert {r.task for r in first} == TASKS
        assert all(math.isnan(r.value) and r.note.startswith("constant layer") and r.p is None for r in first)
        others = [r for r in probed.results[quantity] if r.layer != 0]
        assert all(math.isfinite(r.value) for r in others)
        reference = "against layer " if quantity.startswith("reference_cka") else ""  # which is of another depth
        assert all(r.note.startswith(reference) and bool(r.note) == bool(reference) for r in others)


def test_specificity_of_the_probes_is_their_selectivity_double_centred(probed):
    selectivity, specific = probed.matrix("selectivity"), probed.matrix("specificity_selectivity")
    values = np.array([[selectivity[layer, task] for task in sorted(TASKS)] for layer in LAYERS[1:]])
    expected = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    found = [[specific[layer, task] for task in sorted(TASKS)] for layer in LAYERS[1:]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_segments_leave_rows_and_a_picture(probed):
    for quantity in ("label_cka", "reference_cka"):
        spread = [r for r in probed.results[f"between_task_sd/{quantity}"] if r.layer is not None]
        assert [r.layer for r in spread] == [1, 2, 3]
        (boundary,) = probed.results[f"boundary/{quantity}"]
        assert boundary.note.startswith("not tried")
        assert (probed.out / f"figures/bands_{quantity}.png").exists()
        assert f"bands/{quantity}" in probed.logged["images"]


def test_the_same_seed_gives_the_same_numbers_and_none_leaves_probes_alone(probed, tmp_path):
    again = Finished(tmp_path, "analysis=none", f"paths.cache_dir={probed.out.parent / 'cache'}")
    assert {path.stem for path in (again.out / "layer_by_task").iterdir()} == probed.probe_scores
    assert again.objective == probed.objective


def test_every_quantity_of_a_compare_run_is_in_all_three_places_with_the_same_numbers(compared):
    everything = OF_TASKS | BETWEEN | {"specificity/label_cka"}
    tables = {f"layer_by_task/{quantity}" for quantity in everything} | {"layer_by_layer/cka"}
    assert set(compared.logged["tables"]) == tables
    assert_everywhere(compared, everything)
    known = [r.value for r in compared.results["reference_cka"] if math.isfinite(r.value)]
    assert compared.objective == pytest.approx(np.mean(known))
    assert {r.study for rows in compared.results.values() for r in rows} == {"compare"}
    assert not (compared.out / "probes").exists()


def test_all_pairs_of_layers_of_a_compare_run_are_in_the_files_and_the_log(compared):
    table = compared.logged["tables"]["layer_by_layer/cka"]
    assert table["columns"] == ["task", "x_layer", "y_layer", "value"]
    assert len(table["data"]) == 2 * 4 * 7
    matrices = {task: compared.matrix(task, "layer_by_layer/cka") for task in TASKS}
    for task, x_layer, y_layer, value in table["data"]:
        assert same(matrices[task][x_layer, y_layer], value)
    picture = compared.out / "figures/layer_by_layer_cka.png"
    assert compared.logged["images"]["heatmap/layer_by_layer/cka"].read_bytes() == picture.read_bytes()
    matched = {(str(r.layer), r.task): r.value for r in compared.results["reference_cka"]}
    for (layer, task), value in matched.items():  # three blocks beside six
        pair = matrices[task][layer, str(2 * int(layer))]
        assert (math.isnan(pair) and math.isnan(value)) or pair == pytest.approx(value, abs=1e-5)


def test_probe_and_compare_give_equal_values_for_the_same_rows(probed, compared):
    for quantity in OF_TASKS:
        one, other = (finished.matrix(quantity) for finished in (probed, compared))
        assert set(one) == set(other)
        np.testing.assert_allclose([one[cell] for cell in one], [other[cell] for cell in one], atol=1e-9)


def test_compare_without_a_reference_backbone_names_the_key(tmp_path):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", overrides=["experiment=quick", "study=compare", f"paths.output_dir={tmp_path}"])
    with pytest.raises(ValueError, match=r"`study=compare` needs a second model: set `reference_backbone`"):
        run(cfg)
