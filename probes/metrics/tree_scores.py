"""Scores of predicted trees, at all layers at once, with resamples of sentences.

Every score is computed from one number, or two, for each sentence, so that a resample of sentences only weighs them
anew: words of one sentence depend on each other, and the sentence is the unit that would be drawn again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch
from scipy.stats import rankdata

from probes.metrics.resampling import bootstrap_counts
from probes.metrics.score_intervals import Scale, score_interval
from probes.metrics.trees import Tree, chain, spanning_tree, split_spans

SHORTEST, LONGEST = 5, 50
"""Spearman's correlations are averaged over sentences of these numbers of words (Hewitt and Manning 2019)."""


@dataclass(frozen=True)
class TreeMetric:
    """What a score of trees is called and measured in.

    Attributes:
        unit: Its unit.
        scale: Its range, which decides the form of its interval.
    """

    unit: str
    scale: Scale


TREE_METRICS: Mapping[str, TreeMetric] = MappingProxyType(
    {
        "uuas": TreeMetric("share of edges", "share_of_labels"),
        "distance_spearman": TreeMetric("rank correlation", "correlation"),
        "root_accuracy": TreeMetric("share of sentences", "share"),
        "depth_spearman": TreeMetric("rank correlation", "correlation"),
        "span_f1": TreeMetric("F1 of spans", "share_of_labels"),
        "span_recall": TreeMetric("share of gold spans", "share_of_labels"),
    }
)
"""Name of a score of trees → its unit and range."""


@dataclass(frozen=True)
class SentenceParts:
    """What a score is made of, sentence by sentence.

    With `lengths`, the score is the mean over lengths of the mean of `hits` over sentences of a length; otherwise it
    is the sum of `hits` over the sum of `of`.

    Attributes:
        hits: float64, shape `(layers, sentences)`; NaN where a sentence has no value.
        of: What the hits are a share of, shape `(layers, sentences)`.
        lengths: Words of each sentence, shape `(sentences,)`; empty for a score of sums.
    """

    hits: np.ndarray
    of: np.ndarray
    lengths: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=int))

    def scores(self, counts: np.ndarray) -> np.ndarray:
        """The score on resamples.

        Args:
            counts: How often each sentence is drawn in each resample, shape `(samples, sentences)`.

        Returns:
            float64, shape `(samples, layers)`; NaN where no drawn sentence has a value.
        """
        known = np.isfinite(self.hits)
        hits, of = np.where(known, self.hits, 0.0), np.where(known, self.of, 0.0)
        if len(self.lengths) == 0:
            return _divided(counts @ hits.T, counts @ of.T)
        by_length = []
        for length in np.unique(self.lengths[(self.lengths >= SHORTEST) & (self.lengths <= LONGEST)]):
            some = self.lengths == length
            by_length.append(_divided(counts[:, some] @ hits[:, some].T, counts[:, some] @ of[:, some].T))
        if not by_length:
            return np.full((len(counts), len(hits)), np.nan)
        stacked = np.stack(by_length)  # (lengths, samples, layers)
        return _divided(np.nansum(stacked, 0), np.isfinite(stacked).sum(0))


def _divided(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


@dataclass(frozen=True)
class TreeScores:
    """Scores of all layers over some sentences.

    Attributes:
        values: Score → float64 `(layers,)`.
        draws: Score → float64 `(samples, layers)`, one value for each resample of the sentences.
        sentences: Number of sentences.
        null: Score → float64 `(permutations, layers)`, values by chance; only some scores have any.
    """

    values: Mapping[str, np.ndarray]
    draws: Mapping[str, np.ndarray]
    sentences: int
    null: Mapping[str, np.ndarray] = field(default_factory=lambda: MappingProxyType({}))

    def interval(self, name: str) -> np.ndarray | None:
        """95 % interval over sentences, float64 `(2, layers)`; `None` without resamples."""
        if len(self.draws.get(name, ())) == 0:
            return None
        scale: Scale = TREE_METRICS[name].scale if name in TREE_METRICS else "difference"
        values, draws = torch.tensor(self.values[name]), torch.tensor(self.draws[name])
        return torch.stack(score_interval(values, draws, rows=self.sentences, scale=scale)).numpy()


def score_parts(
    parts: Mapping[str, SentenceParts], *, samples: int, seed: int, null: Mapping[str, np.ndarray] | None = None
) -> TreeScores:
    """Turn parts of scores into scores and their draws; the same sentences are drawn for every score.

    Args:
        parts: Score → its parts.
        samples: Resamples of the sentences; 0 for none.
        seed: Decides the resamples.
        null: Score → values by chance `(permutations, layers)`.
    """
    sentences = next(iter(parts.values())).hits.shape[1]
    counts = bootstrap_counts(sentences, samples, seed=seed).double().numpy() if samples else np.empty((0, sentences))
    once = np.ones((1, sentences))
    return TreeScores(
        values={name: part.scores(once)[0] for name, part in parts.items()},
        draws={name: part.scores(counts) for name, part in parts.items()},
        sentences=sentences,
        null=MappingProxyType(dict(null or {})),
    )


def spanning_trees(distances: Sequence[np.ndarray], trees: Sequence[Tree]) -> list[np.ndarray]:
    """Minimum spanning trees of the counted words, at every layer.

    Args:
        distances: For each sentence predicted distances, shape `(layers, words, words)`.
        trees: The gold tree of each sentence.

    Returns:
        For each sentence, whether two counted words are joined, bool `(layers, counted, counted)`.
    """
    return [
        np.stack([spanning_tree(of_layer) for of_layer in predicted[:, tree.places[:, None], tree.places]])
        for predicted, tree in zip(distances, trees, strict=True)
    ]


def uuas_parts(joined: Sequence[np.ndarray], trees: Sequence[Tree]) -> SentenceParts:
    """Undirected unlabelled attachment: which of the gold edges are among the predicted ones.

    Args:
        joined: For each sentence, whether two counted words are joined, bool `(layers, counted, counted)`.
        trees: The gold tree of each sentence.
    """
    hits = [edges[:, tree.edges[:, 0], tree.edges[:, 1]].sum(1) for edges, tree in zip(joined, trees, strict=True)]
    return _parts(np.stack(hits, 1), [len(tree.edges) for tree in trees])


def distance_spearman_parts(distances: Sequence[np.ndarray], trees: Sequence[Tree]) -> SentenceParts:
    """Spearman's correlation of each word's predicted and gold distances to all words, averaged over the words.

    Args:
        distances: For each sentence predicted distances, shape `(layers, words, words)`.
        trees: The gold tree of each sentence.
    """
    hits = [_mean_correlation(predicted, tree.distances) for predicted, tree in zip(distances, trees, strict=True)]
    return _parts(np.stack(hits, 1), 1, lengths=[len(tree) for tree in trees])


def depth_parts(depths: Sequence[np.ndarray], trees: Sequence[Tree]) -> dict[str, SentenceParts]:
    """Whether the counted word of the smallest depth is the root, and Spearman's correlation of depths.

    Args:
        depths: For each sentence predicted depths, shape `(layers, words)`.
        trees: The gold tree of each sentence. One whose root does not count has no accuracy.
    """
    roots, correlations = [], []
    for predicted, tree in zip(depths, trees, strict=True):
        found = (shallowest(predicted, tree) == tree.root).astype(float)
        roots.append(found if tree.counted[tree.root] else np.full(len(predicted), np.nan))
        correlations.append(_mean_correlation(predicted[:, None], tree.depths[None]))
    lengths = [len(tree) for tree in trees]
    return {
        "root_accuracy": _parts(np.stack(roots, 1), 1),
        "depth_spearman": _parts(np.stack(correlations, 1), 1, lengths=lengths),
    }


def shallowest(depths: np.ndarray, tree: Tree) -> np.ndarray:
    """The counted word of the smallest predicted depth, int64 `(layers,)`, from depths `(layers, words)`."""
    if len(tree.places) == 0:
        return np.full(len(depths), -1)
    return tree.places[depths[:, tree.places].argmin(1)]


def span_parts(heights: Sequence[np.ndarray], trees: Sequence[Tree]) -> dict[str, SentenceParts]:
    """F1 and recall of the spans of binary trees; spans of one word and of the whole sentence are left out.

    A binary tree has as many spans as it can, so that F1 cannot reach 1 where the gold phrases are fewer.

    Args:
        heights: For each sentence distances between neighbouring counted words, shape `(layers, counted − 1)`.
        trees: The gold tree of each sentence.
    """
    common = np.array(
        [
            [len(split_spans(of_layer) & tree.spans) for of_layer in predicted]
            for predicted, tree in zip(heights, trees, strict=True)
        ]
    ).T
    return spans_found(common, trees)


def spans_found(common: np.ndarray, trees: Sequence[Tree]) -> dict[str, SentenceParts]:
    """F1 and recall of binary trees from the number of gold spans that they have, shape `(layers, sentences)`."""
    gold = np.array([len(tree.spans) for tree in trees])
    predicted = np.array([max(len(tree.places) - 2, 0) for tree in trees])
    return {"span_f1": _parts(2.0 * common, gold + predicted), "span_recall": _parts(common, gold)}


def chain_parts(trees: Sequence[Tree]) -> SentenceParts:
    """Undirected attachment of the tree that joins each counted word to its left neighbour, as of one layer."""
    return uuas_parts([chain(len(tree.places))[None] for tree in trees], trees)


def random_tree_uuas(trees: Sequence[Tree]) -> float:
    """Expected attachment of random trees: of n words, an edge is in a share 2/n of all trees."""
    expected = sum(2 * len(tree.edges) / len(tree.places) for tree in trees if len(tree.places) > 0)
    return expected / max(sum(len(tree.edges) for tree in trees), 1)


def branching_parts(trees: Sequence[Tree], *, right: bool) -> dict[str, SentenceParts]:
    """Span scores of trees in which every phrase is a word and the rest, on its right or on its left; as of one layer.

    Args:
        trees: The gold trees.
        right: Whether the rest is on the right.
    """
    gaps = [max(len(tree.places) - 1, 0) for tree in trees]
    return span_parts([(-np.arange(n) if right else np.arange(n))[None].astype(float) for n in gaps], trees)


def permuted_uuas(joined: Sequence[np.ndarray], trees: Sequence[Tree], *, permutations: int, seed: int) -> np.ndarray:
    """Attachment of the predicted trees when the words of each sentence are permuted: values by chance.

    Args:
        joined: For each sentence, whether two counted words are joined, bool `(layers, counted, counted)`.
        trees: The gold tree of each sentence.
        permutations: Number of them; each is the same at every layer.
        seed: Decides them.

    Returns:
        float64, shape `(permutations, layers)`.
    """
    draw = np.random.default_rng(seed)
    hits = np.zeros((permutations, len(joined[0])))
    for edges, tree in zip(joined, trees, strict=True):
        orders = draw.permuted(np.tile(np.arange(edges.shape[1]), (permutations, 1)), axis=1)
        hits += edges[:, orders[:, tree.edges[:, 0]], orders[:, tree.edges[:, 1]]].sum(2).T
    return hits / max(sum(len(tree.edges) for tree in trees), 1)


def permuted_root_accuracy(
    depths: Sequence[np.ndarray], trees: Sequence[Tree], *, permutations: int, seed: int
) -> np.ndarray:
    """Root accuracy when the words of each sentence are permuted, float64 `(permutations, layers)`.

    Args:
        depths: For each sentence predicted depths, shape `(layers, words)`.
        trees: The gold tree of each sentence.
        permutations: Number of them; each is the same at every layer.
        seed: Decides them.
    """
    draw = np.random.default_rng(seed)
    with_root = [(predicted, tree) for predicted, tree in zip(depths, trees, strict=True) if tree.counted[tree.root]]
    hits = np.zeros((permutations, len(depths[0])))
    for predicted, tree in with_root:
        chosen = draw.choice(tree.places, (permutations, len(tree)))  # where a word goes
        hits += chosen[:, shallowest(predicted, tree)] == tree.root
    return hits / max(len(with_root), 1)


def _mean_correlation(predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each row with the gold row, averaged over rows that vary.

    Args:
        predicted: Shape `(layers, rows, words)`.
        gold: Shape `(rows, words)`.

    Returns:
        float64, shape `(layers,)`; a row of equal predictions correlates with nothing, 0, and NaN where no gold row
        varies.
    """
    x, y = rankdata(predicted, axis=-1), rankdata(gold, axis=-1)
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    norms = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    varies = (y**2).sum(-1) > 0
    if not varies.any():
        return np.full(len(predicted), np.nan)
    correlations = np.divide((x * y).sum(-1), norms, out=np.zeros(norms.shape), where=norms > 0)
    return correlations[:, varies].mean(1)


def _parts(hits: np.ndarray, of: object, *, lengths: Sequence[int] = ()) -> SentenceParts:
    hits = np.asarray(hits, dtype=np.float64)
    return SentenceParts(hits, np.broadcast_to(np.asarray(of, dtype=np.float64), hits.shape), np.array(lengths, int))
