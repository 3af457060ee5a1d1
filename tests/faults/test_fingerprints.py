"""Whatever changes a model's hidden states changes its fingerprint; what only says where it comes from does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fault_samples import filled
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig

from probes.backbones import FrozenBackbone, tiny_backbone
from probes.backbones.fingerprint import fingerprint
from probes.backbones.tiny import byte_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_backbone().load_with_head().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    get_peft_model(tiny_backbone().load_with_head(), config).save_pretrained(str(folder))
    return folder


def load(base: Path, adapter: Path) -> FrozenBackbone:
    return FrozenBackbone.load(path=str(base), adapter=str(adapter), dtype="float32")


def with_settings(adapter: Path, folder: Path, **settings) -> Path:
    """A copy of an adapter, the same weights with other settings."""
    shutil.copytree(adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": 64},
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 32}},
        {"alpha_pattern": {"layers.0.self_attn.v_proj": 1}},
    ],
    ids=str,
)
def test_equal_adapter_weights_with_another_scale_have_another_fingerprint_and_activations(
    base, adapter, tmp_path, settings
):
    backbone, other = load(base, adapter), load(base, with_settings(adapter, tmp_path / "other", **settings))
    first, _ = filled(backbone, tmp_path / "cache")
    second, report = filled(other, tmp_path / "cache")
    assert report.texts_computed == 24
    assert backbone.fingerprint() != other.fingerprint()
    (values, others) = (next(iter(read.values())) for read in (first, second))
    assert (values - others).abs().max() > 1e-3  # the control: these settings do change activations


@pytest.mark.parametrize(
    "settings",
    [
        {"base_model_name_or_path": "elsewhere"},
        {"revision": "main"},
        {"peft_version": "0.0"},
        {"inference_mode": False},
        {"target_modules": ["v_proj", "q_proj"]},
    ],
    ids=str,
)
def test_where_an_adapter_comes_from_does_not_change_its_fingerprint(base, adapter, tmp_path, settings):
    other = with_settings(adapter, tmp_path / "other", **settings)
    assert load(base, other).fingerprint() == load(base, adapter).fingerprint()


def test_the_state_of_a_live_adapter_is_part_of_the_fingerprint():
    model = get_peft_model(
        tiny_backbone().load_with_head(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    inner = model.get_base_model()
    digests = [fingerprint(inner)]
    module = inner.model.layers[0].self_attn.q_proj
    module.scaling["default"] *= 2
    digests.append(fingerprint(inner))
    module.scaling["default"] /= 2
    assert fingerprint(inner) == digests[0]
    model.base_model.disable_adapter_layers()
    digests.append(fingerprint(inner))
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    "other",
    [
        {"bnb_4bit_quant_type": "nf4"},
        {"bnb_4bit_compute_dtype": torch.bfloat16},
        {"bnb_4bit_use_double_quant": True},
        {"llm_int8_skip_modules": ["q_proj"]},
        {"llm_int8_threshold": 3.0},
    ],
    ids=str,
)
def test_settings_of_a_quantization_are_part_of_the_fingerprint(other):
    digests = []
    for settings in ({}, other, {}):
        backbone = tiny_backbone()
        backbone.model.config.quantization_config = BitsAndBytesConfig(load_in_4bit=True, **settings)
        digests.append(backbone.fingerprint())
    assert digests[0] == digests[2] != digests[1]


def test_the_scales_of_quantized_weights_are_part_of_the_fingerprint():
    """bitsandbytes keeps them as attributes of the parameter: two models may differ in nothing else."""
    backbone = tiny_backbone()
    weight = backbone.model.layers[0].mlp.down_proj.weight
    digests = [backbone.fingerprint()]
    for scale in (1.0, 2.0):
        weight.quant_state = SimpleNamespace(as_dict=lambda packed, scale=scale: {"absmax": torch.tensor([scale])})
        digests.append(backbone.fingerprint())
    del weight.quant_state
    for scale in (1.0, 2.0):
        weight.SCB = torch.tensor([scale])
        digests.append(backbone.fingerprint())
    assert len(set(digests)) == 5
