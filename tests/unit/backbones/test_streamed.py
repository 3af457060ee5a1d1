"""A model whose blocks stay on disk has the activations of the same model in memory, to the bit."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model

from probes.activations import ExtractionSettings, certified, fill_stores, open_stores
from probes.backbones import FrozenBackbone
from probes.backbones.loading import Source
from probes.backbones.streamed.backbone import StreamedBackbone
from probes.backbones.tiny import byte_tokenizer

FAMILIES = ("llama", "llama_with_head", "qwen3", "gemma2", "gpt2", "gpt_neox", "opt", "bert", "t5", "bart")
TEXTS = [f"{'a long text ' * (i % 7)}and number {i}" for i in range(40)]


def saved(family: str, folder: Path, *, shard: str = "5GB") -> Path:
    tiny_model(family).save_pretrained(folder, max_shard_size=shard)
    byte_tokenizer().save_pretrained(folder)
    return folder


def loaded(folder: Path, *, stream: bool, **options) -> FrozenBackbone:
    return FrozenBackbone.load(path=str(folder), **({"dtype": "float32", "device": "cpu", "stream": stream} | options))


def extracted(backbone: FrozenBackbone, root: Path, **options) -> dict[str, torch.Tensor]:
    """Activations by reading."""
    settings = ExtractionSettings(**({"tokens_per_batch": 200, "pooling": ["last", "mean", "max"]} | options))
    texts, stores = backbone.tokenize(TEXTS), open_stores(backbone, settings, root)
    certified(backbone, texts, stores)
    fill_stores(backbone, texts, stores, settings)
    return {str(r): store.read(texts.text_ids, backbone.layers(r.stack, site=r.site)) for r, store in stores.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_and_fingerprint_are_those_of_the_model_in_memory(family: str, tmp_path):
    folder = saved(family, tmp_path / "model")
    memory, stream = (loaded(folder, stream=stream) for stream in (False, True))
    assert isinstance(stream, StreamedBackbone)
    assert stream.fingerprint() == memory.fingerprint()
    ours, theirs = extracted(stream, tmp_path / "stream"), extracted(memory, tmp_path / "memory")
    assert ours.keys() == theirs.keys()
    for reading, values in ours.items():
        assert values.std(dim=1).max() > 0.01
        assert torch.equal(values, theirs[reading]), reading


@pytest.mark.parametrize(
    "options", [{"stack": ["encoder", "decoder"], "decoder_input": "text"}, {"layers": [0, 2]}, {"layers": "final"}]
)
def test_stacks_and_layers_are_chosen_as_in_memory(options, tmp_path):
    folder = saved("t5" if "stack" in options else "llama", tmp_path / "model")
    ours, theirs = (extracted(loaded(folder, stream=s, **options), tmp_path / str(s)) for s in (True, False))
    assert all(torch.equal(values, theirs[reading]) for reading, values in ours.items())


def test_sublayers_are_read_as_in_memory(tmp_path):
    folder = saved("llama", tmp_path / "model")
    ours, theirs = (
        extracted(loaded(folder, stream=s), tmp_path / str(s), site=["attention", "mlp"]) for s in (True, False)
    )
    assert len(ours) == 6
    assert all(torch.equal(values, theirs[reading]) for reading, values in ours.items())


def test_bfloat16_is_equal_to_the_bit_too(tmp_path):
    folder = saved("llama", tmp_path / "model")
    ours, theirs = (extracted(loaded(folder, stream=s, dtype="bfloat16"), tmp_path / str(s)) for s in (True, False))
    assert all(torch.equal(values, theirs[reading]) for reading, values in ours.items())


def test_all_batches_of_a_shard_share_one_reading_of_each_block(tmp_path):
    folder = saved("llama", tmp_path / "model", shard="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    backbone = loaded(folder, stream=True)
    blocks = sum(p.numel() for b in backbone.model.layers for p in b.parameters()) * 4
    settings = ExtractionSettings(tokens_per_batch=64, texts_per_shard=512)
    texts, stores = backbone.tokenize(TEXTS), open_stores(backbone, settings, tmp_path / "cache")
    before = backbone.weights.bytes_read
    report = fill_stores(backbone, texts, stores, settings)
    assert report.forward_passes > 10
    assert backbone.weights.bytes_read - before == blocks
    assert all(p.is_meta for b in backbone.model.layers[:-1] for p in b.parameters())  # one block is in memory at most


def test_hidden_states_beyond_a_limit_go_to_disk_and_come_back_unchanged(tmp_path):
    folder = saved("llama", tmp_path / "model")
    spilling = StreamedBackbone.open(Source(path=str(folder)), dtype="float32", held_bytes=0)
    ours = extracted(spilling, tmp_path / "ours")
    theirs = extracted(loaded(folder, stream=False), tmp_path / "theirs")
    assert all(torch.equal(values, theirs[reading]) for reading, values in ours.items())


def test_a_pass_that_fails_ends_all_others_and_its_error_is_raised(tmp_path):
    backbone = loaded(saved("llama", tmp_path / "model"), stream=True)
    ids = torch.tensor([[1, 2, 3]])
    (reading,) = backbone.readings("last")
    threads = threading.active_count()

    def fail() -> None:
        backbone(ids, torch.ones_like(ids), readings=[reading])
        raise RuntimeError("this pass fails")

    calls = [lambda: backbone(ids, torch.ones_like(ids), readings=[reading])] * 3
    with pytest.raises(RuntimeError, match="this pass fails"):
        backbone.run_together([*calls, fail])
    assert threading.active_count() == threads
    (again,) = backbone.run_together(calls[:1])
    assert again[reading].isfinite().all()


def test_a_weight_that_is_not_finite_is_named_when_it_is_read(tmp_path):
    folder = saved("llama", tmp_path / "model")
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"Weight 'layers.1.mlp.up_proj.weight' in .* is NaN or infinite"):
        loaded(folder, stream=True)


def test_what_cannot_be_streamed_is_named_with_what_to_set(tmp_path):
    folder = saved("llama", tmp_path / "model")
    with pytest.raises(ValueError, match=r"`backbone.adapter=some` too\. Leave that out"):
        loaded(folder, stream=True, adapter="some")
    with pytest.raises(ValueError, match=r"`backbone.trust_remote_code=True` too"):
        loaded(folder, stream=True, trust_remote_code=True)
    with pytest.raises(ValueError, match=r"`backbone.max_memory=\{0: '1GiB'\}` too"):
        loaded(folder, stream=True, max_memory={0: "1GiB"})
    with pytest.raises(ValueError, match=r"`backbone.device=cuda` too"):
        loaded(folder, stream=True, device="cuda")
    weights = load_file(folder / "model.safetensors")
    weights["other.name"] = weights.pop("layers.0.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"has no weight 'layers.0.mlp.up_proj.weight' .*`backbone.stream=false`"):
        loaded(folder, stream=True)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has neither model\.safetensors nor"):
        loaded(folder, stream=True)
