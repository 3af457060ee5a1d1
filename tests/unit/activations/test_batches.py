"""Batches have texts of one padded length and as many tokens as memory allows."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_model
from torch import Tensor

from probes.activations.batches import budget_for_memory, bytes_per_token, padded_length, plan_batches, token_budget
from probes.backbones import FrozenBackbone, pad_right, tiny_backbone
from probes.backbones.tiny import byte_tokenizer


def test_every_text_is_in_one_batch_within_the_budget_and_the_longest_come_first():
    draw = random.Random(0)
    lengths = [draw.randint(1, 900) for _ in range(500)]
    batches = plan_batches(lengths, tokens_per_batch=1024, limit=900)
    assert sorted(text for batch in batches for text in batch.texts) == list(range(500))
    assert all(len(b.texts) * b.length <= 1024 or len(b.texts) == 1 for b in batches)
    assert [b.length for b in batches] == sorted((b.length for b in batches), reverse=True)


def test_the_padded_length_of_a_text_depends_on_the_text_alone():
    draw = random.Random(1)
    lengths = [draw.randint(1, 900) for _ in range(200)]
    alone = [plan_batches([n], tokens_per_batch=1024, limit=2048)[0].length for n in lengths]
    for batch in plan_batches(lengths, tokens_per_batch=1024, limit=2048):
        assert {alone[text] for text in batch.texts} == {batch.length}


def test_padding_adds_at_most_a_sixteenth_and_never_exceeds_the_limit():
    for tokens in range(1, 3000):
        length = padded_length(tokens, limit=3000)
        assert tokens <= length <= min(3000, tokens + tokens / 16 + 1)


def test_a_budget_below_one_token_is_refused():
    with pytest.raises(ValueError, match="tokens_per_batch"):
        plan_batches([3], tokens_per_batch=0, limit=8)


def test_without_a_gpu_auto_is_1024_and_a_number_is_returned_unchanged():
    assert token_budget(tiny_backbone(), "auto", longest=5000) == 1024
    assert token_budget(tiny_backbone(), 77, longest=5000) == 77


def test_the_budget_is_the_largest_power_of_two_that_fits_into_half_the_memory():
    for free in (0, 10**6, 10**9, 5 * 10**9, 10**11, 10**13):
        budget = budget_for_memory(free, 100_000)
        assert budget in {2**k for k in range(10, 17)}
        assert budget == 1024 or budget * 100_000 <= free / 2
        assert budget == 65536 or 2 * budget * 100_000 > free / 2


def test_the_budget_on_cuda_depends_on_the_device_with_the_least_free_memory(monkeypatch):
    free = {"cuda:0": 10**9, "cuda:1": 10**8}
    backbone = tiny_backbone()
    per_token = bytes_per_token(backbone, longest=16)
    weights = [fake_weight(device) for device in ("cuda:0", "cpu", "cuda:1", "cuda:0")]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[str(device)], 0))
    monkeypatch.setattr(backbone.model, "parameters", lambda: iter(weights))
    assert token_budget(backbone, "auto", longest=16) == budget_for_memory(free["cuda:1"], per_token)


def fake_weight(device: str) -> SimpleNamespace:
    """What `token_budget` and the dtype of a transformers model read of a weight."""
    is_cuda = device.startswith("cuda")
    return SimpleNamespace(
        device=torch.device(device), is_cuda=is_cuda, dtype=torch.float32, is_floating_point=lambda: True
    )


@pytest.mark.parametrize("family", ["llama", "bert", "t5", "gpt2"])
def test_the_bytes_per_token_cover_the_outputs_of_all_modules_of_a_block(family: str):
    backbone = FrozenBackbone(tiny_model(family), byte_tokenizer())
    tokens, output_bytes = 32, []

    def record(_module, _args, output):
        output_bytes.append(output.nbytes if isinstance(output, Tensor) else 0)

    block = backbone._stacks[backbone.stacks[0]].blocks[0]
    leaves = [module for module in block.modules() if not list(module.children())]
    for leaf in leaves:
        leaf.register_forward_hook(record)
    ids = backbone.tokenize(["x" * tokens]).ids
    backbone(*pad_right(ids, length=len(ids[0]), pad_id=0), readings=backbone.readings())
    assert len(output_bytes) >= 6  # queries, keys, values, output and the MLP's two matrices
    assert 0 < sum(output_bytes) <= len(ids[0]) * bytes_per_token(backbone, longest=tokens)
