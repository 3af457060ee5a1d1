from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tuning_samples import toy_splits

from probes.activations import ExtractionSettings, fill_stores, open_stores
from probes.backbones import ReadableBackbone, pad_right, tiny_backbone
from probes.kept_files import seal_folder
from probes.trainers import default_trainer
from probes.tuning import TunedBackbone, TunedModel, TuningSettings, load_tuned_backbone, tune

SETTINGS = TuningSettings(learning_rate=1e-2, max_steps=3, batch_size=8, rank=4, generate_rows=0)
TEXTS = ["cat so:", "a bird:"]
LOADER = "probes.tuning.tuned_backbone.load_tuned_backbone"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> TunedModel:
    folder = tmp_path_factory.mktemp("tuned")
    return tune("toy", tiny_backbone(), toy_splits(), SETTINGS, trainer=default_trainer, seed=0, cache_dir=folder)


@pytest.fixture
def unchanged(tuned: TunedModel) -> TunedModel:
    return replace(tuned, kind="unchanged", folder=None)


def read(backbone: ReadableBackbone) -> torch.Tensor:
    """Last tokens of two texts at all layers, shape `(layers, texts, features)`."""
    ids = backbone.tokenize(TEXTS).ids
    (reading,) = backbone.readings("last")
    inputs = pad_right(ids, length=max(map(len, ids)), pad_id=backbone.pad_id)
    return backbone(*inputs, readings=[reading])[reading]


def fill(backbone: ReadableBackbone, folder: Path) -> int:
    """Extract the texts into stores under a folder; the number of texts that were computed."""
    settings = ExtractionSettings()
    stores = open_stores(backbone, settings, folder / "activations")
    return fill_stores(backbone, backbone.tokenize(TEXTS), stores, settings).texts_computed


def forbid_loading(monkeypatch) -> None:
    monkeypatch.setattr(LOADER, lambda *_: pytest.fail("loaded the weights"))


def test_tokens_layers_and_readings_are_those_of_the_base(tuned, tmp_path, monkeypatch):
    forbid_loading(monkeypatch)
    base = tiny_backbone(layers=[0, 2])
    backbone = TunedBackbone(base, tuned, tmp_path)
    for name in ("device", "dtype", "hidden_size", "pad_id", "decoder_input", "tokenizer"):
        assert getattr(backbone, name) == getattr(base, name)
    assert backbone.layers("decoder") == base.layers("decoder") == (0, 2)
    assert backbone.layers("decoder", site="mlp", spec="all") == (1, 2, 3)
    assert backbone.readings(["last", "mean"], "mlp") == base.readings(["last", "mean"], "mlp")
    assert backbone.tokenize(TEXTS, max_length=3).text_ids == base.tokenize(TEXTS, max_length=3).text_ids
    assert backbone.name == "tiny-0+toy"


def test_it_has_every_member_of_the_protocol(tuned, tmp_path):
    backbone = TunedBackbone(tiny_backbone(), tuned, tmp_path)
    members = {name for name in {*vars(ReadableBackbone), *ReadableBackbone.__annotations__} if name[0] != "_"}
    assert {"model", "tokenize", "pad_id"} <= members
    assert [name for name in members if not hasattr(backbone, name)] == []


def test_its_activations_and_fingerprint_are_those_of_the_loaded_model(tuned, tmp_path):
    base = tiny_backbone()
    backbone, loaded = TunedBackbone(base, tuned, tmp_path), load_tuned_backbone(base, tuned)
    assert torch.equal(read(backbone), read(loaded))
    assert (read(backbone)[1:] - read(base)[1:]).abs().max() > 1e-4
    assert backbone.fingerprint() == loaded.fingerprint() != base.fingerprint()
    assert backbone.model is backbone.loaded.model is not base.model


@pytest.mark.parametrize("block", [0, 1, 2])
def test_an_adapter_in_one_block_changes_every_layer_above_it_and_none_below(block: int, tmp_path):
    base, settings = tiny_backbone(), replace(SETTINGS, layers_to_transform=(block,))
    model = tune("toy", base, toy_splits(), settings, trainer=default_trainer, seed=0, cache_dir=tmp_path)
    equal = (read(base) == read(TunedBackbone(base, model, tmp_path))).all(2)  # (layers, texts)
    assert equal[: block + 1].all()
    assert not equal[block + 1 :].any()


def test_weights_are_not_loaded_while_all_texts_are_in_the_store(tuned, tmp_path, monkeypatch):
    assert fill(TunedBackbone(tiny_backbone(), tuned, tmp_path), tmp_path) == 2
    forbid_loading(monkeypatch)
    assert fill(TunedBackbone(tiny_backbone(), tuned, tmp_path), tmp_path) == 0


def test_weights_are_loaded_once_for_several_passes(tuned, tmp_path, monkeypatch):
    loads = []
    monkeypatch.setattr(LOADER, lambda *args: loads.append(args) or load_tuned_backbone(*args))
    backbone = TunedBackbone(tiny_backbone(), tuned, tmp_path)
    assert loads == []
    read(backbone)
    read(backbone)
    backbone.fingerprint()
    assert len(loads) == 1


def test_the_fingerprint_is_computed_once_and_kept_for_each_model(tuned, tmp_path, monkeypatch):
    fingerprint = TunedBackbone(tiny_backbone(), tuned, tmp_path).fingerprint()
    other = replace(tuned, key="another")
    with monkeypatch.context() as patch:
        forbid_loading(patch)
        assert TunedBackbone(tiny_backbone(), tuned, tmp_path).fingerprint() == fingerprint
        with pytest.raises(pytest.fail.Exception, match="loaded the weights"):
            TunedBackbone(tiny_backbone(), other, tmp_path).fingerprint()
    (file,) = (tmp_path / "adapters" / "fingerprints").iterdir()
    assert json.loads(file.read_text())["content"] == {"fingerprint": fingerprint}


def test_models_of_equal_data_under_two_names_keep_a_fingerprint_each(tuned, tmp_path, caplog):
    other = tune("twin", tiny_backbone(), toy_splits(), SETTINGS, trainer=default_trainer, seed=0, cache_dir=tmp_path)
    assert other.key == tuned.key
    for model in (tuned, other, tuned):
        TunedBackbone(tiny_backbone(), model, tmp_path).fingerprint()
    names = {path.name.split("-")[0] for path in (tmp_path / "adapters" / "fingerprints").iterdir()}
    assert names == {"toy", "twin"}
    assert "belongs to something else" not in caplog.text


def test_members_that_extraction_does_not_need_are_not_answered_by_the_base(tuned, tmp_path):
    backbone = TunedBackbone(tiny_backbone(), tuned, tmp_path)
    for name in ("load_with_head", "stacks", "num_layers", "parameters"):
        assert hasattr(backbone.base, name)
        with pytest.raises(AttributeError, match=name):
            getattr(backbone, name)


def test_an_unchanged_model_is_its_base(unchanged, tmp_path):
    base = tiny_backbone()
    assert load_tuned_backbone(base, unchanged) is base
    backbone = TunedBackbone(base, unchanged, tmp_path)
    assert (backbone.name, backbone.fingerprint(), backbone.loaded) == (base.name, base.fingerprint(), base)
    assert not (tmp_path / "adapters").exists()


def test_a_tuned_model_that_changes_nothing_is_refused(tuned, tmp_path):
    empty = replace(tuned, folder=tmp_path / "empty", key="empty")
    empty.folder.mkdir()
    (empty.folder / "adapter_config.json").write_bytes((tuned.folder / "adapter_config.json").read_bytes())
    weights = load_file(tuned.folder / "adapter_model.safetensors")
    weights = {name: torch.zeros_like(w) if "lora_B" in name else w for name, w in weights.items()}
    save_file(weights, empty.folder / "adapter_model.safetensors", metadata={"format": "pt"})
    seal_folder(empty.folder, key="empty")
    with pytest.raises(ValueError, match=r"tuned on 'toy' changes nothing.*empty.*Delete that folder"):
        read(TunedBackbone(tiny_backbone(), empty, tmp_path))


def test_an_adapter_of_another_base_is_refused(tuned):
    with pytest.raises(ValueError, match=r"does not fit 'tiny-0': \d+ of the weights match no module.*`backbone`"):
        load_tuned_backbone(tiny_backbone(num_layers=2), tuned)


def test_another_process_can_load_it_by_what_pickle_sends(tuned, tmp_path):
    backbone = TunedBackbone(tiny_backbone(layers=[1]), tuned, tmp_path)
    again = pickle.loads(pickle.dumps(backbone.reload))()
    assert again.layers("decoder") == (1,)
    assert torch.equal(read(again), read(backbone))
    assert not torch.equal(read(again), read(tiny_backbone(layers=[1])))
    live = tiny_backbone()
    live.reload = None
    assert TunedBackbone(live, tuned, tmp_path).reload is None
