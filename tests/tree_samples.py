"""Sentences with random trees, and activations in which their trees are planted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from probes.metrics.trees import ROOT, Tree
from probes.training.ragged import RaggedRows
from probes.training.tree_probes.tree_data import ParsedSentences, TreeData
from probes.values import Reading

READING = Reading("decoder", "residual", "words.last")


def random_trees(
    sentences: int, *, seed: int = 0, shortest: int = 5, longest: int = 9, uncounted: float = 0.0
) -> list[Tree]:
    """Random rooted trees in which such a share of the words does not count."""
    rng = np.random.default_rng(seed)
    trees = []
    for _ in range(sentences):
        words = int(rng.integers(shortest, longest + 1))
        place = rng.permutation(words)
        heads = [ROOT] * words
        for word in range(1, words):
            heads[place[word]] = int(place[rng.integers(word)])
        if uncounted == 0:
            trees.append(Tree(tuple(heads)))
            continue
        counted = rng.random(words) > uncounted
        counted[place[:2]] = True  # the root and another
        trees.append(Tree(tuple(heads), tuple(counted.tolist())))
    return trees


def planted_vectors(tree: Tree, *, features: int, rng: np.random.Generator, noise: float = 0.0) -> np.ndarray:
    """A vector for each word, whose squared distances are the distances in the tree, and whose square is its depth.

    Each word is its head plus a direction of its own, so that the vectors of two words differ by one unit vector for
    each edge between them. The space is the same in every sentence, rotated by nothing.
    """
    vectors = np.zeros((len(tree), features))
    directions = iter(rng.permutation(features))
    for word in np.argsort(tree.depths, kind="stable"):
        if tree.heads[word] != ROOT:
            vectors[word] = vectors[tree.heads[word]]
            vectors[word, next(directions)] += 1
    return vectors + noise * rng.standard_normal(vectors.shape)


def tree_data(
    sizes: Sequence[int] = (120, 40, 40), *, features: int = 12, planted: Sequence[bool] = (False, True), seed: int = 0
) -> TreeData:
    """A treebank of which some layers hold the trees and the others noise."""
    rng = np.random.default_rng(seed)
    splits = []
    for number, size in enumerate(sizes):
        trees = random_trees(size, seed=10 * seed + number)
        layers = []
        for holds_tree in planted:
            vectors = [
                planted_vectors(tree, features=features, rng=rng)
                if holds_tree
                else rng.standard_normal((len(tree), features))
                for tree in trees
            ]
            layers.append(np.concatenate(vectors))
        tokens = torch.tensor(np.stack(layers), dtype=torch.float32)
        splits.append(ParsedSentences(RaggedRows(tokens, torch.tensor([len(tree) for tree in trees])), tuple(trees)))
    return TreeData(tuple(range(len(planted))), READING, *splits)
