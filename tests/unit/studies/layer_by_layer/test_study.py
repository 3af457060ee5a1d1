from __future__ import annotations

import importlib
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from logged_objectives import with_logged_objective
from safetensors.torch import load_file, save_file
from study_samples import TUNING, toy_suite, toy_task

from probes.activations import ExtractionSettings
from probes.activations.store import ActivationStore
from probes.analysis import LabelCKA, LayerAnalysis, procrustes_similarity
from probes.backbones import tiny_backbone
from probes.callbacks import MatrixAnalysis
from probes.report import FilesOnly, read_results
from probes.studies import LayerByLayerStudy, MapSettings, MixtureSettings, ModelPatchingSettings, RunContext
from probes.studies.layer_by_layer import models as tuned_models
from probes.studies.layer_by_layer.mixture import with_answers
from probes.tasks import Suite, Task
from probes.trainers import default_trainer
from probes.training import ProbeSettings
from probes.tuning import InstructionTuner
from probes.values import Result

pytestmark = pytest.mark.slow

FIT = importlib.import_module("probes.tuning.tuning_job")  # the package binds the function to this name
LAYERS = (0, 1, 2, 3)
MEASURES: Any = {"label_cka": LabelCKA(permutations=5)}


class KilledError(Exception):
    pass


@pytest.fixture(autouse=True, scope="module")
def _no_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("probes.report.run_report.save_pictures", lambda drawings: None)
        patch.setattr(
            "probes.studies.layer_by_layer.study.report_figures", lambda folder, *_, **__: [folder / "none.png"]
        )
        yield


class Study:
    """One run in a folder; `cache` is shared where given."""

    def __init__(self, folder: Path, *, cache: Path | None = None, suite: Suite | None = None, **options: Any) -> None:
        self.out = folder / "out"
        parts: dict[str, Any] = {
            "backbone": tiny_backbone,
            "suite": lambda: suite or toy_suite(),
            "extraction": ExtractionSettings(texts_per_shard=3, tokens_per_batch=64),
            "probe": ProbeSettings(penalties=(0.1,), bootstrap_samples=20),
            "tuning": TUNING,
            "trainer": default_trainer,
            "analysis": LayerAnalysis(MEASURES),
            "callbacks": MatrixAnalysis,
        }
        settings: dict[str, Any] = {
            "mixture": MixtureSettings(replicate_tasks=1),
            "maps": MapSettings(layers=0),
            "with_probes": False,
        }
        settings |= {name: value for name, value in options.items() if name not in {*parts, "seed"}}
        parts |= {name: value for name, value in options.items() if name in parts}
        context = RunContext.of(
            logger=FilesOnly(),
            seed=options.get("seed", 0),
            cache_dir=cache or folder / "cache",
            output_dir=self.out,
        )
        study = LayerByLayerStudy(**settings)
        run = partial(study.run, context, **parts)
        stops = {"only_models", "stop_after"} & options.keys()  # before there is an objective
        self.objective = run() if stops else with_logged_objective(run)

    @property
    def facts(self) -> dict[str, Any]:
        return json.loads((self.out / "provenance.json").read_text())

    @property
    def reused(self) -> list[bool]:
        return [fact["reused"] for fact in self.facts["tuned_models"]]

    @property
    def results(self) -> list[Result]:
        return read_results(self.out / "results.csv")

    def cells(self, metric: str) -> dict[tuple[str, Any], Result]:
        return {(r.task, r.layer): r for r in self.results if r.metric == metric}

    def matrices(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((self.out / "layer_by_task").glob("*.csv"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Study:
    return Study(tmp_path_factory.mktemp("whole"))


def cache_of(study: Study) -> Path:
    return study.out.parent / "cache"


class TestResults:
    def test_patches_between_models_reach_results_and_pictures(self, whole, tmp_path):
        patching = ModelPatchingSettings(every=1, rows=12)
        study = Study(tmp_path, cache=cache_of(whole), patch_models=True, patching=patching)
        assert all(study.reused)
        found = [row for row in study.results if row.metric == "model_patching/log_prob_all"]
        assert {row.role for row in found} == {
            "control_into_base", "base_into_control", "experimental_into_base", "base_into_experimental",
            "other_control_into_base",
        }  # fmt: skip
        ends = {(row.role, row.layer): row.value for row in found if row.task == "a" and row.layer in (0, 3)}
        for role in ("control_into_base", "base_into_control"):
            assert [ends[role, layer] for layer in (0, 3)] == [0, 1] or math.isnan(ends[role, 0])
        assert (study.out / "figures" / "model_patching_log_prob_all.png").is_file()
        assert not (whole.out / "figures" / "model_patching_log_prob_all.png").exists()

    def test_every_cell_of_every_quantity_is_there(self, whole):
        for metric in ("tuning_gain", "cka/control_vs_base", "cka/control_vs_experimental", "tuning_gain_biased"):
            assert set(whole.cells(metric)) == {(task, layer) for task in "abc" for layer in LAYERS}
        assert {task for task, _ in whole.cells("cka/control_vs_control")} == {"a"}
        assert {task for task, _ in whole.cells("group_mean/tuning_gain")} == {
            "seen_tasks", "unseen_tasks", "near", "far"
        }  # fmt: skip
        for metric in ("base/label_cka", "experimental/label_cka"):
            role, quantity = metric.split("/")
            assert {r.task for r in whole.results if (r.role, r.metric) == (role, quantity)} == set("abc")

    def test_tuned_models_differ_from_their_base_and_the_first_layer_is_the_same_for_all(self, whole):
        for (_, layer), result in whole.cells("cka/control_vs_base").items():
            assert result.value == pytest.approx(1, abs=1e-6) if layer == 0 else result.value < 0.9999
        for (_, layer), result in whole.cells("tuning_gain").items():
            assert result.value == pytest.approx(0, abs=1e-6) if layer == 0 else abs(result.value) > 1e-5

    def test_each_control_has_lower_loss_on_its_task_than_the_base(self, whole):
        losses = {(r.task, r.role, r.seed): r.value for r in whole.results if r.metric == "answer_loss_nats"}
        tuned = {key: value for key, value in losses.items() if key[1] != "base"}
        assert set(tuned) == {
            ("a", "control", 0), ("a", "control", 1), ("b", "control", 0), ("c", "control", 0),
            ("mixture", "experimental", 0),
        }  # fmt: skip
        for (task, _, _), loss in tuned.items():
            assert loss < losses[task, "base", None] - 0.1

    def test_the_number_returned_is_the_mean_gain_of_seen_tasks(self, whole):
        gains = [r.value for (task, _), r in whole.cells("tuning_gain").items() if task in "ab"]
        assert whole.objective == pytest.approx(np.mean(gains))

    def test_forward_passes_of_all_models_are_counted(self, whole):
        tests = 12 * 3
        assert whole.facts["texts_computed"] == 2 * tests + (2 + 1 + 1) * 12  # base, experimental, controls
        assert whole.facts["texts"] == tests

    def test_results_name_study_backbone_suite_and_cluster(self, whole):
        assert {(r.study, r.backbone, r.suite) for r in whole.results} == {("layer_by_layer", "tiny-0", "toys")}
        assert {r.task: r.cluster for r in whole.results if r.metric == "tuning_gain"} == {
            "a": "near", "b": "near", "c": "far"
        }  # fmt: skip


class TestLimits:
    def test_without_a_step_everything_is_the_base(self, tmp_path):
        similarity: dict[str, Any] = {"similarity": {"p": procrustes_similarity}, "similarity_every": 1}
        study = Study(tmp_path, tuning=replace(TUNING, max_steps=0), with_probes=True, **similarity)
        for metric in ("cka/control_vs_base", "cka/control_vs_experimental", "cka/control_vs_control"):
            np.testing.assert_allclose([r.value for r in study.cells(metric).values()], 1, atol=1e-6)
        for metric in ("tuning_gain", "tuning_gain_biased", "tuning_gain_by/p", "probe_gain/macro_f1"):
            cells = study.cells(metric).values()
            assert len(cells) == 3 * len(LAYERS)
            assert {r.value for r in cells} == {0}
        assert {fact["kind"] for fact in study.facts["tuned_models"]} == {"unchanged"}
        assert study.facts["texts_computed"] == study.facts["texts"]  # tuned models read nothing of their own

    def test_a_control_that_is_the_experimental_model_has_all_of_its_likeness(self, whole, tmp_path, monkeypatch):
        def control_of_a(tuner: tuned_models.ModelTuner, rows_per_cluster: int, *, replicate: int):
            return tuner.control(tuner.suite.tasks[0])

        monkeypatch.setattr(tuned_models.ModelTuner, "mixture", control_of_a)
        study = Study(tmp_path, cache=cache_of(whole))
        ones = {
            layer: r.value for (task, layer), r in study.cells("cka/control_vs_experimental").items() if task == "a"
        }
        assert ones == dict.fromkeys(LAYERS, pytest.approx(1, abs=1e-6))
        assert study.cells("cka/control_vs_experimental")["b", 3].value < 0.9999
        base = study.cells("cka/control_vs_base")["a", 3].value
        assert study.cells("tuning_gain")["a", 3].value == pytest.approx(1 - base, abs=1e-6)

    def test_an_experimental_model_equal_to_the_base_has_no_gain_and_no_uncertainty(self, whole, tmp_path, monkeypatch):
        original = tuned_models.ModelTuner.mixture

        def unchanged(tuner: tuned_models.ModelTuner, rows_per_cluster: int, *, replicate: int):
            return replace(original(tuner, rows_per_cluster, replicate=replicate), folder=None, kind="unchanged")

        monkeypatch.setattr(tuned_models.ModelTuner, "mixture", unchanged)
        study = Study(tmp_path, cache=cache_of(whole))
        for metric in ("tuning_gain", "tuning_gain_biased"):
            assert {(r.value, r.ci_low, r.ci_high) for r in study.cells(metric).values()} == {(0, 0, 0)}
        assert study.cells("cka/control_vs_base")["a", 3].value < 0.9999

    def test_an_adapter_emptied_on_disk_is_set_aside_and_tuned_anew(self, whole, tmp_path, caplog):
        shutil.copytree(cache_of(whole) / "adapters", tmp_path / "cache/adapters")
        shutil.rmtree(tmp_path / "cache/adapters/fingerprints")
        (file,) = tmp_path.glob("cache/adapters/mixture-*/adapter_model.safetensors")
        weights = {name: torch.zeros_like(w) for name, w in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
        study = Study(tmp_path)
        assert study.reused == [True, True, True, True, False]
        assert study.matrices() == whole.matrices()
        assert file.parent.name in caplog.text
        assert [path.name for path in tmp_path.glob("cache/adapters/*.corrupt")] == [f"{file.parent.name}.corrupt"]


class TestResuming:
    def test_a_second_run_trains_reads_and_loads_nothing_and_says_the_same(self, whole, tmp_path, monkeypatch):
        def refuse(*_: Any, **__: Any) -> Any:
            raise AssertionError("was done before")

        monkeypatch.setattr(FIT, "fit_model", refuse)
        monkeypatch.setattr("probes.tuning.tuned_backbone.load_tuned_backbone", refuse)
        study = Study(tmp_path, cache=cache_of(whole))
        assert (study.facts["forward_passes"], study.facts["texts_computed"]) == (0, 0)
        assert whole.facts["forward_passes"] > 0
        assert (set(study.reused), set(whole.reused)) == ({True}, {False})
        assert study.matrices() == whole.matrices()
        assert (study.out / "results.csv").read_bytes() == (whole.out / "results.csv").read_bytes()

    def test_killed_in_tuning_and_again_in_reading_it_ends_with_the_same_numbers(self, whole, tmp_path, monkeypatch):
        step, add = InstructionTuner.training_step, ActivationStore.add
        steps: list[int] = []

        def die_in_the_second_model(self, batch):
            if len(steps) == 5 + 3:
                raise KilledError
            steps.append(self.global_step)
            return step(self, batch)

        with monkeypatch.context() as patch:
            patch.setattr(InstructionTuner, "training_step", die_in_the_second_model)
            with pytest.raises(KilledError):
                Study(tmp_path)
        assert steps == [0, 1, 2, 3, 4, 0, 1, 2]
        taken_up: list[int] = []
        shards: list[int] = []

        def watch(self, batch):
            taken_up.append(self.global_step)
            return step(self, batch)

        def die_after_a_shard(self, text_ids, layers, values, **offsets):
            if sum(shards) >= 36 + 9:  # in the experimental model: the base has read its 36 texts
                raise KilledError
            shards.append(len(text_ids))
            add(self, text_ids, layers, values, **offsets)

        monkeypatch.setattr(InstructionTuner, "training_step", watch)
        with monkeypatch.context() as patch:
            patch.setattr(ActivationStore, "add", die_after_a_shard)
            with pytest.raises(KilledError):
                Study(tmp_path)
        assert taken_up == [3, 4, *3 * [0, 1, 2, 3, 4]]
        assert 45 <= sum(shards) < 72
        taken_up.clear()
        study = Study(tmp_path)
        assert taken_up == []
        assert study.reused == [True] * 5
        assert study.facts["texts_computed"] == whole.facts["texts_computed"] - sum(shards)
        assert study.matrices() == whole.matrices()

    def test_another_seed_gives_other_models_of_the_same_rows(self, whole, tmp_path):
        study = Study(tmp_path, cache=cache_of(whole), seed=1)
        assert study.reused == [True, False, False, False, False]  # the repeat of seed 0 is the first of seed 1
        assert study.cells("tuning_gain")["b", 3].value != whole.cells("tuning_gain")["b", 3].value
        answers = [r for r in study.results if r.metric == "answer_loss_nats"]
        assert {r.seed for r in answers if r.role == "control"} == {1, 2}
        before, after = (
            {layer: r.value for (_, layer), r in s.cells("cka/control_vs_control").items()} for s in (whole, study)
        )
        assert before != after
        assert all(0.3 < value < 0.99999 for layer, value in after.items() if layer)


class TestStages:
    def test_one_model_is_tuned_alone_for_a_later_run_to_find(self, whole, tmp_path):
        study = Study(tmp_path, only_models=["b"])
        assert math.isnan(study.objective)
        assert [fact["name"] for fact in study.facts["tuned_models"]] == ["b"]
        assert {r.task for r in study.results} == {"b"}
        assert not (study.out / "layer_by_task").exists()
        later = Study(tmp_path / "later", cache=tmp_path / "cache", stop_after="tune")
        assert later.reused == [False, False, True, False, False]

    @pytest.mark.parametrize("stage", ["tune", "read"])
    def test_it_stops_after_the_stage_asked_for(self, whole, tmp_path, stage: str):
        study = Study(tmp_path, cache=cache_of(whole), stop_after=stage)
        assert math.isnan(study.objective)
        assert {"tune", "read"} & set(study.facts["seconds"]) == {"tune", *([stage] if stage == "read" else [])}
        assert {r.metric for r in study.results} == {"answer_loss_nats", "exact_match", "rouge_l", "chrf"}
        assert not (study.out / "layer_by_task").exists()

    def test_an_unknown_stage_or_model_is_refused_before_anything_is_loaded(self, tmp_path):
        missing: dict[str, Any] = {"backbone": lambda: pytest.fail("was loaded")}
        with pytest.raises(ValueError, match=r"no stage 'train'.*`study\.stop_after` to tune or read, or null"):
            Study(tmp_path, stop_after="train", **missing)
        with pytest.raises(ValueError, match=r"No model is called sst2.*`study\.only_models`"):
            Study(tmp_path, only_models=["sst2"], **missing)
        with pytest.raises(ValueError, match=r"no seen task to mix.*`study\.mixture\.unseen`"):
            Study(tmp_path, suite=toy_suite(unseen="abc"), **missing)
        with pytest.raises(ValueError, match=r"no task or cluster sst2.*`study\.mixture\.unseen`"):
            Study(tmp_path, mixture=MixtureSettings(unseen=["sst2"]), **missing)
        assert not list(tmp_path.rglob("adapters"))

    @pytest.mark.parametrize(("key", "least"), [("similarity_every", 1), ("similarity_rows", 2)])
    def test_similarity_of_no_layers_or_rows_is_refused(self, key: str, least: int):
        with pytest.raises(ValueError, match=rf"`study\.{key}` must be at least {least}; got 0"):
            LayerByLayerStudy(**{key: 0})

    @pytest.mark.parametrize("stage", ["tune", None])
    def test_the_base_alone_is_refused_where_it_is_not_read(self, stage: str | None):
        with pytest.raises(ValueError, match=rf"base alone.*got {stage} in `study\.stop_after`\. Set it to read"):
            LayerByLayerStudy(only_models=["base:0"], stop_after=stage)
        assert LayerByLayerStudy(only_models=["base"], stop_after="read").only_models == ["base"]

    def test_the_mixture_settings_decide_what_is_unseen(self, whole, tmp_path):
        study = Study(tmp_path, cache=cache_of(whole), mixture=MixtureSettings(replicate_tasks=0, unseen=["near"]))
        means = {task: r.value for (task, layer), r in study.cells("group_mean/tuning_gain").items() if layer == 3}
        gains = {task: r.value for (task, layer), r in study.cells("tuning_gain").items() if layer == 3}
        assert means["seen_tasks"] == pytest.approx(gains["c"])
        assert means["unseen_tasks"] == pytest.approx((gains["a"] + gains["b"]) / 2)
        assert study.reused == [True, True, True, False]  # only the mixture is another


class TestAnswers:
    @staticmethod
    def refused(task: Task, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            with_answers(Suite("s", (toy_task("b"), task)))

    def test_a_suite_with_answers_is_let_through(self):
        suite = toy_suite()
        assert with_answers(suite) is suite

    @pytest.mark.parametrize(("split", "rows", "least"), [("train", 0, 1), ("test", 4, 5)])
    def test_too_few_rows_are_refused(self, split: str, rows: int, least: int):
        sizes = {"train": 8, "validation": 0, "test": 8} | {split: rows}
        message = rf"'a' has {rows} {split} rows.*needs {least} or more.*`suite\.tasks`"
        self.refused(toy_task("a", sizes=sizes), message)
        del sizes[split]
        self.refused(toy_task("a", sizes=sizes), rf"'a' has 0 {split} rows")

    def test_a_task_without_answers_is_refused_with_the_key_that_gives_some(self):
        task = toy_task("a")
        splits = {name: replace(split, targets=("yes",) * (len(split) - 2) + ("", " ")) for name, split in
                  task.splits.items()}  # fmt: skip
        self.refused(replace(task, splits=splits), r"'a' has 6 rows without an answer.*`suite\.prompt=instruction`")

    def test_a_suite_without_tasks_is_refused(self):
        with pytest.raises(ValueError, match=r"'s' has no tasks.*`suite\.tasks`"):
            with_answers(Suite("s", ()))


def test_readings_each_have_their_own_comparison(whole, tmp_path):
    two = ExtractionSettings(pooling=["last", "mean"])
    study = Study(tmp_path, cache=cache_of(whole), extraction=two)
    gains = {(r.pooling, r.task, r.layer): r.value for r in study.results if r.metric == "tuning_gain"}
    assert len(gains) == 2 * 3 * len(LAYERS)
    assert gains["last", "a", 3] != gains["mean", "a", 3]
    assert "tuning_gain@decoder.residual.mean.csv" in study.matrices()
