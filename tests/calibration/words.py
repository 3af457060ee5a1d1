"""Scores of words: is the interval over sentences right where the words of a sentence are alike, and are the p?"""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import torch
from calibration.simulation import Simulation, covered
from torch import Tensor

from probes.metrics import bootstrap_counts, permuted_orders, permuted_scores, score_interval, score_rows
from probes.metrics.sequences import count_entities, matched_entity_scores, matched_tag_f1, tag_f1
from probes.seeds import derive_seed

METRICS = ("accuracy", "macro_f1")
CLASSES, LENGTHS = 4, (3, 25)
LABELS = ("B-x", "I-x", "I-y", "O")
"""The same classes as tags of entities."""
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


def _tag_scores(
    predicted: np.ndarray, targets: np.ndarray, groups: np.ndarray, by_word: np.ndarray
) -> dict[str, np.ndarray]:
    """F1 of the first tag and scores of entities, each `(samples, layers)`, with the weight of each word."""
    first = np.unique(groups, return_index=True)[1]
    of_entities = count_entities(predicted, targets, groups, LABELS).scores(by_word[:, first])
    return {"tag_f1": tag_f1(predicted, targets, by_word, tag=0), **of_entities}


@cache
def _truth_of_tags() -> dict[str, float]:
    logits, targets, number = draw(30_000, seed=derive_seed(0, "population of sentences"))
    predicted = logits.argmax(-1).numpy()
    scores = _tag_scores(predicted, targets.numpy(), number.numpy(), np.ones((1, len(targets))))
    return {name: float(value[0, 0]) for name, value in scores.items()}


def _intervals_of_tags(sentences: int, seed: int) -> dict[str, np.ndarray]:
    hits: dict[str, list[np.ndarray]] = {}
    for data_set in range(DATA_SETS):
        logits, targets, groups = draw(sentences, seed=derive_seed(seed, data_set))
        data = logits.argmax(-1).numpy(), targets.numpy(), groups.numpy()
        counts = bootstrap_counts(len(targets), 500, seed=data_set, groups=groups).double().numpy()
        values, draws = _tag_scores(*data, np.ones((1, len(targets)))), _tag_scores(*data, counts)
        for name, value in values.items():
            parts = torch.from_numpy(value[0]), torch.from_numpy(draws[name])
            low, high = score_interval(*parts, rows=sentences, scale="share_of_labels")
            hits.setdefault(name, []).append(covered(low.numpy(), high.numpy(), _truth_of_tags()[name]))
    return {name: np.concatenate(values) for name, values in hits.items()}


def _alarms_of_tags(sentences: int, seed: int) -> dict[str, np.ndarray]:
    alarms: dict[str, list[np.ndarray]] = {}
    for data_set in range(DATA_SETS):
        logits, targets, groups = draw(sentences, seed=derive_seed(seed, data_set), related=False)
        data = logits.argmax(-1).numpy(), targets.numpy()
        orders = permuted_orders(len(targets), 99, seed=data_set, groups=groups).numpy()
        values = _tag_scores(*data, groups.numpy(), np.ones((1, len(targets))))
        null = matched_entity_scores(*data, groups.numpy(), LABELS, orders)
        null["tag_f1"] = matched_tag_f1(*data, orders, tags=CLASSES)[:, :, 0]
        for name, value in values.items():
            alarms.setdefault(f"p of {name}", []).append((1 + (null[name] >= value).sum(0)) / 100 <= 0.05)
    return {name: np.concatenate(values) for name, values in alarms.items()}


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
    _simulation(10, short=0),
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
    *(
        Simulation(
            name=f"tags and entities, {sentences} sentences",
            setting=f"4 tags, {sentences} test sentences of 3 to 24 words that are alike",
            right=partial(_intervals_of_tags, sentences),
            short=short,
            long=50,
        )
        for sentences, short in ((60, 3), (300, 0))
    ),
    Simulation(
        name="p of tags and entities, 60 sentences",
        setting="4 tags, 60 test sentences of 3 to 24 words that are alike, nothing to find",
        right=partial(_alarms_of_tags, 60),
        short=3,
        long=50,
        rate="false alarms",
    ),
]
"""All simulations."""
