"""The learning rate over the steps of a tuning."""

from __future__ import annotations

import math


def learning_rate_share(step: int, *, total_steps: int, warmup_share: float, schedule: str) -> float:
    """Share of the top learning rate at a step, in [0, 1].

    Args:
        step: Steps made so far, from 0.
        total_steps: Steps of the whole tuning.
        warmup_share: Share of the steps, rounded up, in which it rises linearly; the first is above 0, the last at 1.
        schedule: What follows: `cosine` or `linear` towards 0, which it would reach one step past the last, or
            `constant`.

    >>> [round(learning_rate_share(s, total_steps=6, warmup_share=0.3, schedule="linear"), 2) for s in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    warmup = math.ceil(warmup_share * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    past = (step - warmup) / max(1, total_steps - warmup)
    if schedule == "cosine":
        return max(0.0, (1 + math.cos(math.pi * past)) / 2)
    return max(0.0, 1 - past) if schedule == "linear" else 1.0
