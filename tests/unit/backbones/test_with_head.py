import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_model

from probes.backbones import FrozenBackbone, tiny_backbone
from probes.backbones.tiny import byte_tokenizer


@pytest.fixture
def llama_folder(tmp_path):
    folder = tmp_path / "llama"
    tiny_model("llama_with_head").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("source", ["folder", "tiny"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_model_with_head_has_the_frozen_weights_and_shares_none(llama_folder, source: str, dtype: str):
    tiny = source == "tiny"
    backbone = tiny_backbone(dtype=dtype) if tiny else FrozenBackbone.load(path=llama_folder, dtype=dtype)
    before = backbone.fingerprint()
    model = backbone.load_with_head()
    assert model.dtype == backbone.dtype
    for name, frozen in backbone.model.named_parameters():
        weight = model.base_model.get_parameter(name)
        assert torch.equal(weight, frozen)
        assert weight.requires_grad
        weight.data += 1
    assert backbone.fingerprint() == before
    assert model.get_output_embeddings().weight.shape == (257, 32)
    assert not torch.equal(next(backbone.load_with_head().parameters()), next(model.parameters()))


def test_the_head_is_that_of_the_folder_and_the_same_every_time_for_the_tiny_model(llama_folder):
    head = FrozenBackbone.load(path=llama_folder, dtype="float32").load_with_head().lm_head.weight
    assert torch.equal(head, tiny_model("llama_with_head").lm_head.weight)
    first, second, other = (tiny_backbone(seed=s).load_with_head().lm_head.weight for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("family", ["bert", "t5", "bart"])
def test_a_model_that_reads_both_ways_has_no_head_to_tune(family: str):
    backbone = FrozenBackbone(tiny_model(family), byte_tokenizer(), name=family)
    with pytest.raises(ValueError, match=rf"'{family}' has the stacks \['encoder'.*Set `backbone` to a causal"):
        backbone.load_with_head()


def test_a_wrapped_live_model_says_how_to_give_it_a_head():
    backbone = FrozenBackbone(tiny_model("llama"), byte_tokenizer(), name="live")
    with pytest.raises(ValueError, match=r"'live' was wrapped around a live model.*`backbone\.name`.*`with_head`"):
        backbone.load_with_head()
    whole = FrozenBackbone(tiny_model("llama"), byte_tokenizer(), with_head=lambda: tiny_model("llama_with_head"))
    assert whole.load_with_head().lm_head.weight.shape == (257, 32)


def test_a_backbone_with_an_adapter_is_refused(llama_folder, tmp_path):
    tuned = get_peft_model(tiny_model("llama_with_head"), LoraConfig(target_modules=["q_proj"]))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.5
    tuned.save_pretrained(tmp_path / "adapter")
    backbone = FrozenBackbone.load(path=llama_folder, dtype="float32", adapter=str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match=r"has an adapter already\. Set `backbone\.adapter=null`"):
        backbone.load_with_head()
