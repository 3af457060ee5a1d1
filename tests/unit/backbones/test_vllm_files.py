"""Files in the format of vLLM's `ExampleHiddenStatesConnector` are read as the hidden states of the same model."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model

from probes.activations import ExtractionSettings, certified, fill_stores, open_stores
from probes.backbones import FrozenBackbone
from probes.backbones.recorded.vllm_files import VllmFiles
from probes.backbones.tiny import byte_tokenizer

TEXTS = [f"{'more ' * (i % 4)}text {i}" for i in range(10)]
LAYERS = [2, 0, 3]  # in the order in which vLLM was asked for them; 3 is the number of blocks


@pytest.fixture(scope="module")
def backbone() -> FrozenBackbone:
    return FrozenBackbone(tiny_model("llama"), byte_tokenizer())


def write_file(backbone: FrozenBackbone, ids: torch.Tensor, path: Path) -> None:
    """What the connector writes for one prompt: the residual stream of each token in front of block k, k = 0, 1, …"""
    seen: dict[int, torch.Tensor] = {}
    model = backbone.model
    handles = [
        block.register_forward_pre_hook(lambda _m, args, k=k: seen.update({k: args[0][0]}))
        for k, block in enumerate(model.layers)
    ]
    handles.append(model.norm.register_forward_pre_hook(lambda _m, args: seen.update({len(model.layers): args[0][0]})))
    with torch.no_grad():
        model(ids[None])
    for handle in handles:
        handle.remove()
    hidden = torch.stack([seen[layer] for layer in LAYERS], dim=1)  # (tokens, layers, features)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"hidden_states": hidden.contiguous(), "token_ids": ids}, path)


@pytest.fixture
def folder(tmp_path, backbone) -> Path:
    for number, ids in enumerate(backbone.tokenize(TEXTS).ids):
        write_file(backbone, torch.from_numpy(ids).long(), tmp_path / "files" / f"request-{number}.safetensors")
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return tmp_path


def opened(folder: Path, layers=LAYERS, **options) -> VllmFiles:
    return VllmFiles(str(folder / "files"), str(folder / "tokenizer"), layers, **options)


def extracted(backbone, root: Path, layers=None) -> dict[str, torch.Tensor]:
    settings = ExtractionSettings(pooling=["last", "mean", "max"])
    texts, stores = backbone.tokenize(TEXTS), open_stores(backbone, settings, root)
    certified(backbone, texts, stores)
    fill_stores(backbone, texts, stores, settings, layers=layers)
    return {str(r): s.read(texts.text_ids, backbone.layers("decoder", spec=layers)) for r, s in stores.items()}


def test_activations_are_those_of_the_model_at_the_same_layers(folder, backbone):
    files = opened(folder)
    assert files.layers("decoder") == (0, 2, 3)
    ours = extracted(files, folder / "ours")
    theirs = extracted(backbone, folder / "theirs", layers=[0, 2, 3])
    assert ours.keys() == theirs.keys()
    for reading, values in ours.items():
        assert torch.allclose(values, theirs[reading], atol=1e-5), reading
    final = extracted(backbone, folder / "final", layers="final")["decoder.residual.last"]
    assert not torch.allclose(ours["decoder.residual.last"][-1], final[0], atol=1e-2)  # layer 3 is before the norm


def test_words_are_pooled_from_the_files(folder, backbone):
    ranges = [[(0, 4), (5, 7)]] * len(TEXTS)
    (reading,) = backbone.readings("words.mean")
    found = []
    for source in (opened(folder), backbone):
        aligned = source.align(TEXTS[:1], ranges[:1])
        ids = torch.from_numpy(aligned.tokenized.ids[0]).long()[None]
        found.append(
            source(ids, torch.ones_like(ids), readings=[reading], layers=[0, 2], spans=aligned.tokenized.spans)[reading]
        )
    assert found[0].shape == (2, 2, 32)
    assert torch.allclose(*found, atol=1e-5)


def test_a_text_whose_file_was_shortened_by_prefix_caching_is_refused(folder):
    path = folder / "files" / "request-3.safetensors"
    kept = load_file(path)
    save_file({name: tensor[4:].contiguous() for name, tensor in kept.items()}, path)
    with pytest.raises(ValueError, match=r"No file of vLLM has the token ids of text 4 \(.*Prefix caching shortens"):
        opened(folder).tokenize(TEXTS)
    save_file({"hidden_states": kept["hidden_states"][4:].contiguous(), "token_ids": kept["token_ids"]}, path)
    with pytest.raises(ValueError, match=r"vLLM took the rest from its prefix cache.*enable_prefix_caching=False"):
        opened(folder)


def test_a_text_with_other_tokens_is_refused_and_the_closest_file_named(folder):
    files = opened(folder)
    with pytest.raises(ValueError, match=r"request-7\.safetensors', has \d+ tokens, of which the last 5 agree"):
        files.tokenize(["another text 7".replace("text", "xext")])
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(ValueError, match="No file of vLLM has the token ids of a text"):
        files(ids, torch.ones_like(ids), readings=files.readings("last"))


def test_what_the_files_do_not_hold_is_named(folder):
    with pytest.raises(ValueError, match=r"no layer \['final'\]. They have \[0, 2, 3\], all before the final norm"):
        opened(folder, layers=LAYERS).layers("decoder", spec="final")
    with pytest.raises(ValueError, match=r"with 2 layers was expected\. Set `backbone.layer_ids`"):
        opened(folder, layers=[0, 2])
    with pytest.raises(ValueError, match="vLLM writes the residual stream alone"):
        opened(folder).readings("last", "mlp")
    with pytest.raises(FileNotFoundError, match="has no safetensors files of vLLM"):
        VllmFiles(str(folder / "tokenizer"), str(folder / "tokenizer"), LAYERS)


def test_other_files_have_another_identity(folder, backbone):
    before = opened(folder).fingerprint()
    assert before == opened(folder).fingerprint() != backbone.fingerprint()
    assert before != opened(folder, layers=[0, 2, 3]).fingerprint()
    path = folder / "files" / "request-0.safetensors"
    kept = load_file(path)
    save_file({**kept, "hidden_states": kept["hidden_states"] + 1}, path)
    assert opened(folder).fingerprint() != before
    save_file(kept, folder / "files" / "again.safetensors")
    with pytest.raises(ValueError, match="hold different hidden states of one text"):
        opened(folder)


def test_a_file_that_vllm_still_writes_or_that_is_cut_is_refused(folder):
    path = folder / "files" / "request-1.safetensors"
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="vLLM still writes"):
            opened(folder)
        fcntl.flock(lock, fcntl.LOCK_UN)
        opened(folder)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="is no whole file of vLLM's hidden states"):
        opened(folder)
