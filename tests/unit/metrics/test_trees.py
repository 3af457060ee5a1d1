"""Trees over words: distances, spanning trees and spans, against brute force and known sentences."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.metrics.trees import ROOT, Tree, chain, relabelled, span_heights, spanning_tree, split_spans, yields

# "the small cat saw a dog that barked ." with heads as in Universal Dependencies
HEADS = (2, 2, 3, ROOT, 5, 3, 7, 5, 3)
SENTENCE = Tree(HEADS, tuple(word != 8 for word in range(9)))


@st.composite
def random_heads(draw: st.DrawFn, most: int = 9) -> tuple[int, ...]:
    """Any rooted tree: every word hangs below one that was placed before it, and words are then shuffled."""
    words = draw(st.integers(1, most))
    parents = [ROOT] + [draw(st.integers(0, word - 1)) for word in range(1, words)]
    place = draw(st.permutations(range(words)))
    heads = [ROOT] * words
    for word, parent in enumerate(parents):
        heads[place[word]] = ROOT if parent == ROOT else place[parent]
    return tuple(heads)


def test_distances_and_depths_count_the_edges() -> None:
    assert SENTENCE.depths.tolist() == [2, 2, 1, 0, 2, 1, 3, 2, 1]
    assert SENTENCE.distances[0, 6] == 5  # the → cat → saw → dog → barked → that
    assert (SENTENCE.distances == SENTENCE.distances.T).all()


def test_edges_of_words_that_do_not_count_are_left_out() -> None:
    assert len(SENTENCE.edges) == 7
    assert 8 not in SENTENCE.places


@pytest.mark.parametrize("heads", [(0,), (1, 0), (ROOT, ROOT), (ROOT, 2, 1), (ROOT, 5)])
def test_heads_that_are_no_tree_are_refused(heads: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expects heads|cycle"):
        Tree(heads)


@given(random_heads())
def test_the_spanning_tree_of_gold_distances_is_the_gold_tree(heads: tuple[int, ...]) -> None:
    tree = Tree(heads)
    joined = spanning_tree(tree.distances)
    expected = np.zeros_like(joined)
    for word, head in enumerate(heads):
        if head != ROOT:
            expected[word, head] = expected[head, word] = True
    assert (joined == expected).all()


def test_the_spanning_tree_has_the_smallest_sum_also_of_zero_and_negative_distances() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        distances = rng.integers(-2, 3, (5, 5)).astype(float)
        distances = np.triu(distances, 1) + np.triu(distances, 1).T
        joined = spanning_tree(distances)
        assert joined.sum() == 8
        assert np.triu(joined * distances).sum() == pytest.approx(min(_sums_of_trees(distances)))


def _sums_of_trees(distances: np.ndarray) -> list[float]:
    """Sums of all spanning trees, by trying every set of edges."""
    words = len(distances)
    pairs = list(combinations(range(words), 2))
    sums = []
    for edges in combinations(pairs, words - 1):
        group = list(range(words))
        for a, b in edges:
            old, new = group[a], group[b]
            group = [new if g == old else g for g in group]
        if len(set(group)) == 1:
            sums.append(sum(distances[a, b] for a, b in edges))
    return sums


@given(random_heads(), st.randoms(use_true_random=False))
def test_a_relabelled_tree_has_the_same_shape(heads: tuple[int, ...], random: object) -> None:
    tree = Tree(heads)
    order = np.random.default_rng(len(heads)).permutation(len(heads))
    other = relabelled(tree, order)
    assert (other.distances == tree.distances[np.ix_(order, order)]).all()
    assert (other.depths == tree.depths[order]).all()


def test_phrases_are_the_spans_below_a_head() -> None:
    # the small cat | a dog that barked | that barked; the sentence itself is none
    assert SENTENCE.spans == {(0, 2), (4, 7), (6, 7)}


def test_a_phrase_that_other_words_interrupt_is_none() -> None:
    assert yields((2, 3, ROOT, 2), (True,) * 4) == set()  # 1 hangs below 3, and 2 stands between them
    assert yields((ROOT, 0, 1), (True,) * 3) == {(1, 2)}


def test_a_sentence_is_split_at_its_largest_distances() -> None:
    assert split_spans(np.array([1.0, 4.0, 2.0, 3.0])) == {(0, 1), (2, 4), (2, 3)}
    assert split_spans(np.zeros(3)) == {(1, 3), (2, 3)}  # right-branching
    assert split_spans(np.arange(3.0)) == {(0, 2), (0, 1)}
    assert split_spans(np.empty(0)) == split_spans(np.ones(1)) == set()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=9, unique=True))
def test_heights_of_a_binary_tree_split_back_into_it(heights: list[int]) -> None:
    spans = split_spans(np.array(heights, dtype=float))
    assert len(spans) == len(heights) - 1
    assert split_spans(span_heights(spans, len(heights) + 1)) == spans


def test_gaps_are_as_high_as_the_smallest_phrase_around_them() -> None:
    # the|small|cat . saw . a|dog|that|barked
    assert SENTENCE.gap_heights.tolist() == [1, 1, 3, 3, 2, 2, 1]


def test_the_chain_joins_neighbours() -> None:
    assert chain(4).sum() == 6
    assert chain(4)[1, 2]
    assert not chain(4)[0, 2]
