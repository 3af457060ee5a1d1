"""Scores of words: is the interval over sentences right where the words of a sentence are alike, and are the p?"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from calibration.simulation import Simulation, covered
from torch import Tensor

from probes.metrics import bootstrap_counts, permuted_orders, permuted_scores, score_rows
from probes.seeds import derive_seed

METRICS = ("accuracy", "macro_f1")
CLASSES, LENGTHS = 4, (3, 25)
DATA_SETS = 20
"""Data sets of one call of a simulation."""


def draw(sentences: int, *, seed: int, related: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Logits `(1, words, classes)`, classes and sentences of words.

    A sentence has classes that are frequent in it, and some that its probe mistakes for others, so that its words are
    alike. Unless `related`, the logits are those of other words.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(*LENGTHS, (sentences,), generator=generator)
    number = torch.arange(sentences).repeat_interleave(lengths)

    def of_sentences() -> Tensor:
        return torch.randn(sentences, CLASSES, generator=generator)[number]

    def of_words() -> Tensor:
        return torch.randn(len(number), CLASSES, generator=generator)

    targets = (of_sentences() + of_words()).argmax(1)
    signal = 2.0 * torch.nn.functional.one_hot(targets, CLASSES) if related else of_sentences()
    return (signal + of_sentences() + of_words())[None], targets, number


@cache
def truth() -> dict[str, float]:
    logits, targets, _ = draw(30_000, seed=derive_seed(0, "population of sentences"))
    return {name: float(value[0]) for name, value in score_rows("classification", logits, targets).values.items()}


def _intervals(sentences: int, seed: int, *, of_rows: bool) -> dict[str, np.ndarray]:
    hits: dict[str, list[np.ndarray]] = {}
    for number in range(DATA_SETS):
        logits, targets, groups = draw(sentences, seed=derive_seed(seed, number))
        drawn = None if of_rows else groups
        counts = bootstrap_counts(len(targets), 500, seed=number, groups=drawn)
        units = None if of_rows else sentences
        scores = score_rows("classification", logits, targets, counts, groups=units, names=set(METRICS))
        for metric in METRICS:
            ends = scores.interval(metric)
            assert ends is not None
            right = covered(ends[0].numpy(), ends[1].numpy(), truth()[metric])
            suffix = "words drawn one by one" if of_rows else "words, over sentences"
            hits.setdefault(f"{metric} ({suffix})", []).append(right)
    return {name: np.concatenate(values) for name, values in hits.items()}


def _alarms(sentences: int, seed: int) -> dict[str, np.ndarray]:
    alarms = []
    for number in range(DATA_SETS):
        logits, targets, groups = draw(sentences, seed=derive_seed(seed, number), related=False)
        orders = permuted_orders(len(targets), 99, seed=number, groups=groups)
        null = permuted_scores("classification", logits, targets, orders, names={"macro_f1"})["macro_f1"]
        value = score_rows("classification", logits, targets, names={"macro_f1"}).values["macro_f1"]
        alarms.append((1 + (null >= value).sum(0)).numpy() / 100 <= 0.05)
    return {"macro_f1 (words, sentences permuted)": np.concatenate(alarms)}


def _simulation(sentences: int, *, short: int, of_rows: bool = False) -> Simulation:
    return Simulation(
        name=f"scores of words, {sentences} sentences, {'rows' if of_rows else 'sentences'}",
        setting=f"4 classes, {sentences} test sentences of 3 to 24 words that are alike",
        right=lambda seed: _intervals(sentences, seed, of_rows=of_rows),
        short=short,
        long=50,
        claim="limit" if of_rows else "equal",
    )


SIMULATIONS = [
    _simulation(60, short=5),
    _simulation(300, short=0),
    _simulation(60, short=0, of_rows=True),
    Simulation(
        name="p of scores of words, 60 sentences",
        setting="4 classes, 60 test sentences of 3 to 24 words that are alike, nothing to find",
        right=lambda seed: _alarms(60, seed),
        short=5,
        long=50,
        rate="false alarms",
    ),
]
"""All simulations."""
