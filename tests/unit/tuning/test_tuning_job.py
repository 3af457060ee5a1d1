from __future__ import annotations

import json
import math
from dataclasses import replace
from threading import Event, Thread

import pytest
import torch
from safetensors.torch import load_file
from tuning_samples import toy_splits

from probes.backbones import FrozenBackbone, pad_right, tiny_backbone
from probes.backbones.tiny import byte_tokenizer
from probes.trainers import default_trainer
from probes.tuning import InstructionTuner, TuningExamples, TuningSettings, load_tuned_backbone, tune, tuning_job
from probes.tuning.model_store import read_scores
from probes.tuning.tuning_job import fit_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")]
SETTINGS = TuningSettings(learning_rate=1e-2, max_steps=7, batch_size=8, rank=4, generate_rows=4, max_new_tokens=4)
DATA = toy_splits()


class KilledError(Exception):
    pass


@pytest.fixture
def base_folder(tmp_path):
    folder = tmp_path / "base"
    tiny_backbone().load_with_head().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def tuned(cache_dir, settings=SETTINGS, *, backbone=None, data=DATA, seed=0, task="toy"):
    backbone = tiny_backbone() if backbone is None else backbone
    return tune(task, backbone, data, settings, trainer=default_trainer, seed=seed, cache_dir=cache_dir)


def hidden(backbone: FrozenBackbone) -> torch.Tensor:
    ids = backbone.tokenize(["cat so:", "a bird:"]).ids
    readings = backbone.readings("last")
    return backbone(*pad_right(ids, length=9, pad_id=backbone.pad_id), readings=readings)[readings[0]]


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


def forbid_training(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(tuning_job, "fit_model", refuse)


def test_a_tiny_model_learns_a_toy_task_and_its_record_tells_how(tmp_path):
    settings = replace(SETTINGS, method="full", max_steps=None, max_epochs=12, learning_rate=1e-2, generate_rows=20)
    model = tuned(tmp_path, settings)
    assert model.base.test_loss > 5
    assert model.tuned.test_loss < 0.5
    assert model.base.exact_match == 0
    assert model.tuned.exact_match > 0.8
    assert model.steps == 60
    assert list(model.validation_losses) == list(range(5, 61, 5))
    assert model.validation_losses[60] == pytest.approx(model.tuned.validation_loss, rel=1e-5)
    record = json.loads((model.folder / "tuning.json").read_text())
    assert record["settings"]["learning_rate"] == 1e-2
    assert record["seconds"] > 0
    assert record["tokens"] > 0
    assert record["tuned_scores"]["test_loss"] == model.tuned.test_loss


@pytest.mark.parametrize(
    "change",
    [
        {"method": "lora"},
        {"method": "dora"},
        {"method": "ia3", "target_modules": ("k_proj", "down_proj"), "learning_rate": 0.1},
        {"method": "ln", "learning_rate": 0.1},
        {"method": "full"},
    ],
    ids=lambda change: change["method"],
)
def test_the_saved_model_has_the_hidden_states_of_the_tuned_model_in_memory(tmp_path, base_folder, monkeypatch, change):
    live = {}

    def keep(model, *args, **kwargs):
        report = fit_model(model, *args, **kwargs)
        live["model"] = model.model
        return report

    monkeypatch.setattr(tuning_job, "fit_model", keep)
    base = FrozenBackbone.load(path=base_folder, dtype="float32")
    model = tuned(tmp_path, replace(SETTINGS, **change), backbone=base)
    ids = torch.from_numpy(base.tokenize(["cat so:"]).ids[0]).long()[None]
    with torch.no_grad():
        expected = live["model"].eval()(ids, output_hidden_states=True).hidden_states[-1][0, -1]
    if model.kind == "full":
        loaded = FrozenBackbone.load(path=str(model.folder), dtype="float32")
    else:
        loaded = FrozenBackbone.load(path=base_folder, dtype="float32", adapter=str(model.folder))
    for backbone in (loaded, load_tuned_backbone(base, model)):
        reading = backbone.readings("last")
        final = backbone(ids, torch.ones_like(ids), readings=reading, layers="final")[reading[0]][0, 0]
        torch.testing.assert_close(final, expected, rtol=1e-5, atol=1e-5)
        assert backbone.fingerprint() != base.fingerprint()
    assert (hidden(loaded) - hidden(base)).abs().max() > 1e-3
    assert model.kind == ("full" if change["method"] == "full" else "adapter")


def test_a_finished_model_is_reused_without_training_or_loading(tmp_path, monkeypatch):
    first = tuned(tmp_path)
    forbid_training(monkeypatch)
    backbone = tiny_backbone()
    monkeypatch.setattr(backbone, "load_with_head", lambda: pytest.fail("loaded the model"))
    again = tuned(tmp_path, backbone=backbone)
    assert again == replace(first, reused=True)
    assert not first.reused
    tuned(tmp_path, replace(SETTINGS, checkpoint_every_n_steps=1), backbone=backbone)


def test_further_scores_of_a_finished_model_do_not_train_it_again(tmp_path, monkeypatch):
    for method in ("lora", "full"):
        first = tuned(tmp_path, replace(SETTINGS, method=method, generate_rows=0))
        with monkeypatch.context() as patch:
            forbid_training(patch)
            later = tuned(tmp_path, replace(SETTINGS, method=method, generate_rows=6))
        assert later.folder == first.folder
        assert (first.tuned.n_answered, later.tuned.n_answered) == (0, 6)
        assert later.tuned.test_loss == pytest.approx(first.tuned.test_loss, rel=1e-6)
        assert later.tuned.test_loss != later.base.test_loss


def test_everything_that_decides_the_weights_is_part_of_the_folders_name(tmp_path):
    other = dict(DATA, train=TuningExamples(DATA["train"].prompts, DATA["train"].targets[::-1]))
    short = replace(SETTINGS, max_steps=1, generate_rows=0)
    keys = [
        tuned(tmp_path, short).key,
        tuned(tmp_path, short, seed=1).key,
        tuned(tmp_path, replace(short, learning_rate=2e-2)).key,
        tuned(tmp_path, short, data=other).key,
        tuned(tmp_path, short, backbone=tiny_backbone(seed=1)).key,
    ]
    assert len(set(keys)) == 5
    assert tuned(tmp_path, short, task="a/b c").folder.name.startswith("a_b_c-")


def test_the_base_is_scored_once_for_all_models_of_one_task(tmp_path, monkeypatch):
    first = tuned(tmp_path)
    files = []
    monkeypatch.setattr(tuning_job, "read_scores", lambda file, key: files.append(file) or read_scores(file, key=key))
    second = tuned(tmp_path, seed=1)
    (base_file,) = {file for file in files if file.parent.name == "base"}
    assert base_file.exists()
    assert list(base_file.parent.iterdir()) == [base_file]
    assert second.base == first.base
    assert second.tuned != first.tuned


@pytest.mark.parametrize(("killed_after", "every"), [(3, 1), (5, 2), (7, 7), (6, 5)])
@pytest.mark.parametrize("patience", [None, 2])
def test_a_killed_and_resumed_tuning_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path, monkeypatch, killed_after, every, patience
):
    settings = replace(
        SETTINGS, dropout=0.3, checkpoint_every_n_steps=every, patience=patience, validate_every_n_steps=2
    )
    whole = tuned(tmp_path / "whole", settings)
    steps, step = [], InstructionTuner.training_step

    def die(self, batch):
        if len(steps) == killed_after:
            raise KilledError
        steps.append(self.global_step)
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(InstructionTuner, "training_step", die)
        if killed_after == 7:
            patch.setattr(tuning_job, "save_adapter", lambda *_: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            tuned(tmp_path / "killed", settings)
    assert steps == list(range(killed_after))
    resumed_at = []

    def watch(self, batch):
        resumed_at.append(self.global_step)
        return step(self, batch)

    monkeypatch.setattr(InstructionTuner, "training_step", watch)
    resumed = tuned(tmp_path / "killed", settings)
    first = killed_after // every * every
    assert resumed_at == list(range(first, 7))
    expected = weights(whole.folder)
    for name, weight in weights(resumed.folder).items():
        assert torch.equal(weight, expected[name])
    assert resumed.validation_losses == whole.validation_losses
    assert (resumed.steps, resumed.tuned) == (whole.steps, whole.tuned)
    assert not list(tmp_path.rglob("*.ckpt"))
    records = [json.loads((model.folder / "tuning.json").read_text()) for model in (whole, resumed)]
    assert records[0]["tokens"] == records[1]["tokens"] > 0


def test_a_folder_without_a_record_is_replaced(tmp_path):
    settings = replace(SETTINGS, max_steps=1, generate_rows=0)
    first = tuned(tmp_path, settings)
    (first.folder / "tuning.json").unlink()
    again = tuned(tmp_path, settings)
    assert not again.reused
    assert (again.folder, again.tuned) == (first.folder, first.tuned)
    assert (again.folder / "tuning.json").exists()


def test_patience_stops_and_restores_the_weights_with_the_lowest_validation_loss(tmp_path):
    data = dict(DATA, validation=TuningExamples(DATA["validation"].prompts, ("zebra",) * 20))
    settings = replace(SETTINGS, patience=2, max_steps=30, max_epochs=10, validate_every_n_steps=1, schedule="constant")
    model = tuned(tmp_path, settings, data=data)
    losses = list(model.validation_losses.values())
    lowest = losses.index(min(losses))
    assert len(losses) == lowest + 3 < 30
    assert losses[-1] > losses[lowest] + 1e-4
    assert model.steps == lowest + 1
    assert model.tuned.validation_loss == pytest.approx(min(losses), rel=1e-6)
    to_the_end = tuned(tmp_path, replace(settings, patience=None), data=data)
    assert to_the_end.steps == 30
    assert to_the_end.tuned.validation_loss == pytest.approx(to_the_end.validation_losses[30], rel=1e-6)


def test_a_tuning_killed_after_patience_ran_out_makes_no_more_steps(tmp_path, monkeypatch):
    data = dict(DATA, validation=TuningExamples(DATA["validation"].prompts, ("zebra",) * 20))
    settings = replace(SETTINGS, patience=2, max_steps=30, max_epochs=10, validate_every_n_steps=1, schedule="constant")
    whole = tuned(tmp_path / "whole", settings, data=data)
    settings = replace(settings, checkpoint_every_n_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(tuning_job, "save_adapter", lambda *_: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            tuned(tmp_path / "killed", settings, data=data)
    monkeypatch.setattr(InstructionTuner, "training_step", lambda *_: pytest.fail("made another step"))
    resumed = tuned(tmp_path / "killed", settings, data=data)
    assert resumed.validation_losses == whole.validation_losses
    assert resumed.tuned == whole.tuned


def test_without_steps_the_tuned_model_is_the_base(tmp_path):
    model = tuned(tmp_path, replace(SETTINGS, max_steps=0))
    assert (model.kind, model.folder, model.steps) == ("unchanged", None, 0)
    assert model.tuned == model.base
    assert model.base.test_loss > 5


def test_a_tuning_that_changes_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(InstructionTuner, "accumulate_gradient", lambda self, batch: 1.0)
    with pytest.raises(ValueError, match=r"made 7 steps and changed nothing.*`tuning\.target_modules`"):
        tuned(tmp_path)


def test_without_validation_and_test_rows_there_are_no_losses(tmp_path):
    model = tuned(tmp_path, data={"train": DATA["train"]})
    assert model.validation_losses == {}
    assert math.isnan(model.tuned.test_loss)
    assert model.steps == 7


def test_a_second_run_waits_for_the_first_and_reuses_its_model(tmp_path, monkeypatch):
    entered, leave, results = Event(), Event(), []

    def slow(*args, **kwargs):
        entered.set()
        assert leave.wait(20)
        return fit_model(*args, **kwargs)

    monkeypatch.setattr(tuning_job, "fit_model", slow)
    first = Thread(target=lambda: results.append(tuned(tmp_path)))
    first.start()
    assert entered.wait(20)
    forbid_training(monkeypatch)
    second = Thread(target=lambda: results.append(tuned(tmp_path)))
    second.start()
    second.join(0.3)
    assert second.is_alive()
    leave.set()
    first.join(20)
    second.join(20)
    assert [model.reused for model in results] == [False, True]
    assert results[0].folder == results[1].folder


def test_half_precision_tunes_adapters_in_float32(tmp_path):
    settings = replace(SETTINGS, generate_rows=0)
    backbone = tiny_backbone(dtype="bfloat16")
    model = tuned(tmp_path, settings, backbone=backbone)
    assert {w.dtype for w in weights(model.folder).values()} == {torch.float32}
    assert model.tuned.test_loss < model.base.test_loss - 0.1
    for method in ("ln", "full"):
        other = tuned(tmp_path, replace(settings, method=method), backbone=backbone)
        assert other.tuned.test_loss < other.base.test_loss
    assert weights(other.folder)["lm_head.weight"].dtype == torch.bfloat16


def test_float16_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"float32 or bfloat16.*`backbone\.dtype`"):
        tuned(tmp_path, backbone=tiny_backbone(dtype="float16"))
