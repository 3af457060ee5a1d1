"""What a CUDA GPU computes is what a CPU computes, twice the same, and whole after memory ran out: `make test-gpu`.

PROBES_GPU_TESTS_ON=cpu runs these tests on a CPU, which shows only that they themselves are in order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tuning_samples import toy_splits

from probes.activations import ExtractionSettings, fill_stores, open_stores
from probes.activations.batches import token_budget
from probes.activations.passes import ForwardPasses, PassProgress
from probes.analysis import linear_cka
from probes.backbones import FrozenBackbone, tiny_backbone
from probes.planning.measured import drawn_task
from probes.trainers import default_trainer
from probes.training import ProbeSettings, fit_task
from probes.tuning import TuningSettings, tune

DEVICE = os.environ.get("PROBES_GPU_TESTS_ON", "cuda")
TEXTS = [f"{number} {'word ' * (number % 23)}" for number in range(96)]
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Largest difference between devices, relative to the largest activation."""

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA GPU, and there is none"
    ),
]


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """Without TF32, so that float32 is float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def backbone(device: str, dtype: torch.dtype = torch.float32) -> FrozenBackbone:
    """A random model with its head on a device; as large as a GPU needs to choose its own kernels."""
    tiny = tiny_backbone(hidden_size=128, num_layers=4, dtype=str(dtype).removeprefix("torch."))
    tiny.model.to(device)
    load = tiny._with_head
    tiny._with_head = lambda: load().to(device)
    return tiny


def extracted(model: FrozenBackbone, root: Path, **settings) -> dict[str, torch.Tensor]:
    chosen = ExtractionSettings(pooling=["last", "mean"], **settings)
    stores = open_stores(model, chosen, root)
    tokens = model.tokenize(TEXTS)
    fill_stores(model, tokens, stores, chosen)
    return {r.pooling: store.read(tokens.text_ids, model.layers(r.stack)) for r, store in stores.items()}


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_activations_are_those_of_a_cpu_within_the_tolerance_of_the_dtype(tmp_path, dtype):
    ours = extracted(backbone(DEVICE, dtype), tmp_path / "gpu", tokens_per_batch=512)
    reference = extracted(backbone("cpu", dtype), tmp_path / "cpu", tokens_per_batch=512)
    for pooling, values in reference.items():
        assert (ours[pooling] - values).abs().max() <= TOLERANCE[dtype] * values.abs().max()
        assert values[1].std() > 0  # the control: rows differ


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_second_extraction_has_the_same_bits(tmp_path, dtype):
    first, second = (extracted(backbone(DEVICE, dtype), tmp_path / name) for name in ("first", "second"))
    assert all(torch.equal(first[pooling], second[pooling]) for pooling in first)


def test_results_are_whole_when_they_are_copied_while_the_next_pass_runs(tmp_path):
    model = backbone(DEVICE)
    (reading,) = model.readings("last")
    tokens = model.tokenize(TEXTS)
    texts = list(zip(tokens.text_ids, tokens.ids, strict=True))
    passes = ForwardPasses(model, None, 128)  # many small passes, whose copies overlap
    ahead = {
        name: values[reading][row]
        for names, values in passes.over(texts, [reading], PassProgress(None, texts=len(texts), tokens=1))
        for row, name in enumerate(names)
    }
    assert passes.done > 10
    stored = extracted(model, tmp_path, tokens_per_batch=128)["last"]  # (layers, texts, features)
    for row, name in enumerate(tokens.text_ids):
        assert ahead[name].device.type == "cpu"
        assert torch.equal(ahead[name].float(), stored[:, row])


@pytest.mark.skipif(DEVICE != "cuda", reason="a CPU has no memory of its own to limit")
def test_running_out_of_memory_halves_the_batches_and_changes_no_value(tmp_path, caplog):
    model = backbone(DEVICE)
    whole = extracted(model, tmp_path / "whole", tokens_per_batch=256)
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction(min(1.0, (held + 4 * 2**20) / total))
        limited = extracted(model, tmp_path / "limited", tokens_per_batch=65536)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "ran out of GPU memory" in caplog.text  # the control: memory did run out
    for pooling, values in whole.items():
        torch.testing.assert_close(limited[pooling], values, rtol=0, atol=1e-5)


@pytest.mark.skipif(DEVICE != "cuda", reason="on a CPU the budget is a constant")
def test_the_budget_fits_into_free_memory():
    model = backbone(DEVICE)
    assert token_budget(model, "auto", longest=64) >= 1024


def test_a_tuning_learns_what_it_learns_on_a_cpu_and_twice_the_same(tmp_path):
    settings = TuningSettings(learning_rate=1e-2, max_steps=6, batch_size=8, rank=4, dropout=0.0, generate_rows=2)
    models = {
        name: tune("toy", backbone(device), toy_splits(), settings, trainer=default_trainer, seed=0,
                   cache_dir=tmp_path / name)
        for name, device in (("first", DEVICE), ("second", DEVICE), ("cpu", "cpu"))
    }  # fmt: skip
    assert models["first"].tuned == models["second"].tuned
    assert models["first"].tuned.test_loss == pytest.approx(models["cpu"].tuned.test_loss, rel=1e-3)
    assert models["cpu"].tuned.test_loss < models["cpu"].base.test_loss  # the control: something was learned


def test_probes_and_cka_are_those_of_a_cpu():
    data = drawn_task(32, {"train": 120, "validation": 60, "test": 60}, 3)
    settings = ProbeSettings(penalties=(0.1,), bootstrap_samples=0, permutations=0, training_sets=0)

    def trainer(**more):
        return default_trainer(accelerator="gpu" if DEVICE == "cuda" else "cpu", **more)

    ours, reference = fit_task(data, settings, trainer, 0), fit_task(data, settings, default_trainer, 0)
    for one, other in zip(ours.profiles, reference.profiles, strict=True):
        assert torch.allclose(
            torch.as_tensor(one.estimates.values), torch.as_tensor(other.estimates.values), atol=5e-3, equal_nan=True
        ), one.quantity
    x = data.test.activations.values
    cka = linear_cka(x.to(DEVICE), 2 * x.to(DEVICE)).cpu()
    torch.testing.assert_close(cka, linear_cka(x, 2 * x), rtol=0, atol=1e-4)
