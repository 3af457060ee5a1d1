from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_model
from torch import Tensor

from probes.activations.budget import budget_for_memory, bytes_per_token, token_budget
from probes.backbones import FrozenBackbone, pad_right, tiny_backbone
from probes.backbones.tiny import byte_tokenizer


def test_without_a_gpu_auto_is_1024_and_a_number_is_itself():
    assert token_budget(tiny_backbone(), "auto", longest=5000) == 1024
    assert token_budget(tiny_backbone(), 77, longest=5000) == 77


def test_the_budget_is_the_largest_power_of_two_in_half_the_memory_within_its_bounds():
    for free in (0, 10**6, 10**9, 5 * 10**9, 10**11, 10**13):
        budget = budget_for_memory(free, 100_000)
        assert budget in {2**k for k in range(10, 17)}
        assert budget == 1024 or budget * 100_000 <= free / 2
        assert budget == 65536 or 2 * budget * 100_000 > free / 2


def test_the_budget_of_a_cuda_backbone_follows_the_fullest_device(monkeypatch):
    free = {"cuda:0": 10**9, "cuda:1": 10**8}
    backbone = tiny_backbone()
    per_token = bytes_per_token(backbone, longest=16)
    weights = [on(device) for device in ("cuda:0", "cpu", "cuda:1", "cuda:0")]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[str(device)], 0))
    monkeypatch.setattr(backbone.model, "parameters", lambda: iter(weights))
    assert token_budget(backbone, "auto", longest=16) == budget_for_memory(free["cuda:1"], per_token)


def on(device: str) -> SimpleNamespace:
    own = torch.device(device)
    return SimpleNamespace(device=own, is_cuda=own.type == "cuda", dtype=torch.float32, is_floating_point=lambda: True)


@pytest.mark.parametrize("family", ["llama", "bert", "t5", "gpt2"])
def test_the_bytes_of_a_token_cover_all_that_the_modules_of_a_block_put_out(family: str):
    backbone = FrozenBackbone(tiny_model(family), byte_tokenizer())
    tokens, seen = 32, []

    def count(_module, _args, output):
        seen.append(output.nbytes if isinstance(output, Tensor) else 0)

    block = backbone._stacks[backbone.stacks[0]].blocks[0]
    leaves = [module for module in block.modules() if not list(module.children())]
    for leaf in leaves:
        leaf.register_forward_hook(count)
    ids = backbone.tokenize(["x" * tokens]).ids
    backbone(*pad_right(ids, length=len(ids[0]), pad_id=0), readings=backbone.readings())
    assert len(seen) >= 6  # q, k, v, out and the MLP's two
    assert 0 < sum(seen) <= len(ids[0]) * bytes_per_token(backbone, longest=tokens)
