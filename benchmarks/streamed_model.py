"""A model larger than memory: seconds and peak memory of reading all its layers with `backbone.stream=true`.

Writes a Llama with random weights in bfloat16, block by block (3.1 billion parameters by default, 6.2 GB of disk), and
reads a few texts at every layer in a process of its own. Against it stands what the weights alone would take in memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from accelerate import init_empty_weights
from peak import peak_gib
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaModel

from probes.activations import ExtractionSettings, fill_stores, open_stores
from probes.backbones import FrozenBackbone
from probes.backbones.streamed.backbone import StreamedBackbone
from probes.backbones.tiny import byte_tokenizer

TEXTS = [f"{'some words of text ' * (i % 3)}and number {i}" for i in range(16)]


def write(folder: Path, blocks: int, hidden: int) -> int:
    """A model in one file a block; returns its number of parameters."""
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=blocks,
        num_attention_heads=hidden // 128,
        num_key_value_heads=max(1, hidden // 512),
        dtype="bfloat16",
    )
    with init_empty_weights():
        model = LlamaModel(config)
    files: dict[str, dict[str, torch.Tensor]] = {}
    for name, weight in model.named_parameters():
        part = name.split(".")[1] if name.startswith("layers.") else "rest"
        files.setdefault(f"model-{part}.safetensors", {})[name] = weight
    generator, drawn = torch.Generator().manual_seed(0), {}  # all blocks have the same weights: less to draw
    for file, weights in files.items():
        for name, weight in weights.items():
            part = _part(name)
            if part not in drawn:
                values = (torch.rand(weight.shape, generator=generator) - 0.5).mul_(0.07)
                drawn[part] = (values if weight.ndim > 1 else torch.ones(weight.shape)).bfloat16()
        save_file({name: drawn[_part(name)] for name in weights}, folder / file, metadata={"format": "pt"})
    index = {name: file for file, weights in files.items() for name in weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


def _part(name: str) -> str:
    return name.split(".", 2)[2] if name.startswith("layers.") else name


def measure(folder: Path) -> dict[str, float]:
    """Seconds of each step, in this process; its peak memory before the model is opened, and in all."""
    seconds: dict[str, float] = {}
    before, start = peak_gib(), time.perf_counter()

    def lap(step: str) -> None:
        nonlocal start
        seconds[f"{step}, s"] = round(time.perf_counter() - start, 1)
        start = time.perf_counter()

    backbone = FrozenBackbone.load(path=str(folder), dtype="bfloat16", stream=True)
    assert isinstance(backbone, StreamedBackbone)
    lap("open and verify")
    settings = ExtractionSettings(pooling=["last", "mean"], tokens_per_batch=256)
    texts = backbone.tokenize(TEXTS)
    with tempfile.TemporaryDirectory() as cache:
        stores = open_stores(backbone, settings, Path(cache))
        lap("fingerprint")
        read = backbone.weights.bytes_read
        report = fill_stores(backbone, texts, stores, settings)
        lap("extraction")
        for reading, store in stores.items():
            assert store.read(texts.text_ids, backbone.layers(reading.stack)).isfinite().all()
    return {
        **seconds,
        "tokens": report.tokens_computed,
        "passes": report.forward_passes,
        "GB read by the extraction": round((backbone.weights.bytes_read - read) / 1e9, 2),
        "peak before, GiB": round(before, 2),
        "peak, GiB": round(peak_gib(), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=3072, help="features, a multiple of 512")
    parser.add_argument("--one", type=Path, help="measure the model in this folder in this process")
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        parameters = write(Path(folder), given.blocks, given.hidden)
        print(f"{parameters / 1e9:.2f} billion parameters, {2 * parameters / 2**30:.2f} GiB in bfloat16, written in "
              f"{time.perf_counter() - start:.0f} s", flush=True)  # fmt: skip
        command = [sys.executable, __file__, "--one", folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        print(done.stdout.strip())


if __name__ == "__main__":
    main()
