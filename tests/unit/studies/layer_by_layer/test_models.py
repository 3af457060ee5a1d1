from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from study_samples import TUNING, toy_suite

from probes.activations import ExtractionSettings
from probes.backbones import FrozenBackbone, tiny_backbone
from probes.kept_files import seal_folder
from probes.studies.layer_by_layer import models as module
from probes.studies.layer_by_layer.job_graph import jobs_of_study
from probes.studies.layer_by_layer.mixture import MixtureSettings, mark_unseen
from probes.studies.layer_by_layer.models import ModelTuner, TunedModels, check_models, read_only, tune_models
from probes.tasks import Suite
from probes.trainers import default_trainer
from probes.tuning import AnswerScores, TunedModel, TuningExamples, tune
from probes.values import Reading

LAST = Reading("decoder", "residual", "last")
SCORES = AnswerScores(
    validation_loss=1, test_loss=1, exact_match=0, rouge_l=0, chrf=0, n_validation=1, n_test=1, n_answered=1
)


class Orders(list[tuple[str, int, dict[str, TuningExamples]]]):
    """Stands in for tuning: remembers what was asked for, name, seed and rows."""

    def __call__(
        self, name: str, base: FrozenBackbone, examples: dict[str, TuningExamples], *args: Any, seed: int, **kwargs: Any
    ) -> TunedModel:
        self.append((name, seed, examples))
        return TunedModel(
            name=name, kind="adapter", folder=Path(f"{name}-{seed}"), key=f"{name}-{seed}", steps=5,
            validation_losses={5: 1.5}, base=SCORES, tuned=SCORES, reused=False,
        )  # fmt: skip

    @property
    def names(self) -> list[tuple[str, int]]:
        return [(name, seed) for name, seed, _ in self]


@pytest.fixture
def orders(monkeypatch) -> Orders:
    found = Orders()
    monkeypatch.setattr(module, "tune", found)
    return found


def make_tuner(folder: Path, suite: Suite | None = None, *, seed: int = 0, **tuning: Any) -> ModelTuner:
    settings, extraction = replace(TUNING, **tuning), ExtractionSettings()
    return ModelTuner(tiny_backbone(), suite or toy_suite(), settings, default_trainer, extraction, seed, folder)


class TestOrders:
    def test_every_task_has_a_control_the_first_ones_repeats_and_the_mixture_comes_last(self, tmp_path, orders):
        found = tune_models(make_tuner(tmp_path, seed=7), MixtureSettings(replicate_tasks=2, replicate_seeds=2))
        tuned = [("a", 7), ("a", 8), ("a", 9), ("b", 7), ("b", 8), ("b", 9), ("c", 7), ("mixture", 7)]
        assert orders.names == tuned
        assert {task: len(own) for task, own in found.controls.items()} == {"a": 3, "b": 3, "c": 1}
        assert len(found.experimental) == 1
        assert [fact["name"] for fact in found.facts()] == [name for name, _ in tuned]
        assert found.facts()[0] == {
            "name": "a", "kind": "adapter", "folder": "a-7", "steps": 5, "reused": False, "validation_losses": {5: 1.5}
        }  # fmt: skip

    def test_a_control_sees_its_own_task_and_the_mixture_the_seen_ones(self, tmp_path, orders):
        tune_models(make_tuner(tmp_path), MixtureSettings(replicate_tasks=0))
        letters = {
            name: {split: {prompt[0] for prompt in own.prompts} for split, own in examples.items()}
            for name, _, examples in orders
        }
        for task in "abc":
            assert letters[task] == {"train": {task}, "validation": {task}, "test": {task}}
        assert letters["mixture"] == {"train": {"a", "b"}, "validation": {"a", "b"}, "test": {"a", "b"}}

    def test_the_share_of_a_cluster_is_the_settings(self, tmp_path, orders):
        tune_models(make_tuner(tmp_path), MixtureSettings(rows_per_cluster=10), only=["mixture"])
        ((name, _, examples),) = orders
        assert (name, len(examples["train"])) == ("mixture", 10)

    def test_experimental_models_of_other_seeds_are_tuned_on_the_same_rows(self, tmp_path, orders):
        settings = MixtureSettings(rows_per_cluster=5, experimental_seeds=3)
        found = tune_models(make_tuner(tmp_path, seed=7), settings, only=["mixture"])
        assert orders.names == [("mixture", 7), ("mixture", 8), ("mixture", 9)]
        assert [model.key for model in found.experimental] == ["mixture-7", "mixture-8", "mixture-9"]
        assert len({examples["train"].prompts for _, _, examples in orders}) == 1

    def test_only_the_models_asked_for_are_tuned(self, tmp_path, orders):
        found = tune_models(make_tuner(tmp_path), MixtureSettings(), only=["b"])
        assert orders.names == [("b", 0), ("b", 1)]
        assert (list(found.controls), found.experimental) == (["b"], [])
        orders.clear()
        found = tune_models(make_tuner(tmp_path), MixtureSettings(), only=["mixture", "c"])
        assert orders.names == [("c", 0), ("mixture", 0)]
        assert len(found.experimental) == 1

    def test_a_merged_model_wants_the_first_control_of_every_seen_task(self, tmp_path, orders, monkeypatch):
        asked = []

        def merge(base: FrozenBackbone, folders: list[Path], *, coefficient: float, out: Path) -> Path:
            asked.append((folders, coefficient, out))
            return Path("merged")

        monkeypatch.setattr(module, "merge_adapters", merge)
        settings = MixtureSettings(experimental="merged", merge_coefficient=0.7)
        found = tune_models(make_tuner(tmp_path), settings)
        expected = ([Path("a-0"), Path("b-0")], 0.7, tmp_path / "adapters")
        assert asked == [expected]
        assert orders.names == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("c", 0)]
        (merged,) = found.experimental
        assert (merged.folder, merged.tuned.n_test) == (Path("merged"), 0)
        orders.clear()
        tune_models(make_tuner(tmp_path), settings, only=["mixture"])
        assert orders.names == [("a", 0), ("b", 0)]
        assert asked[1] == expected


class TestRefusals:
    def test_unknown_models_are_named_beside_those_there_are(self):
        with pytest.raises(
            ValueError, match=r"called sst2, trec\. There are a, b, c, mixture and base.*`study\.only_models`"
        ):
            check_models(toy_suite(), MixtureSettings(replicate_tasks=0), ["a", "trec", "sst2"])
        check_models(toy_suite(), MixtureSettings(), ["a", "mixture"])

    @pytest.mark.parametrize("model", ["a:2", "a:01", "b:1", "mixture:2", "base:1"])
    def test_numbers_of_no_model_are_refused_and_those_there_are_named(self, model: str):
        settings = MixtureSettings(replicate_tasks=1, experimental_seeds=2)
        there = r"There are a:0 to a:1, b, c, mixture:0 to mixture:1 and base\."
        with pytest.raises(ValueError, match=rf"called {model}\. {there}"):
            check_models(toy_suite(), settings, ["a", model])

    def test_a_list_of_no_models_is_refused(self):
        with pytest.raises(ValueError, match=r"`study\.only_models` names no model\. There are a:0.*or to null"):
            check_models(toy_suite(), MixtureSettings(), [])

    @pytest.mark.parametrize(("only", "reads"), [(["base"], 1), (["base:0"], 1), (["a"], 0)])
    def test_the_base_is_read_where_it_is_named(self, tmp_path, monkeypatch, only: list[str], reads: int):
        read = []
        monkeypatch.setattr(module, "read_suite", lambda suite, backbone, *_, **__: read.append(backbone))
        tuner = make_tuner(tmp_path)
        check_models(tuner.suite, MixtureSettings(), only)
        read_only(tuner, TunedModels({}, []), only=only, splits=("test",))
        assert read == [tuner.base] * reads

    def test_every_job_of_a_study_names_a_model(self):
        settings = MixtureSettings(replicate_tasks=2, replicate_seeds=2, experimental_seeds=2)
        jobs = jobs_of_study(["a", "b", "c"], settings)
        assert len(jobs) == 20
        for job in jobs[:-1]:
            check_models(toy_suite(), settings, [job.model])

    def test_a_mixture_of_nothing_is_refused_and_controls_alone_are_not(self):
        suite = toy_suite(unseen="abc")
        for only in (None, ["mixture"]):
            with pytest.raises(ValueError, match=r"no seen task to mix: all 3.*`study\.mixture\.unseen`"):
                check_models(suite, MixtureSettings(), only)
        check_models(suite, MixtureSettings(), ["a"])

    def test_tuning_is_refused_too_before_anything_is_tuned(self, tmp_path, orders):
        with pytest.raises(ValueError, match="No model is called sst2"):
            tune_models(make_tuner(tmp_path), MixtureSettings(), only=["a", "sst2"])
        assert orders == []

    def test_an_answer_of_any_task_that_is_too_long_is_refused_before_the_first_model_is_tuned(self, tmp_path, orders):
        with pytest.raises(ValueError, match=r"targets of task '[abc]/train' are longer than 2.*`tuning\.max_target"):
            tune_models(make_tuner(tmp_path, max_target_length=2), MixtureSettings())
        assert orders == []

    def test_an_unknown_kind_of_experimental_model_names_the_key(self):
        with pytest.raises(ValueError, match=r"'averaged'.*`study\.mixture\.experimental` to tuned or merged"):
            MixtureSettings(experimental="averaged")

    def test_a_merged_model_has_no_seed_to_change(self):
        with pytest.raises(ValueError, match=r"no seed of its own; got 2.*`study\.mixture\.experimental_seeds=1`"):
            MixtureSettings(experimental="merged", experimental_seeds=2)

    @pytest.mark.parametrize(
        ("key", "least"),
        [("rows_per_cluster", 1), ("replicate_tasks", 0), ("replicate_seeds", 0), ("experimental_seeds", 1)],
    )
    def test_numbers_out_of_range_name_the_key(self, key: str, least: int):
        with pytest.raises(ValueError, match=rf"`study\.mixture\.{key}`.*from {least} up; got {least - 1}"):
            MixtureSettings(**cast(Any, {key: least - 1}))

    def test_controls_of_no_steps_cannot_be_merged(self, tmp_path):
        tuner = make_tuner(tmp_path, max_steps=0)
        with pytest.raises(ValueError, match=r"0 steps cannot be merged.*`tuning\.max_steps`"):
            tuner.merged([tuner.control(toy_suite().tasks[0])], 0.4)


class TestUnseen:
    @staticmethod
    def marked(*names: str) -> list[bool]:
        return [task.unseen for task in mark_unseen(toy_suite(), names).tasks]

    def test_tasks_are_kept_out_by_name_or_cluster_in_place_of_the_suites_own_marks(self):
        assert self.marked("a") == [True, False, False]
        assert self.marked("near") == [True, True, False]
        assert self.marked("far", "b") == [False, True, True]
        assert self.marked() == [False, False, False]

    def test_without_names_the_suite_keeps_its_own(self):
        suite = toy_suite()
        assert mark_unseen(suite, None) is suite
        assert [task.unseen for task in suite.tasks] == [False, False, True]

    def test_unknown_names_are_refused_beside_tasks_and_clusters(self):
        with pytest.raises(
            ValueError, match=r"no task or cluster sst2\. Set `study\.mixture\.unseen` among a, b, c and near, far"
        ):
            self.marked("a", "sst2")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> tuple[Path, TunedModel]:
    folder = tmp_path_factory.mktemp("tuned")
    tuner = make_tuner(folder)
    return folder, tuner.control(tuner.suite.tasks[0])


class TestReading:
    @staticmethod
    def read(tuner: ModelTuner, model: TunedModel):
        return tuner.read(model, tuner.suite.tasks[:1], splits=("test",))

    def test_a_tuned_model_reads_other_activations_than_its_base(self, tuned):
        folder, model = tuned
        tuner = make_tuner(folder)
        unchanged = replace(model, folder=None, kind="unchanged")
        base, own = (self.read(tuner, m).rows(tuner.suite.tasks[0], "test", LAST) for m in (unchanged, model))
        assert base.row_ids == own.row_ids
        assert torch.equal(base.values[0], own.values[0])  # what goes into the first block
        assert all(not torch.equal(b, o) for b, o in zip(base.values[1:], own.values[1:], strict=True))

    def test_what_is_in_the_store_is_read_without_loading_weights_and_what_is_not_is_computed(self, tuned, monkeypatch):
        folder, model = tuned
        tuner = make_tuner(folder)
        first = self.read(tuner, model)
        loaded = []
        monkeypatch.setattr("probes.tuning.tuned_backbone.load_tuned_backbone", lambda *args: loaded.append(args))
        again = self.read(tuner, model)
        assert (loaded, again.report.forward_passes) == ([], 0)
        task = tuner.suite.tasks[0]
        assert torch.equal(again.rows(task, "test", LAST).values, first.rows(task, "test", LAST).values)
        with pytest.raises(AttributeError):  # the stand-in gives no backbone
            tuner.read(model, [task], splits=("train",))
        assert len(loaded) == 1

    def test_an_adapter_that_was_emptied_on_disk_is_refused(self, tuned, tmp_path):
        _, model = tuned
        assert model.folder is not None
        emptied = replace(model, folder=tmp_path / "emptied", key="emptied")
        emptied.folder.mkdir()
        for file in model.folder.glob("adapter_config.json"):
            (emptied.folder / file.name).write_bytes(file.read_bytes())
        weights = load_file(model.folder / "adapter_model.safetensors")
        weights = {name: torch.zeros_like(w) if "lora_B" in name else w for name, w in weights.items()}
        save_file(weights, emptied.folder / "adapter_model.safetensors", metadata={"format": "pt"})
        seal_folder(emptied.folder, key="emptied")
        with pytest.raises(ValueError, match=r"tuned on 'a' changes nothing.*emptied.*Delete that folder"):
            self.read(make_tuner(tmp_path), emptied)

    def test_a_model_of_no_steps_reads_what_the_base_reads(self, tmp_path):
        tuner = make_tuner(tmp_path, max_steps=0)
        model = tuner.control(tuner.suite.tasks[0])
        assert (model.kind, self.read(tuner, model).fingerprint) == ("unchanged", tuner.base.fingerprint())


def test_a_repeat_is_another_model_and_the_same_seed_the_same_one(tuned):
    folder, model = tuned
    tuner = make_tuner(folder)
    assert tuner.control(tuner.suite.tasks[0]).key == model.key
    repeat = tuner.control(tuner.suite.tasks[0], replicate=1)
    assert repeat.key != model.key
    assert repeat.key == make_tuner(folder, seed=1).control(tuner.suite.tasks[0]).key
    assert module.tune is tune
