"""How well a layer's cosines agree with people on pairs of texts, and find a text's match among all others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from probes.metrics import bootstrap_counts, errors_of_draws, permuted_scores, score_interval, score_rows
from probes.metrics.score_intervals import Scale
from probes.probe_measures.nuisances.features import tfidf
from probes.probe_measures.protocol import TextPairs
from probes.seeds import derive_seed
from probes.values import Estimates, Layer, LayerProfile

LEAST_MATCHES = 10
"""Matching pairs that retrieval needs."""
_TIED = 1e-9
"""Cosines that are nearer to each other are equal."""
_UNITS = {
    "sts_spearman": "rank correlation",
    "retrieval_accuracy": "share of texts",
    "retrieval_mrr": "mean reciprocal rank",
}


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """How pairs are measured.

    Attributes:
        match_from: Least gold score of pairs that match; `None`: the highest there is.
        resamples: Of the pairs, behind each interval.
        permutations: Draws of each null.
        baseline: Whether to compare with the cosines of bags of words.
    """

    match_from: float | None = None
    resamples: int = 1000
    permutations: int = 200
    baseline: bool = True


class _Measured(NamedTuple):
    """One quantity of all layers.

    Attributes:
        values: Shape `(layers,)`.
        draws: Of resampled pairs, shape `(resamples, layers)`.
        null: Shape `(permutations, layers)`.
        n: Pairs.
        scale: The range of the quantity.
    """

    values: Tensor
    draws: Tensor
    null: Tensor
    n: int
    scale: Scale


def pair_profiles(pairs: TextPairs, settings: PairSettings) -> Iterator[LayerProfile]:
    """Quantities of one task of pairs, over layers and of bags of words, and the paired gain over the latter.

    `label_free/sts_spearman` is Spearman's correlation of cosines with gold scores, if these vary.
    `label_free/retrieval_accuracy` and `label_free/retrieval_mrr` are about the texts of matching pairs: is a text's
    match the nearest of all texts on the other side, and the mean of one over its rank. `baseline/tfidf_…` is the same
    for TF-IDF vectors of words, `gain_over/tfidf_…` the difference.

    Args:
        pairs: Activations of both texts of each pair.
        settings: Matches, resamples, permutations.
    """
    constant = (pairs.first.std(1).amax(1) == 0) | (pairs.second.std(1).amax(1) == 0)
    found = _measured(pairs, pairs.first, pairs.second, settings)
    for name, one in found.items():
        yield _profile(pairs, f"label_free/{name}", _estimates(one, constant), pairs.layers)
    if not settings.baseline or not found:
        return
    texts = tfidf({"train": [*pairs.first_texts, *pairs.second_texts]}, max_features=5000)["train"]
    if texts.shape[1] == 0:
        return
    count = len(pairs.first_texts)
    words = _measured(pairs, texts[None, :count], texts[None, count:], settings)
    for name, one in found.items():
        own = _estimates(words[name], torch.tensor([False]))
        yield _profile(pairs, f"baseline/tfidf_{name}", own, (None,))
        gain = Estimates(
            np.where(constant.numpy(), np.nan, (one.values - words[name].values).numpy()),
            one.n,
            errors=errors_of_draws(one.draws - words[name].draws).numpy(),
            null=np.zeros((1, len(pairs.layers))),
            alternative="two-sided",
            interval_over="pairs",
        )
        yield _profile(pairs, f"gain_over/tfidf_{name}", gain, pairs.layers)


def _measured(pairs: TextPairs, first: Tensor, second: Tensor, settings: PairSettings) -> dict[str, _Measured]:
    """All quantities of vectors `(layers, pairs, features)` of both texts."""
    found: dict[str, _Measured] = {}
    gold, seed = pairs.gold.double(), pairs.seed
    generator = torch.Generator().manual_seed(derive_seed(seed, "pairs", "permutations"))
    if gold.unique().numel() > 1 and len(gold) >= LEAST_MATCHES:
        cosines = functional.cosine_similarity(first.double(), second.double(), dim=-1)[..., None]
        counts = bootstrap_counts(len(gold), settings.resamples, seed=derive_seed(seed, "pairs", "gold"))
        orders = _orders(settings.permutations, len(gold), generator)
        scores = score_rows("regression", cosines, gold, counts, names={"spearman"})
        null = permuted_scores("regression", cosines, gold, orders, names={"spearman"})["spearman"]
        values, draws = scores.values["spearman"], scores.draws["spearman"]
        found["sts_spearman"] = _Measured(values, draws, null, len(gold), "correlation")
    matches = matching_rows(gold, settings.match_from)
    if len(matches) < LEAST_MATCHES:
        return found
    counts = bootstrap_counts(len(matches), settings.resamples, seed=derive_seed(seed, "pairs", "matches")).double()
    orders = _orders(settings.permutations, len(matches), generator)
    by_layer = []
    for one, other in zip(first, second, strict=True):
        there = retrieval(one[matches], other, matches, pairs.second_texts, orders)
        back = retrieval(other[matches], one, matches, pairs.first_texts, orders)
        by_layer.append([(a + b) / 2 for a, b in zip(there, back, strict=True)])
    (accuracy, accuracy_null), (ranks, ranks_null) = (
        (torch.stack([of_layer[i] for of_layer in by_layer]), torch.stack([of_layer[i + 1] for of_layer in by_layer]))
        for i in (0, 2)
    )  # each (layers, matches), (layers, permutations)
    for name, values, null in (
        ("retrieval_accuracy", accuracy, accuracy_null),
        ("retrieval_mrr", ranks, ranks_null),
    ):
        draws = counts @ values.T / len(matches)
        found[name] = _Measured(values.mean(1), draws, null.T, len(matches), "share_of_labels")
    return found


def matching_rows(gold: Tensor, match_from: float | None) -> Tensor:
    """Positions of the pairs that match, int64: those with at least this gold score, or with the highest one.

    >>> matching_rows(torch.tensor([1.0, 3.0, 2.0, 3.0]), None).tolist()
    [1, 3]
    """
    return (gold >= (gold.max() if match_from is None else match_from)).nonzero()[:, 0]


def retrieval(
    queries: Tensor, candidates: Tensor, matches: Tensor, texts: Sequence[str], orders: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Is each query's match the candidate with the largest cosine, and which rank has it?

    Candidates with the text of the match count as the match. Of equal cosines, each order is equally likely: values
    are expectations over them.

    Args:
        queries: Shape `(queries, features)`.
        candidates: All texts of the other side, shape `(rows, features)`.
        matches: Row of each query's match, int64 `(queries,)`.
        texts: Of the candidates.
        orders: Which query's match takes the place of each query's, int64 `(permutations, queries)`: the null.

    Returns:
        Whether the match comes first, of each query, `(queries,)`; its mean under each permutation, `(permutations,)`;
        and the same of one over the rank of the match; float64.
    """
    numbers: dict[str, int] = {}
    of_row = torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts])
    once = torch.tensor([texts.index(text) for text in numbers])
    cosines = functional.normalize(queries.double(), dim=-1) @ functional.normalize(candidates[once].double(), dim=-1).T
    # How many candidates are clearly nearer than each candidate, and how many others as near, from sorted cosines.
    ordered = cosines.sort(dim=1).values
    nearer = ordered.shape[1] - torch.searchsorted(ordered, (cosines + _TIED).contiguous(), right=True)
    tied = ordered.shape[1] - torch.searchsorted(ordered, (cosines - _TIED).contiguous()) - nearer
    first = torch.where(nearer == 0, 1.0 / tied, 0.0).double()
    # mean of 1/rank over ranks nearer + 1 … nearer + tied
    harmonic = torch.cat([torch.zeros(1).double(), (1 / torch.arange(1, ordered.shape[1] + 1).double()).cumsum(0)])
    reciprocal = (harmonic[nearer + tied] - harmonic[nearer]) / tied
    place, row = of_row[matches], torch.arange(len(queries))
    values = []
    for scores in (first, reciprocal):
        values += [scores[row, place], scores[row, place[orders]].mean(-1)]
    return values[0], values[1], values[2], values[3]


def _orders(permutations: int, rows: int, generator: torch.Generator) -> Tensor:
    orders = [torch.randperm(rows, generator=generator) for _ in range(permutations)]
    return torch.stack(orders) if orders else torch.empty(0, rows, dtype=torch.long)


def _estimates(one: _Measured, constant: Tensor) -> Estimates:
    ends = torch.stack(score_interval(one.values, one.draws, rows=one.n, scale=one.scale)).numpy()
    missing = constant.numpy()
    return Estimates(
        np.where(missing, np.nan, one.values.numpy()),
        one.n,
        errors=errors_of_draws(one.draws).numpy(),
        null=one.null.numpy() if len(one.null) > 0 else None,
        interval=np.where(missing, np.nan, ends),
        interval_over="pairs",
        note="constant layer, or all cosines are equal",
    )


def _profile(pairs: TextPairs, quantity: str, estimates: Estimates, layers: tuple[Layer | None, ...]) -> LayerProfile:
    return LayerProfile(
        quantity=quantity,
        unit=_UNITS[quantity.split("/")[1].removeprefix("tfidf_")],
        estimates=estimates,
        layers=layers,
        task=pairs.task,
        reading=pairs.reading,
        seed=pairs.seed,
    )
