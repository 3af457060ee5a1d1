"""Trees over the words of a sentence: distances, depths, spanning trees and spans; plain numpy and scipy.

A dependency tree is given by the head of each word. A distance probe predicts how far apart two words are in it, and a
minimum spanning tree turns predicted distances back into a tree. A constituency tree is given by its spans; distances
between neighbouring words, split at the largest, turn into spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path

ROOT = -1
"""The head of a root."""
Spans = frozenset[tuple[int, int]]
"""Spans of words as (first, last), both included."""


@dataclass(frozen=True)
class Tree:
    """The gold tree of one sentence.

    Attributes:
        heads: Index of each word's head, `ROOT` for the root.
        counted: Whether each word counts when trees are compared; punctuation usually does not. Default all words.
        phrases: Its phrases, as spans over the counted words, numbered anew; `None`: those of the dependency tree, see
            `yields`.

    Raises:
        ValueError: There is not exactly one root, a head is no word, or the heads form a cycle.

    >>> tree = Tree((1, ROOT, 3, 1))
    >>> tree.depths.tolist(), sorted(tree.spans)
    ([1.0, 0.0, 2.0, 1.0], [(2, 3)])
    """

    heads: tuple[int, ...]
    counted: tuple[bool, ...] = ()
    phrases: Spans | None = None

    def __post_init__(self) -> None:
        words = len(self.heads)
        if not self.counted:
            object.__setattr__(self, "counted", (True,) * words)
        if len(self.counted) != words:
            raise ValueError(f"A tree of {words} words expects `counted` for each of them; got {len(self.counted)}.")
        if sum(head == ROOT for head in self.heads) != 1 or not all(ROOT <= head < words for head in self.heads):
            raise ValueError(
                f"A tree of {words} words expects heads from 0 to {words - 1} and one root ({ROOT}); got {self.heads}."
            )
        if not np.isfinite(self.distances).all():
            raise ValueError(f"Heads {self.heads} form a cycle; they are no tree.")

    def __len__(self) -> int:
        return len(self.heads)

    @cached_property
    def distances(self) -> np.ndarray:
        """Number of edges between two words, float64 `(words, words)`."""
        edges = np.array([(word, head) for word, head in enumerate(self.heads) if head != ROOT], dtype=int)
        if len(edges) == 0:
            return np.zeros((len(self), len(self)))
        graph = csr_array((np.ones(len(edges)), edges.T), shape=(len(self), len(self)))
        return shortest_path(graph, directed=False, unweighted=True)

    @cached_property
    def depths(self) -> np.ndarray:
        """Number of edges between each word and the root, float64 `(words,)`."""
        return self.distances[self.root]

    @property
    def root(self) -> int:
        """Index of the root."""
        return self.heads.index(ROOT)

    @cached_property
    def places(self) -> np.ndarray:
        """Indices of the words that count."""
        return np.flatnonzero(self.counted)

    @cached_property
    def edges(self) -> np.ndarray:
        """Pairs of counted words that are head and dependent, numbered among the counted words, int64 `(edges, 2)`."""
        place = {int(word): number for number, word in enumerate(self.places)}
        pairs = [
            (place[word], place[head])
            for word, head in enumerate(self.heads)
            if head != ROOT and word in place and head in place
        ]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)

    @cached_property
    def spans(self) -> Spans:
        """Its phrases: the given ones, or those of the dependency tree."""
        return yields(self.heads, self.counted) if self.phrases is None else self.phrases

    @cached_property
    def gap_heights(self) -> np.ndarray:
        """Height of the smallest phrase that holds both of two neighbouring counted words, float64 `(counted − 1,)`.

        The syntactic distance of Shen et al. 2018: words lie at height 0, a phrase one above its highest part.
        """
        return span_heights(self.spans, len(self.places))


def relabelled(tree: Tree, order: Sequence[int] | np.ndarray) -> Tree:
    """The tree with its words in another order, so that it has the same shape but says nothing of the sentence.

    Args:
        tree: A tree.
        order: Word `order[i]` of the tree becomes word i.
    """
    place = np.argsort(order)
    heads = tuple(ROOT if tree.heads[old] == ROOT else int(place[tree.heads[old]]) for old in order)
    return Tree(heads, tree.counted)


def spanning_tree(distances: np.ndarray) -> np.ndarray:
    """Edges of the minimum spanning tree of words with these distances.

    Args:
        distances: Symmetric, any finite numbers, shape `(words, words)`; the diagonal is ignored.

    Returns:
        Whether two words are joined, symmetric bool `(words, words)`. Only the order of the distances matters; among
        equal ones the choice is arbitrary but always the same.
    """
    words = len(distances)
    joined = np.zeros((words, words), dtype=bool)
    if words < 2:
        return joined
    rows, columns = np.triu_indices(words, 1)
    weights = distances[rows, columns].astype(np.float64)
    # scipy takes a weight of 0 for a missing edge; the tree depends on the order of the weights alone
    weights = weights - weights.min() + 1
    tree = minimum_spanning_tree(csr_array((weights, (rows, columns)), shape=(words, words))).tocoo()
    joined[tree.row, tree.col] = joined[tree.col, tree.row] = True
    return joined


def chain(words: int) -> np.ndarray:
    """The tree that joins each word to its left neighbour, bool `(words, words)`."""
    return np.eye(words, k=1, dtype=bool) | np.eye(words, k=-1, dtype=bool)


def yields(heads: Sequence[int], counted: Sequence[bool]) -> Spans:
    """Phrases of a dependency tree: each head with everything below it, if that is a span of two or more words.

    The whole sentence is no phrase here, since every tree has it, nor is what words outside interrupt (a non-projective
    subtree). Words that do not count are dropped first, and the others numbered anew.
    """
    words = len(heads)
    below = [{word} for word in range(words)]
    for word in range(words):
        above = heads[word]
        while above != ROOT:
            below[above].add(word)
            above = heads[above]
    place = {int(word): number for number, word in enumerate(np.flatnonzero(counted))}
    spans = set()
    for words_below in below:
        here = sorted(place[word] for word in words_below if word in place)
        if 1 < len(here) < len(place) and here[-1] - here[0] + 1 == len(here):
            spans.add((here[0], here[-1]))
    return frozenset(spans)


def split_spans(heights: np.ndarray) -> Spans:
    """Spans of the binary tree that splits a sentence at the largest distance between neighbours, again and again.

    Args:
        heights: Distance between each word and the next, shape `(words − 1,)`; of equal ones the first is split, which
            makes a right-branching tree of a sentence without distances.

    Returns:
        Spans of two or more words without the whole sentence: words − 2 of them, for two or more words.

    Source:
        Shen et al. 2018, "Straight to the tree: constituency parsing with neural syntactic distance".

    >>> sorted(split_spans(np.array([1.0, 3.0, 2.0])))
    [(0, 1), (2, 3)]
    """
    spans, open_spans = set(), [(0, len(heights))]
    while open_spans:
        first, last = open_spans.pop()
        if last == first:
            continue
        if last - first < len(heights):
            spans.add((first, last))
        cut = first + int(np.argmax(heights[first:last]))
        open_spans += [(first, cut), (cut + 1, last)]
    return frozenset(spans)


def span_heights(spans: Spans, words: int) -> np.ndarray:
    """Height of the smallest span that holds both of two neighbouring words, float64 `(words − 1,)`.

    A span lies one above the highest span inside it, and the whole sentence one above the highest of all.

    Args:
        spans: Spans that do not cross each other.
        words: Number of words.
    """
    heights: dict[tuple[int, int], int] = {}
    for span in sorted({*spans, (0, words - 1)}, key=lambda span: span[1] - span[0]):
        inside = [height for (first, last), height in heights.items() if span[0] <= first and last <= span[1]]
        heights[span] = 1 + max(inside, default=0)
    smallest_first = sorted(heights, key=lambda span: span[1] - span[0])
    found = [next(span for span in smallest_first if span[0] <= gap < span[1]) for gap in range(words - 1)]
    return np.array([heights[span] for span in found], dtype=np.float64)
