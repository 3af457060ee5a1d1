"""Running out of memory changes which texts share a pass, and nothing that is stored."""

from __future__ import annotations

import logging
import random

import pytest
import torch
from safetensors import safe_open

from probes.activations import ExtractionSettings, fill_stores, open_stores
from probes.activations.passes import ForwardPasses, PassProgress
from probes.backbones import TokenizedTexts, tiny_backbone

DRAW = random.Random(0)
TEXTS = [f"{i} {'x' * DRAW.randint(0, 40)}" for i in range(60)]


class LimitedMemory:
    """A tiny backbone that runs out of memory in a pass of more than `holds` tokens."""

    def __init__(self, *, holds: int) -> None:
        self.backbone = tiny_backbone()
        self.failed: list[int] = []
        self.passed: list[int] = []
        self.holds = holds
        self.backbone.model.get_submodule("layers.1").register_forward_pre_hook(self._allocate, with_kwargs=True)

    def _allocate(self, _module, args, kwargs) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        tokens = hidden.shape[0] * hidden.shape[1]
        (self.failed if tokens > self.holds else self.passed).append(tokens)
        if tokens > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory.")


def stored(backbone, root, **settings):
    chosen = ExtractionSettings(pooling=["last", "mean"], **settings)
    stores = open_stores(backbone, chosen, root)
    tokens = backbone.tokenize(TEXTS)
    report = fill_stores(backbone, tokens, stores, chosen)
    return [store.read(tokens.text_ids, range(backbone.num_layers + 1)) for store in stores.values()], report


def shards(root) -> dict[str, list[str]]:
    found = {}
    for path in root.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found[f"{path.parent.name}/{path.name}"] = file.metadata()["text_ids"]
    return found


def test_the_stored_values_are_the_same_with_and_without_running_out_of_memory(tmp_path):
    whole, _ = stored(tiny_backbone(), tmp_path / "whole")
    limited = LimitedMemory(holds=100)
    values, report = stored(limited.backbone, tmp_path / "limited")
    assert limited.failed  # the control: memory did run out
    assert report.forward_passes == len(limited.passed)
    assert report.texts_computed == len(TEXTS)
    for ours, reference in zip(values, whole, strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-6)
    assert shards(tmp_path / "limited") == shards(tmp_path / "whole")


def over(passes: ForwardPasses, tokens: TokenizedTexts):
    """All texts, under the backbone's own readings."""
    texts = list(zip(tokens.text_ids, tokens.ids, strict=True))
    return passes.over(texts, passes.backbone.readings(), PassProgress(None, texts=len(texts), tokens=1))


def test_each_failure_halves_the_budget_and_is_logged_once(caplog):
    limited = LimitedMemory(holds=48)
    passes = ForwardPasses(limited.backbone, None, 4096)
    tokens = limited.backbone.tokenize([f"{i:03}" for i in range(60)])
    names = [name for batch, _ in over(passes, tokens) for name in batch]
    assert sorted(names) == sorted(tokens.text_ids)
    assert limited.failed == [3 * 60, 3 * 30]
    assert passes.tokens_per_batch <= limited.failed[-1] / 2
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == len(limited.failed)
    assert f"`extraction.tokens_per_batch={passes.tokens_per_batch}`" in caplog.messages[-1]


def test_memory_that_runs_out_late_loses_and_repeats_no_text():
    limited = LimitedMemory(holds=10**6)
    passes = ForwardPasses(limited.backbone, None, 128)
    tokens = limited.backbone.tokenize(TEXTS)
    names = []
    for batch, _ in over(passes, tokens):
        names += batch
        if len(names) > len(TEXTS) / 2:
            limited.holds = 25
    assert limited.failed
    assert sorted(names) == sorted(tokens.text_ids)


def test_the_error_for_a_single_text_that_does_not_fit_into_memory_names_the_keys(tmp_path):
    message = r"One text of \d+ tokens .* `extraction\.tokens_per_batch`\. Set `extraction\.max_length` below"
    with pytest.raises(MemoryError, match=message):
        stored(LimitedMemory(holds=8).backbone, tmp_path)


@pytest.mark.parametrize("texts_per_shard", [1, 7, 60, 512])
def test_shards_hold_the_same_texts_whatever_the_budget(tmp_path, texts_per_shard: int):
    found, values = [], []
    for budget in (1, 64, "auto", 65536):
        root = tmp_path / f"{budget}"
        values.append(stored(tiny_backbone(), root, texts_per_shard=texts_per_shard, tokens_per_batch=budget)[0])
        found.append(shards(root))
    assert all(shards == found[0] for shards in found)
    assert len(found[0]) == 2 * -(-len(TEXTS) // texts_per_shard)
    for other in values[1:]:
        for ours, reference in zip(other, values[0], strict=True):
            torch.testing.assert_close(ours, reference, rtol=0, atol=1e-6)
