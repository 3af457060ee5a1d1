"""Predictions are kept as they are, however many classes there are."""

from __future__ import annotations

import torch

from probes.metrics import Predictions
from probes.values import Reading


def test_classes_beyond_what_16_bits_hold_keep_their_numbers():
    targets = torch.tensor([3, 32_768, 69_999])
    logits = torch.zeros(1, 3, 70_000)
    logits[0, torch.arange(3), targets] = 1.0
    kept = Predictions.of_logits(
        logits,
        targets,
        task="many",
        kind="classification",
        reading=Reading("decoder", "residual", "last"),
        labels=tuple(map(str, range(70_000))),
        layers=(0,),
        row_ids=("a", "b", "c"),
    )
    assert kept.predicted.tolist() == [targets.tolist()]
    assert torch.equal(kept.target_tensor(), targets)
    assert torch.equal(kept.logits(), logits)
