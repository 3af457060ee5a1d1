"""Scores of trees, against Hewitt and Manning's definition written as loops, and their resamples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import spearmanr
from tree_samples import random_trees

from probes.metrics.tree_scores import (
    SentenceParts,
    branching_parts,
    chain_parts,
    depth_parts,
    distance_spearman_parts,
    permuted_root_accuracy,
    permuted_uuas,
    random_tree_uuas,
    score_parts,
    span_parts,
    spanning_trees,
    uuas_parts,
)
from probes.metrics.trees import ROOT, Tree


def random_distances(trees: Sequence[Tree], layers: int, *, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    drawn = [rng.random((layers, len(tree), len(tree))) for tree in trees]
    return [distances + distances.swapaxes(1, 2) for distances in drawn]


TREES = random_trees(40, shortest=3, uncounted=0.1)
GOLD = [tree.distances[None] for tree in TREES]


def values(parts: SentenceParts) -> list[float]:
    return parts.scores(np.ones((1, parts.hits.shape[1])))[0].tolist()


def test_gold_predictions_score_1() -> None:
    assert values(uuas_parts(spanning_trees([tree.distances[None] for tree in _all_counted()], _all_counted()),
                             _all_counted())) == [1]  # fmt: skip
    assert values(distance_spearman_parts(GOLD, TREES)) == [pytest.approx(1)]
    depths = depth_parts([tree.depths[None] for tree in TREES], TREES)
    assert values(depths["root_accuracy"]) == [1]
    assert values(depths["depth_spearman"]) == [pytest.approx(1)]
    spans = span_parts([tree.gap_heights[None] for tree in TREES], TREES)
    assert values(spans["span_recall"]) == [1]


def _all_counted() -> list[Tree]:
    return [Tree(tree.heads) for tree in TREES]


def test_spearman_is_averaged_by_length_as_by_hewitt_and_manning() -> None:
    predicted = random_distances(TREES, layers=1)
    by_length: dict[int, list[float]] = defaultdict(list)
    for distances, tree in zip(predicted, TREES, strict=True):
        for row, gold in zip(distances[0], tree.distances, strict=True):
            by_length[len(tree)].append(float(spearmanr(row, gold).statistic))
    expected = np.mean([np.mean(by_length[length]) for length in range(5, 51) if length in by_length])
    assert values(distance_spearman_parts(predicted, TREES)) == [pytest.approx(expected)]


def test_uuas_counts_edges_over_all_sentences() -> None:
    predicted = random_distances(TREES, layers=2)
    joined = spanning_trees(predicted, TREES)
    for layer in range(2):
        hits = edges = 0
        for of_sentence, tree in zip(joined, TREES, strict=True):
            gold = {frozenset(map(int, edge)) for edge in tree.edges}
            found = {frozenset(map(int, edge)) for edge in np.argwhere(of_sentence[layer])}
            hits, edges = hits + len(gold & found), edges + len(gold)
        assert values(uuas_parts(joined, TREES))[layer] == pytest.approx(hits / edges)


def test_f1_of_spans_is_that_of_all_sentences_together() -> None:
    right = branching_parts(TREES, right=True)
    common = sum(len(tree.spans & {(i, len(tree.places) - 1) for i in range(1, len(tree.places) - 1)})
                 for tree in TREES)  # fmt: skip
    gold, predicted = sum(len(tree.spans) for tree in TREES), sum(len(tree.places) - 2 for tree in TREES)
    assert values(right["span_f1"]) == [pytest.approx(2 * common / (gold + predicted))]
    assert values(right["span_recall"]) == [pytest.approx(common / gold)]
    assert (branching_parts(TREES, right=False)["span_recall"].hits != right["span_recall"].hits).any()


def test_random_trees_have_the_expected_attachment() -> None:
    joined = spanning_trees(random_distances(TREES, layers=300), TREES)
    assert np.mean(values(uuas_parts(joined, TREES))) == pytest.approx(random_tree_uuas(TREES), abs=0.01)


def test_trees_of_neighbours_score_as_the_chain() -> None:
    chains = [np.abs(np.subtract.outer(np.arange(len(t)), np.arange(len(t))))[None].astype(float) for t in TREES]
    assert values(uuas_parts(spanning_trees(chains, TREES), TREES)) == values(chain_parts(TREES))


def test_permuted_words_score_as_random_trees() -> None:
    joined = [np.stack([tree] * 2) for tree in (j[0] for j in spanning_trees(GOLD, TREES))]
    null = permuted_uuas(joined, TREES, permutations=300, seed=0)
    assert null.shape == (300, 2)
    assert (null[:, 0] == null[:, 1]).all()  # the same permutations at every layer
    assert null.mean() == pytest.approx(random_tree_uuas(TREES), abs=0.01)
    roots = permuted_root_accuracy([tree.depths[None] for tree in TREES], TREES, permutations=300, seed=0)
    assert roots.mean() == pytest.approx(np.mean([1 / len(tree.places) for tree in TREES]), abs=0.01)


def test_a_resample_scores_as_the_sentences_it_drew() -> None:
    predicted = random_distances(TREES, layers=2)
    counts = np.random.default_rng(0).multinomial(len(TREES), [1 / len(TREES)] * len(TREES), size=3).astype(float)
    drawn = [np.repeat(np.arange(len(TREES)), row.astype(int)) for row in counts]
    for parts_of in (
        lambda d, t: uuas_parts(spanning_trees(d, t), t),
        distance_spearman_parts,
    ):
        draws = parts_of(predicted, TREES).scores(counts)
        for draw, rows in zip(draws, drawn, strict=True):
            some = parts_of([predicted[i] for i in rows], [TREES[i] for i in rows])
            assert draw.tolist() == pytest.approx(values(some))


def test_intervals_hold_the_score_and_shrink_with_sentences() -> None:
    widths = []
    for sentences in (20, 200):
        trees = random_trees(sentences, seed=3, shortest=3, uncounted=0.1)
        joined = spanning_trees(random_distances(trees, layers=1), trees)
        scores = score_parts({"uuas": uuas_parts(joined, trees)}, samples=200, seed=0)
        interval = scores.interval("uuas")
        assert interval is not None
        low, high = interval[:, 0]
        assert low < scores.values["uuas"][0] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
    assert score_parts({"uuas": uuas_parts(joined, trees)}, samples=0, seed=0).interval("uuas") is None


def test_sentences_too_short_for_a_correlation_have_none() -> None:
    tree = Tree((ROOT, 0))
    assert np.isnan(values(distance_spearman_parts([tree.distances[None]], [tree]))).all()
    single = Tree((ROOT,))
    assert np.isnan(depth_parts([single.depths[None]], [single])["depth_spearman"].hits).all()


def test_sentences_not_words_are_the_unit_of_resampling() -> None:
    """Where all edges of a sentence are found or none, ten times the words in a sentence tell no more."""
    found = np.random.default_rng(0).random((1, 100)) < 0.5
    errors = []
    for edges in (1.0, 10.0):
        parts = SentenceParts(found * edges, np.full((1, 100), edges))
        errors.append(score_parts({"uuas": parts}, samples=500, seed=0).draws["uuas"].std())
    assert errors[0] == pytest.approx(0.05, rel=0.1)  # √(0.25 / 100)
    assert errors[1] == pytest.approx(errors[0])
