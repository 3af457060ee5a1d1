from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tuning_samples import toy_splits

from probes.backbones import FrozenBackbone, tiny_backbone
from probes.backbones.tiny import byte_tokenizer
from probes.trainers import default_trainer
from probes.tuning import TuningSettings, merge_adapters, tune

SETTINGS = TuningSettings(rank=4, max_steps=1)


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    tiny_backbone().load_with_head().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return FrozenBackbone.load(path=str(folder), dtype="float32")


def adapter(base, folder, *, seed: int, **options):
    """Save a random LoRA adapter; return its folder and, computed by hand, what it adds to each weight."""
    config = LoraConfig(task_type="CAUSAL_LM", **({"target_modules": ["q_proj", "v_proj"], "lora_alpha": 12} | options))
    model = get_peft_model(base.load_with_head(), config)
    generator, changes = torch.Generator().manual_seed(seed), {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            a, b = module.lora_A["default"].weight.data, module.lora_B["default"].weight.data
            a.normal_(generator=generator)
            b.normal_(generator=generator)
            scale = 12 / (config.r**0.5 if config.use_rslora else config.r)
            changes[name.removeprefix("base_model.model.model.") + ".weight"] = scale * b @ a
    model.save_pretrained(folder)
    return folder, changes


def test_a_merge_adds_the_scaled_sum_of_all_changes_to_the_weights(base, tmp_path):
    adapters = [
        adapter(base, tmp_path / "three", seed=3, r=4, use_rslora=True),
        adapter(base, tmp_path / "one", seed=1, r=4),
        adapter(base, tmp_path / "two", seed=2, r=2),
    ]
    folder = merge_adapters(base, [folder for folder, _ in adapters], coefficient=0.03, out=tmp_path / "merged")
    merged = FrozenBackbone.load(path=str(tmp_path / "base"), dtype="float32", adapter=str(folder))
    ids = torch.arange(12)[None]
    expected = base.load_with_head().model
    for name in adapters[0][1]:
        weight = expected.get_parameter(name)
        weight.data += 0.03 * sum(changes[name] for _, changes in adapters)
    by_hand = expected(ids).last_hidden_state[0, -1]
    reading = base.readings("last")
    ours = merged(ids, torch.ones_like(ids), readings=reading, layers="final")[reading[0]][0, 0]
    torch.testing.assert_close(ours, by_hand, rtol=1e-4, atol=1e-4)
    plain = base(ids, torch.ones_like(ids), readings=reading, layers="final")[reading[0]][0, 0]
    assert (ours - plain).abs().max() > 0.1


def test_an_equal_merge_is_reused_and_another_coefficient_makes_another_one(base, tmp_path):
    folders = [adapter(base, tmp_path / name, seed=seed, r=4)[0] for seed, name in enumerate("ab")]
    first = merge_adapters(base, folders, coefficient=0.5, out=tmp_path / "out")
    stamp = (first / "adapter_model.safetensors").stat().st_mtime_ns
    assert merge_adapters(base, folders, coefficient=0.5, out=tmp_path / "out") == first
    assert (first / "adapter_model.safetensors").stat().st_mtime_ns == stamp
    assert merge_adapters(base, folders, coefficient=1.0, out=tmp_path / "out") != first
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        {first.name, merge_adapters(base, folders, coefficient=1.0, out=tmp_path / "out").name}
    )
    assert json.loads((first / "merge.json").read_text())["coefficient"] == 0.5


def test_adapters_that_cannot_be_added_are_refused(base, tmp_path):
    def refused(message, folders, coefficient=1.0, backbone=base):
        with pytest.raises(ValueError, match=message):
            merge_adapters(backbone, folders, coefficient=coefficient, out=tmp_path)

    one, _ = adapter(base, tmp_path / "one", seed=1)
    refused("at least one adapter; got none", [])
    refused("must be a finite number other than 0; got 0", [one], coefficient=0)
    refused("must be a finite number other than 0; got nan", [one], coefficient=float("nan"))
    dora, _ = adapter(base, tmp_path / "dora", seed=1, use_dora=True)
    refused(r"not a plain LoRA adapter.*`tuning\.method=lora`", [one, dora])
    pattern, _ = adapter(base, tmp_path / "pattern", seed=1, rank_pattern={"q_proj": 2})
    refused("not a plain LoRA", [pattern])
    keys, _ = adapter(base, tmp_path / "keys", seed=1, target_modules=["k_proj"])
    refused(r"different modules, such as .*k_proj.*`tuning\.target_modules`", [one, keys])
    settings = replace(SETTINGS, generate_rows=0)
    tuned = tune("toy", base, toy_splits(), settings, trainer=default_trainer, seed=0, cache_dir=tmp_path)
    assert merge_adapters(base, [tuned.folder], coefficient=1.0, out=tmp_path).exists()
    refused("tuned from another base", [tuned.folder], backbone=tiny_backbone(seed=1))
