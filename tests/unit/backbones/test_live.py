import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_model

from probes.backbones import FrozenBackbone, frozen_view
from probes.backbones.tiny import byte_tokenizer


def read(backbone: FrozenBackbone) -> torch.Tensor:
    (reading,) = backbone.readings()
    ids = torch.arange(12).view(2, 6)
    return backbone(ids, torch.ones_like(ids), readings=[reading])[reading]


def test_a_view_reads_what_the_frozen_model_would_and_gives_training_back():
    model = tiny_model("llama_with_head")
    wanted = read(FrozenBackbone(tiny_model("llama_with_head"), byte_tokenizer()))
    model.train()
    model.get_parameter("model.layers.0.mlp.up_proj.weight").requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with frozen_view(model, byte_tokenizer()) as view:
        torch.testing.assert_close(read(view), wanted, rtol=0, atol=0)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert len(set(before.values())) == 2
    assert all(module.training for module in model.modules())


def test_training_comes_back_after_an_error():
    model = tiny_model("llama_with_head").train()
    with pytest.raises(ZeroDivisionError), frozen_view(model, byte_tokenizer()):
        raise ZeroDivisionError
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_view_sees_the_adapters_as_they_are_now():
    model = tiny_model("llama_with_head")
    base = read(FrozenBackbone(tiny_model("llama_with_head"), byte_tokenizer()))
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=2))
    with frozen_view(model, byte_tokenizer()) as view:
        torch.testing.assert_close(read(view), base)  # an adapter starts by changing nothing
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    with frozen_view(model, byte_tokenizer()) as view:
        assert (read(view)[1:] - base[1:]).abs().max() > 0.01
