from __future__ import annotations

import csv
import json
import math
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from logged_objectives import with_logged_objective
from tiny_models import tiny_model

from probes.activations import ExtractionSettings, extract
from probes.analysis import LabelCKA, LayerAnalysis, ReferenceCKA, cka_pairs
from probes.backbones import FrozenBackbone, tiny_backbone
from probes.backbones.tiny import byte_tokenizer
from probes.report import FilesOnly, read_results, read_run
from probes.studies import CompareStudy, RunContext
from probes.tasks import Split, Suite, Task
from probes.values import Layer, Result

pytestmark = pytest.mark.slow

MEASURES = {"reference_cka": ReferenceCKA(permutations=19), "label_cka": LabelCKA(permutations=19)}


def task(name: str, kind: Any = "classification", rows: int = 16) -> Task:
    """Every text ends in another word, so that no layer is constant."""
    prompts = tuple(f"{name}: {'the quick brown fox'[: 3 + i]} number {i * i}" for i in range(rows))
    labels = tuple({"classification": i % 2, "regression": i / 3, "generation": None}[kind] for i in range(rows))
    return Task(name, kind, ("no", "yes"), {"test": Split(prompts, labels, ("",) * rows)}, cluster=f"of {name}")


SUITE = Suite("s", (task("a"), task("b", "regression")))


def family(name: str) -> FrozenBackbone:
    return FrozenBackbone(tiny_model(name), byte_tokenizer(), name=name)


def compare(
    tmp_path: Path, reference: Any, *, suite: Suite = SUITE, measures: Any = None, name: str = "compare", **options: Any
) -> float:
    parts: dict[str, Any] = {
        "backbone": tiny_backbone,
        "reference_backbone": reference,
        "suite": lambda: suite,
        "extraction": ExtractionSettings(),
        "analysis": LayerAnalysis(MEASURES if measures is None else measures),
    }
    context = RunContext.of(logger=FilesOnly(), seed=0, cache_dir=tmp_path / "cache", output_dir=tmp_path / "out")
    study = options.pop("study", None) or CompareStudy(name=name)
    return with_logged_objective(lambda: study.run(context, **{**parts, **options}))


def matrix_of(folder: Path, task: str, name: str = "cka") -> np.ndarray:
    with (folder / f"out/layer_by_layer/{name}/{task}.csv").open() as file:
        return np.array([row[1:] for row in list(csv.reader(file))[1:]], dtype=float)


def cells(folder: Path, metric: str, task: str = "a") -> dict[Layer | None, Result]:
    written = read_results(folder / "out/results.csv")
    return {r.layer: r for r in written if (r.metric, r.task) == (metric, task)}


def test_a_backbone_compared_with_itself_is_one_on_the_diagonal(tmp_path):
    assert compare(tmp_path, tiny_backbone) == pytest.approx(1)
    for name in ("a", "b"):
        similarity = matrix_of(tmp_path, name)
        np.testing.assert_allclose(np.diag(similarity), 1, atol=1e-6)
        np.testing.assert_allclose(similarity, similarity.T, atol=1e-6)
        assert similarity[0, 3] < 0.999
        for result in cells(tmp_path, "reference_cka", name).values():
            assert result.value == pytest.approx(1, abs=1e-6)
            assert result.p is not None
            assert result.p <= 0.15  # 1 / 20 for a cell alone


def test_another_backbone_is_below_one_and_the_numbers_are_those_of_its_activations(tmp_path):
    mean = compare(tmp_path, partial(tiny_backbone, seed=1))
    prompts = SUITE.tasks[0].splits["test"].prompts
    x, y = (extract(tiny_backbone(seed=seed), prompts).values for seed in (0, 1))
    expected = cka_pairs(x, y)
    assert matrix_of(tmp_path, "a").max() < 0.999
    np.testing.assert_allclose(matrix_of(tmp_path, "a"), expected, atol=1e-5)
    matched = [result.value for result in cells(tmp_path, "reference_cka").values()]
    np.testing.assert_allclose(matched, expected.diagonal(), atol=1e-5)
    every = matched + [result.value for result in cells(tmp_path, "reference_cka", "b").values()]
    assert mean == pytest.approx(np.mean(every))


@pytest.mark.parametrize("max_bytes", [1, 2**30])
def test_training_rows_that_are_read_block_by_block_give_the_cka_of_all_of_them(tmp_path, max_bytes):
    of_test, of_train = task("a").splits["test"], task("a", rows=40).splits["test"]
    suite = Suite("s", (replace(task("a"), splits={"train": of_train, "test": of_test}),))
    deeper = partial(tiny_backbone, seed=1, num_layers=5, hidden_size=16)
    extraction = ExtractionSettings(texts_per_shard=8)
    study = CompareStudy(training_rows=True, max_bytes=max_bytes)
    compare(tmp_path, deeper, suite=suite, extraction=extraction, study=study)
    x, y = (extract(load(), of_train.prompts).values for load in (tiny_backbone, deeper))
    np.testing.assert_allclose(matrix_of(tmp_path, "a", "cka_train"), cka_pairs(x, y), atol=1e-5)
    assert np.abs(matrix_of(tmp_path, "a", "cka_train") - matrix_of(tmp_path, "a")).max() > 0.01
    found = {matrix.quantity: matrix.n for matrix in read_run(tmp_path / "out").layer_by_layer}
    assert found == {"cka": 16, "cka_train": 40}


def test_sums_without_memory_are_refused():
    with pytest.raises(ValueError, match=r"`study\.max_bytes` must be at least 1"):
        CompareStudy(max_bytes=0)


def test_a_deeper_backbone_has_more_columns_and_is_matched_by_depth(tmp_path):
    compare(tmp_path, partial(tiny_backbone, seed=1, num_layers=6, hidden_size=16))
    similarity = matrix_of(tmp_path, "a")
    assert similarity.shape == (4, 7)
    matched = [cells(tmp_path, "reference_cka")[layer].value for layer in range(4)]
    np.testing.assert_allclose(matched, similarity[[0, 1, 2, 3], [0, 2, 4, 6]], atol=1e-5)


def test_families_with_other_stacks_and_poolings_are_compared(tmp_path):
    compare(tmp_path, partial(family, "bert"))
    prompts = SUITE.tasks[0].splits["test"].prompts
    expected = cka_pairs(extract(tiny_backbone(), prompts).values, extract(family("bert"), prompts).values)
    np.testing.assert_allclose(matrix_of(tmp_path, "a"), expected, atol=1e-5)
    (reading,) = {(r.stack, r.pooling) for r in cells(tmp_path, "reference_cka").values()}
    assert reading == ("decoder", "last")
    assert {(r.backbone, r.reference) for r in cells(tmp_path, "reference_cka").values()} == {("tiny-0", "bert")}


def test_each_reading_has_files_of_its_own(tmp_path):
    compare(tmp_path, partial(family, "bert"), extraction=ExtractionSettings(pooling=["last", "mean"]))
    first, second = matrix_of(tmp_path, "a"), matrix_of(tmp_path, "a", "cka@decoder.residual.mean")
    assert not np.allclose(first, second, equal_nan=True)
    names = {path.name for path in (tmp_path / "out/figures").iterdir()}
    assert {"layer_by_layer_cka.png", "layer_by_layer_cka@decoder.residual.mean.png"} <= names


def test_a_suite_with_generation_tasks_is_compared_on_their_texts(tmp_path):
    suite = Suite("s", (task("a"), task("story", "generation")))
    compare(tmp_path, partial(tiny_backbone, seed=1), suite=suite)
    counted = Counter((r.task, r.metric) for r in read_results(tmp_path / "out/results.csv"))
    assert counted == {("a", "reference_cka"): 4, ("story", "reference_cka"): 4, ("a", "label_cka"): 4}
    assert matrix_of(tmp_path, "story").shape == (4, 4)


def test_results_name_study_backbones_suite_and_cluster(tmp_path):
    compare(tmp_path, partial(tiny_backbone, seed=1), name="mine")
    for result in read_results(tmp_path / "out/results.csv"):
        names = (result.study, result.backbone, result.reference, result.suite, result.cluster)
        assert names == ("mine", "tiny-0", "tiny-1", "s", f"of {result.task}")
        assert result.n == 16
    facts = json.loads((tmp_path / "out/provenance.json").read_text())
    assert (facts["backbone"], facts["reference"]["backbone"]) == ("tiny-0", "tiny-1")
    assert {"tasks", "backbones", "activations", "analysis", "report"} <= set(facts["seconds"])


def test_the_screen_shows_where_each_task_is_least_and_most_similar(tmp_path, capsys):
    compare(tmp_path, partial(tiny_backbone, seed=1))
    shown = capsys.readouterr().out
    assert "reference_cka" in shown
    assert "layer_by_layer_cka.png" in shown.replace("\n", "")


def test_without_the_measure_of_matched_layers_the_mean_is_nan_and_all_pairs_are_left(tmp_path):
    assert math.isnan(compare(tmp_path, partial(tiny_backbone, seed=1), measures={}))
    assert matrix_of(tmp_path, "a").shape == (4, 4)
    assert read_results(tmp_path / "out/results.csv") == []


def test_without_a_reference_backbone_the_error_names_the_key_and_nothing_is_loaded(tmp_path):
    def never() -> Suite:
        raise AssertionError

    with pytest.raises(ValueError, match=r"`study=compare` needs a second model: set `reference_backbone`"):
        compare(tmp_path, None, suite=never)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
