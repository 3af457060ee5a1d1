from __future__ import annotations

import pytest
import torch
from tuning_samples import tuned_model

from probes.backbones import tiny_backbone
from probes.tuning import TuningSettings
from probes.tuning.adapters import effect_digest, make_trainable, trainable

pytestmark = pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")


@pytest.mark.parametrize(
    ("settings", "name_parts"),
    [
        ({"method": "lora"}, {"q_proj.lora_A", "q_proj.lora_B", "v_proj.lora_A", "v_proj.lora_B"}),
        ({"method": "dora", "target_modules": "q_proj"}, {"lora_A", "lora_B", "lora_magnitude_vector"}),
        ({"method": "ia3", "target_modules": ["k_proj", "down_proj"]}, {"k_proj.ia3_l", "down_proj.ia3_l"}),
        ({"method": "ln"}, {"model.norm", "input_layernorm", "post_attention_layernorm"}),
    ],
)
def test_each_method_trains_only_its_weights_and_in_float32(settings, name_parts):
    model = tiny_backbone(dtype="bfloat16").load_with_head()
    make_trainable(model, TuningSettings(**settings), seed=0)
    names = trainable(model)
    assert {parameter.dtype for parameter in names.values()} == {torch.float32}
    assert all(any(part in name for part in name_parts) for name in names)
    assert all(any(part in name for name in names) for part in name_parts)
    assert model.model.embed_tokens.weight.dtype == torch.bfloat16


def test_full_tuning_trains_every_weight():
    model = tiny_backbone(dtype="bfloat16").load_with_head()
    assert make_trainable(model, TuningSettings(method="full"), seed=0) is None
    assert trainable(model).keys() == dict(model.named_parameters()).keys()
    assert model.lm_head.weight.dtype == torch.float32


def test_all_weights_of_a_quantized_model_cannot_be_trained(monkeypatch):
    model = tiny_backbone().load_with_head()
    monkeypatch.setattr(model, "is_quantized", True, raising=False)
    with pytest.raises(ValueError, match=r"Quantized weights.*`tuning\.method=lora`, or `backbone\.quantization=null`"):
        make_trainable(model, TuningSettings(method="full"), seed=0)


def test_ia3_scales_the_inputs_of_the_feed_forward_output_and_the_outputs_of_other_modules():
    model = tuned_model(TuningSettings(method="ia3", target_modules=("k_proj", "down_proj"))).model
    sizes = {name.split(".")[-3]: p.numel() for name, p in trainable(model).items()}
    assert sizes == {"k_proj": 16, "down_proj": 64}


def test_the_seed_decides_the_initial_weights_and_these_leave_the_outputs_unchanged():
    starts = [trainable(tuned_model(TuningSettings(), seed=seed).model) for seed in (0, 0, 1)]
    name = next(name for name in starts[0] if "lora_A" in name)
    assert torch.equal(starts[0][name], starts[1][name])
    assert not torch.equal(starts[0][name], starts[2][name])
    ids = torch.arange(8)[None]
    expected = tiny_backbone().load_with_head()(ids).logits
    assert torch.equal(tuned_model(TuningSettings(dropout=0.0)).model(ids).logits, expected)


def test_an_unknown_target_module_is_refused_and_the_error_lists_the_available_ones():
    with pytest.raises(ValueError, match=r"called c_attn\. There are down_proj, gate_proj, .*`tuning\.target_modules`"):
        tuned_model(TuningSettings(target_modules=("q_proj", "c_attn")))
    with pytest.raises(ValueError, match="is called proj"):
        tuned_model(TuningSettings(target_modules=("proj",)))


def test_adapters_are_limited_to_the_blocks_that_are_named():
    model = tuned_model(TuningSettings(layers_to_transform=(1,))).model
    assert {name.split(".layers.")[1].split(".")[0] for name in trainable(model)} == {"1"}


def test_a_block_that_the_model_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"has \d blocks, numbered from 0; got \[1, 99\].*`tuning\.layers_to_trans"):
        tuned_model(TuningSettings(layers_to_transform=(1, 99)))


def test_blocks_of_a_model_that_has_no_list_of_them_cannot_be_chosen():
    model = tiny_backbone().load_with_head()
    model.config.num_hidden_layers += 1  # no list has as many modules
    with pytest.raises(ValueError, match=r"blocks in no list.*`tuning\.layers_to_transform=null`"):
        make_trainable(model, TuningSettings(layers_to_transform=(0,)), seed=0)


def test_the_effect_digest_covers_factor_b_but_not_a():
    model = tuned_model(TuningSettings()).model
    before, weights = effect_digest(model), trainable(model)
    with torch.no_grad():
        next(p for name, p in weights.items() if "lora_A" in name).add_(1)
        assert effect_digest(model) == before
        next(p for name, p in weights.items() if "lora_B" in name).view(-1)[-1] = 1e-8
    assert effect_digest(model) != before
