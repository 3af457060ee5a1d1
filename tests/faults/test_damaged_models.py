"""A damaged, exchanged or foreign file of a tuned model is detected and named, and the model is made again."""

from __future__ import annotations

import io
import json
import logging
import pickle
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fault_samples import (
    append_junk,
    cut,
    empty,
    exchange,
    flip_random_bit,
    replace_by_folder,
    without_write_permission,
)
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tuning_samples import toy_splits

from probes.backbones import loading, tiny_backbone
from probes.kept_files import write_resume_point
from probes.trainers import default_trainer
from probes.tuning import InstructionTuner, TunedBackbone, TunedModel, TuningSettings, merge_adapters, tune, tuning_job
from probes.tuning.resume_points import ResumePoints

pytestmark = pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
SETTINGS = TuningSettings(
    learning_rate=1e-2, max_steps=3, batch_size=8, rank=2, generate_rows=2, max_new_tokens=2, checkpoint_every_n_steps=1
)
DATA = toy_splits(24)


class KilledError(Exception):
    pass


def tuned(cache: Path, *, seed: int = 0, **changes) -> TunedModel:
    settings = replace(SETTINGS, **changes)
    return tune("toy", tiny_backbone(), DATA, settings, trainer=default_trainer, seed=seed, cache_dir=cache)


@pytest.fixture(scope="module")
def warm(tmp_path_factory) -> Path:
    """A cache with two controls, which differ in their seed, and the fingerprint of each."""
    cache = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        TunedBackbone(tiny_backbone(), tuned(cache, seed=seed), cache).fingerprint()
    return cache


@pytest.fixture
def cache(warm, tmp_path) -> Path:
    return Path(shutil.copytree(warm, tmp_path / "cache"))


@pytest.fixture(scope="module")
def expected(warm) -> TunedModel:
    model = tuned(warm)
    assert model.reused
    return model


def folder_of(cache: Path, model: TunedModel) -> Path:
    assert model.folder is not None
    return cache / model.folder.relative_to(model.folder.parent.parent)


def other_folder(folder: Path) -> Path:
    (other,) = (f for f in folder.parent.glob("toy-*") if f.is_dir() and f != folder)
    return other


def edit(name: str, change):
    def fault(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return fault


def on(name: str, damage):
    return lambda folder: damage(folder / name)


def exchange_weights(folder: Path) -> None:
    exchange(folder / "adapter_model.safetensors", other_folder(folder) / "adapter_model.safetensors")


def replace_by_another_model(folder: Path) -> None:
    other = other_folder(folder)
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


MODEL_FAULTS = {
    "a bit of the weights flipped": on("adapter_model.safetensors", flip_random_bit),
    "the weights of two controls exchanged": exchange_weights,
    "the folder of another control": replace_by_another_model,
    "weights cut": on("adapter_model.safetensors", cut),
    "weights empty": on("adapter_model.safetensors", empty),
    "weights missing": on("adapter_model.safetensors", Path.unlink),
    "weights are a folder": on("adapter_model.safetensors", replace_by_folder),
    "lora_alpha edited": edit("adapter_config.json", lambda config: config.update(lora_alpha=64)),
    "configuration missing": on("adapter_config.json", Path.unlink),
    "record edited": edit("tuning.json", lambda record: record.update(steps=99)),
    "record cut": on("tuning.json", cut),
    "record empty": on("tuning.json", empty),
    "record missing": on("tuning.json", Path.unlink),
    "manifest edited": edit("manifest.json", lambda manifest: manifest["content"]["digests"].clear()),
    "manifest cut": on("manifest.json", cut),
    "manifest missing": on("manifest.json", Path.unlink),
}


@pytest.mark.parametrize("name", MODEL_FAULTS)
def test_a_damaged_model_is_named_set_aside_and_tuned_again(cache, expected, caplog, name: str):
    folder = folder_of(cache, expected)
    MODEL_FAULTS[name](folder)
    with caplog.at_level(logging.WARNING):
        again = tuned(cache)
    assert f"'{folder}'" in caplog.text
    assert "The model is tuned again." in caplog.text
    assert folder.with_name(f"{folder.name}.corrupt").is_dir()
    assert not again.reused
    assert replace(again, reused=True, folder=expected.folder) == expected
    weights = load_file(expected.folder / "adapter_model.safetensors")
    for key, weight in load_file(folder / "adapter_model.safetensors").items():
        assert torch.equal(weight, weights[key])
    assert tuned(cache).reused


SCORE_FAULTS = {
    "edited": edit("", lambda scores: scores["content"].update(test_loss=0.0)),
    "cut": cut,
    "empty": empty,
    "junk appended": append_junk,
    "a bit flipped": flip_random_bit,
    "a folder": replace_by_folder,
}


@pytest.mark.parametrize("place", ["tuned", "base"])
@pytest.mark.parametrize("name", SCORE_FAULTS)
def test_damaged_scores_are_computed_again_without_tuning(cache, expected, caplog, monkeypatch, name: str, place: str):
    parent = folder_of(cache, expected) if place == "tuned" else cache / "adapters" / "base"
    (scores,) = parent.glob("scores-*.json")
    SCORE_FAULTS[name](scores)
    monkeypatch.setattr(tuning_job, "fit_model", lambda *_, **__: pytest.fail("tuned again"))
    again = tuned(cache)
    assert scores.name in caplog.text
    assert again.reused
    assert again.tuned.test_loss == pytest.approx(expected.tuned.test_loss, rel=1e-6)
    assert again.base == expected.base


def test_the_scores_of_another_model_are_not_taken_for_those_of_this_one(cache, expected, caplog):
    folder = folder_of(cache, expected)
    (scores,) = folder.glob("scores-*.json")
    shutil.copy(other_folder(folder) / scores.name, scores)
    assert tuned(cache).tuned.test_loss == pytest.approx(expected.tuned.test_loss, rel=1e-6)
    assert "belongs to something else" in caplog.text


FINGERPRINT_FAULTS = {
    "empty": lambda file, other: empty(file),
    "another model's": lambda file, other: shutil.copy(other, file),
    "another model's text": lambda file, other: file.write_text("0" * 32),
    "a bit flipped": lambda file, other: flip_random_bit(file),
    "no text": lambda file, other: file.write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("name", FINGERPRINT_FAULTS)
def test_a_damaged_fingerprint_is_computed_again(cache, expected, caplog, name: str):
    model = tuned(cache)
    right = TunedBackbone(tiny_backbone(), model, cache).fingerprint()
    (file,) = (cache / "adapters" / "fingerprints").glob(f"{model.name}-{model.key}*")
    (other,) = (f for f in file.parent.iterdir() if f != file)
    FINGERPRINT_FAULTS[name](file, other)
    assert TunedBackbone(tiny_backbone(), model, cache).fingerprint() == right
    assert file.name in caplog.text


def test_a_model_that_is_damaged_after_it_was_found_is_not_read(cache):
    model = tuned(cache)
    assert model.folder is not None
    flip_random_bit(model.folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"has a damaged adapter_model\.safetensors.* Run again"):
        _ = TunedBackbone(tiny_backbone(), model, cache).loaded


def test_a_finished_model_in_a_cache_without_write_permission_is_reused(cache, expected, caplog):
    with without_write_permission(cache):
        again = tuned(cache)
        fingerprint = TunedBackbone(tiny_backbone(), again, cache).fingerprint()
        with pytest.raises(PermissionError, match=r"cannot be written .* not complete there. Set `paths\.cache_dir`"):
            tuned(cache, seed=2)
    assert again.reused
    assert not caplog.messages
    assert fingerprint == TunedBackbone(tiny_backbone(), again, cache).fingerprint()


def killed(cache: Path, monkeypatch, *, seed: int = 0) -> Path:
    """A resume point after two steps of a tuning that was killed in the third."""
    step = InstructionTuner.training_step

    def die(self, batch):
        if self.global_step == 2:
            raise KilledError
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(InstructionTuner, "training_step", die)
        with pytest.raises(KilledError):
            tuned(cache, seed=seed)
    return max((cache / "adapters").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)


def steps_of(cache: Path, monkeypatch) -> tuple[list[int], TunedModel]:
    steps, step = [], InstructionTuner.training_step

    def watch(self, batch):
        steps.append(self.global_step)
        return step(self, batch)

    monkeypatch.setattr(InstructionTuner, "training_step", watch)
    return steps, tuned(cache)


def put_another_models_resume_point(point: Path, monkeypatch) -> None:
    shutil.copy(killed(point.parent.parent.with_name("other"), monkeypatch, seed=1), point)


RESUME_FAULTS = {
    "a bit flipped": lambda point, _: flip_random_bit(point),
    "empty": lambda point, _: empty(point),
    "cut": lambda point, _: cut(point),
    "junk appended": lambda point, _: append_junk(point),
    "another model's": put_another_models_resume_point,
    "no resume point": lambda point, _: torch.save({"state_dict": {}}, point),
}


def test_an_undamaged_resume_point_is_used(tmp_path, expected, monkeypatch):
    killed(tmp_path, monkeypatch)
    steps, model = steps_of(tmp_path, monkeypatch)
    assert steps == [2]
    assert model.tuned == expected.tuned


@pytest.mark.parametrize("name", RESUME_FAULTS)
def test_a_damaged_or_foreign_resume_point_is_named_and_tuning_starts_anew(
    tmp_path, expected, monkeypatch, caplog, name: str
):
    point = killed(tmp_path / "cache", monkeypatch)
    RESUME_FAULTS[name](point, monkeypatch)
    steps, model = steps_of(tmp_path / "cache", monkeypatch)
    assert steps == [0, 1, 2]
    assert model.tuned == expected.tuned
    assert f"'{point}'" in caplog.text
    assert "Tuning starts from the beginning." in caplog.text


class Hostile:
    def __reduce__(self):
        return (pytest.fail, ("code of a resume point was executed",))


def test_a_resume_point_executes_no_code(tmp_path):
    buffer = io.BytesIO()
    torch.save({"state_dict": Hostile()}, buffer)
    write_resume_point(tmp_path / "a.ckpt", buffer.getvalue(), key="k")
    with pytest.raises(pickle.UnpicklingError):
        ResumePoints("k").load_checkpoint(tmp_path / "a.ckpt", weights_only=False)


def test_resume_points_need_no_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    ResumePoints("k").save_checkpoint({"step": 3}, tmp_path / "a.ckpt")
    assert ResumePoints("k").load_checkpoint(tmp_path / "a.ckpt") == {"step": 3}


def test_what_a_killed_tuning_left_half_written_is_deleted_when_it_resumes(tmp_path, monkeypatch):
    point = killed(tmp_path, monkeypatch)
    left = [point.with_name(f".{point.stem}-abcdefgh.ckpt"), point.with_name(f".{point.stem}-12345678")]
    foreign = point.with_name(".other-abcdefgh.ckpt")
    left[0].write_bytes(b"half")
    left[1].mkdir()
    foreign.write_bytes(b"half")
    tuned(tmp_path)
    assert [path.exists() for path in (*left, foreign)] == [False, False, True]


def test_a_damaged_merged_adapter_is_merged_again(tmp_path, caplog):
    base = tiny_backbone()
    torch.manual_seed(0)
    model = get_peft_model(base.load_with_head(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(str(tmp_path / "adapter"))
    merged = merge_adapters(base, [tmp_path / "adapter"], coefficient=0.5, out=tmp_path)
    weights = (merged / "adapter_model.safetensors").read_bytes()
    flip_random_bit(merged / "adapter_model.safetensors")
    assert merge_adapters(base, [tmp_path / "adapter"], coefficient=0.5, out=tmp_path) == merged
    assert (merged / "adapter_model.safetensors").read_bytes() == weights
    assert "The adapters are merged again." in caplog.text


def test_damaged_converted_weights_are_converted_again(tmp_path, monkeypatch, caplog):
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF and weights")
    monkeypatch.setattr(
        loading, "_write_converted", lambda file, folder: (folder / "model.safetensors").write_bytes(file.read_bytes())
    )
    folder = loading.convert_gguf(gguf, tmp_path)
    flip_random_bit(folder / "model.safetensors")
    assert (loading.convert_gguf(gguf, tmp_path) / "model.safetensors").read_bytes() == gguf.read_bytes()
    assert "'model.gguf' is converted again." in caplog.text
