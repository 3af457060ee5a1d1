"""A suite of one generated task: which equations are right."""

from __future__ import annotations

import random

from probes.tasks import Suite
from probes.tasks.build import build_task
from probes.tasks.splits import MaxRows
from probes.tasks.task import RawTask


def sums_suite(*, largest: int = 20, max_rows: MaxRows = None, seed: int = 0) -> Suite:
    """Equations such as `3 + 4 = 7`, half of them wrong by a little; no equation is in two splits.

    Args:
        largest: The largest summand.
        max_rows: At most this many rows in each split, or a mapping split → rows.
        seed: Decides the equations.
    """
    rng = random.Random(seed)
    pairs = [(a, b) for a in range(largest + 1) for b in range(largest + 1)]
    rng.shuffle(pairs)
    rows = []
    for number, (a, b) in enumerate(pairs):
        error = 0 if number % 2 else rng.choice([-2, -1, 1, 2])
        rows.append({"text": f"{a} + {b} = {a + b + error}", "label": "wrong" if error else "right"})
    fifth = len(rows) // 5
    raw = RawTask(
        name="sums",
        rows={"train": rows[2 * fifth :], "validation": rows[:fifth], "test": rows[fifth : 2 * fifth]},
        labels=("wrong", "right"),
        source="generated",
    )
    return Suite("sums", (build_task(raw, lambda row: row["text"], max_rows=max_rows, seed=seed),))
