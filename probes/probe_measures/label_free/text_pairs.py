"""How well a layer's cosines agree with people on pairs of texts, and find a text's match among all others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from probes.analysis.intervals import jackknife_errors
from probes.analysis.similarity.leave_one_out import LeaveOneOut
from probes.metrics import bootstrap_counts, errors_of_draws, permuted_scores, score_interval, score_rows
from probes.probe_measures.main_scores import over_layers
from probes.probe_measures.nuisances.features import tfidf
from probes.probe_measures.protocol import TextPairs
from probes.seeds import derive_seed
from probes.values import Estimates, Layer, LayerProfile

LEAST_MATCHES = 10
"""Matching pairs that retrieval needs."""
_TIED = 1e-9
"""Cosines that are nearer to each other are equal."""
_MOST_WORDS = 5000
"""Words of the baseline at most."""
_NOTE = "constant layer: all texts of one side are equal"
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
        errors: As in `Estimates`, shape `(errors, layers)`.
        interval: Its ends, shape `(2, layers)`.
        null: Shape `(permutations, layers)`.
        n: Pairs; errors have one degree of freedom less.
    """

    values: Tensor
    errors: np.ndarray
    interval: Tensor
    null: Tensor
    n: int


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
    live = [layer for layer, is_constant in zip(pairs.layers, constant.tolist(), strict=True) if not is_constant]
    if not live:
        return
    found = _measured(pairs, pairs.first[~constant], pairs.second[~constant], settings)

    def of_layers(quantity: str, estimates: Estimates) -> LayerProfile:
        return _profile(pairs, quantity, over_layers(estimates, live, pairs.layers, _NOTE), pairs.layers)

    for name, one in found.items():
        yield of_layers(f"label_free/{name}", _estimates(one))
    words = _of_words(pairs, settings) if settings.baseline else {}
    for name, one in words.items():
        yield _profile(pairs, f"baseline/tfidf_{name}", _estimates(one), (None,))
        gain = Estimates(
            (found[name].values - one.values).numpy(),
            one.n,
            errors=found[name].errors - one.errors,
            null=np.zeros((1, len(live))),
            alternative="two-sided",
            interval_over="pairs",
            freedom=((len(one.errors), one.n - 1),),
        )
        yield of_layers(f"gain_over/tfidf_{name}", gain)


def _of_words(pairs: TextPairs, settings: PairSettings) -> dict[str, _Measured]:
    """The same quantities of TF-IDF vectors of words, where their cosines are not all equal."""
    count = len(pairs.first_texts)
    texts = tfidf({"train": [*pairs.first_texts, *pairs.second_texts]}, max_features=_MOST_WORDS)["train"]
    if texts.shape[1] == 0:
        return {}
    found = _measured(pairs, texts[None, :count], texts[None, count:], settings)
    return {name: one for name, one in found.items() if bool(one.values.isfinite().all())}


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
        ends = torch.stack(score_interval(values, draws, rows=len(gold), scale="correlation"))
        errors = errors_of_draws(draws, units=len(gold))
        found["sts_spearman"] = _Measured(values, errors.numpy(), ends, null, len(gold))
    matches = matching_rows(gold, settings.match_from)
    if len(matches) < LEAST_MATCHES:
        return found
    orders = _orders(settings.permutations, len(matches), generator)
    by_layer = []
    for one, other in zip(first, second, strict=True):
        there = retrieval(one[matches], other, matches, pairs.second_texts, orders)
        back = retrieval(other[matches], one, matches, pairs.first_texts, orders.argsort(dim=1))  # the same exchange
        by_layer.append({name: there[name].mean_with(back[name]) for name in there})
    for name in ("accuracy", "mrr"):
        values, without, null = (
            torch.stack([getattr(of_layer[name], part) for of_layer in by_layer])
            for part in ("value", "without", "null")
        )  # (layers,), (layers, matches), (layers, permutations)
        errors = jackknife_errors(LeaveOneOut(values, without))
        ends = _share_interval(values, errors, len(matches))
        found[f"retrieval_{name}"] = _Measured(values, errors, ends, null.T, len(matches))
    return found


def _share_interval(values: Tensor, errors: np.ndarray, rows: int) -> Tensor:
    """Wilson's interval of shares with these errors, by way of two draws that have them."""
    spread = torch.from_numpy(np.sqrt(np.square(errors).sum(0) * (rows - 1) / (2 * rows)))
    draws = torch.stack([values - spread, values + spread])
    return torch.stack(score_interval(values, draws, rows=rows, scale="share_of_labels"))


def matching_rows(gold: Tensor, match_from: float | None) -> Tensor:
    """Positions of the pairs that match, int64: those with at least this gold score, or with the highest one.

    >>> matching_rows(torch.tensor([1.0, 3.0, 2.0, 3.0]), None).tolist()
    [1, 3]
    """
    return (gold >= (gold.max() if match_from is None else match_from)).nonzero()[:, 0]


class Retrieved(NamedTuple):
    """How well matches are found, float64.

    Attributes:
        value: Mean over queries.
        without: The same without each query, whose match is then no candidate either, shape `(queries,)`.
        null: The mean if matches are exchanged, shape `(permutations,)`.
    """

    value: Tensor
    without: Tensor
    null: Tensor

    def mean_with(self, other: Retrieved) -> Retrieved:
        """The mean of both."""
        return Retrieved(*((one + another) / 2 for one, another in zip(self, other, strict=True)))


def retrieval(
    queries: Tensor, candidates: Tensor, matches: Tensor, texts: Sequence[str], orders: Tensor
) -> dict[str, Retrieved]:
    """Is each query's match the candidate with the largest cosine (`accuracy`), and what is one over its rank (`mrr`)?

    Candidates with the text of the match count as the match. Of equal cosines, each order is equally likely: values
    are expectations over them.

    Args:
        queries: Shape `(queries, features)`.
        candidates: All texts of the other side, shape `(rows, features)`.
        matches: Row of each query's match, int64 `(queries,)`.
        texts: Of the candidates.
        orders: Which query's match takes the place of each query's, int64 `(permutations, queries)`: the null.
    """
    numbers: dict[str, int] = {}
    of_row = torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts])
    once = torch.tensor([texts.index(text) for text in numbers])
    cosines = functional.normalize(queries.double(), dim=-1) @ functional.normalize(candidates[once].double(), dim=-1).T
    # How many candidates are clearly nearer than each candidate, and how many are as near, from sorted cosines.
    ordered = cosines.sort(dim=1).values
    nearer = ordered.shape[1] - torch.searchsorted(ordered, (cosines + _TIED).contiguous(), right=True)
    tied = ordered.shape[1] - torch.searchsorted(ordered, (cosines - _TIED).contiguous()) - nearer
    place, row = of_row[matches], torch.arange(len(queries))
    # The same for the match of each query (axis 0) without that of each other query (axis 1).
    ahead = cosines[:, place] - cosines[row, place][:, None]
    is_other = place != place[:, None]
    nearer_without = nearer[row, place][:, None] - ((ahead > _TIED) & is_other).long()
    tied_without = tied[row, place][:, None] - ((ahead.abs() <= _TIED) & is_other).long()
    harmonic = torch.cat([torch.zeros(1).double(), (1 / torch.arange(1, ordered.shape[1] + 1).double()).cumsum(0)])
    scores = {
        "accuracy": lambda nearer, tied: torch.where(nearer == 0, 1.0 / tied, 0.0).double(),
        # mean of 1/rank over ranks nearer + 1 … nearer + tied
        "mrr": lambda nearer, tied: (harmonic[nearer + tied] - harmonic[nearer]) / tied,
    }
    found = {}
    for name, score in scores.items():
        of_candidate, without = score(nearer, tied), score(nearer_without, tied_without)
        others = (without.sum(0) - without.diagonal()) / (len(queries) - 1)
        null = of_candidate[row, place[orders]].mean(-1)
        found[name] = Retrieved(of_candidate[row, place].mean(), others, null)
    return found


def _orders(permutations: int, rows: int, generator: torch.Generator) -> Tensor:
    orders = [torch.randperm(rows, generator=generator) for _ in range(permutations)]
    return torch.stack(orders) if orders else torch.empty(0, rows, dtype=torch.long)


def _estimates(one: _Measured) -> Estimates:
    return Estimates(
        one.values.numpy(),
        one.n,
        errors=one.errors,
        null=one.null.numpy() if len(one.null) > 0 else None,
        interval=one.interval.numpy(),
        interval_over="pairs",
        note=_NOTE,
        freedom=((len(one.errors), one.n - 1),),
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
