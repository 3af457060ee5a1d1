"""Distances without labels, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist, jensenshannon

from probes.metrics.induced_trees import (
    attention_distances,
    attention_divergences,
    cosine_distances,
    euclidean_distances,
    to_the_next,
)
from probes.metrics.trees import chain, spanning_tree

VECTORS = np.random.default_rng(0).standard_normal((2, 5, 4))
ATTENTION = np.random.default_rng(1).dirichlet(np.ones(5), (2, 5))


def test_distances_are_those_of_scipy() -> None:
    for layer in range(2):
        np.testing.assert_allclose(
            euclidean_distances(VECTORS)[layer], cdist(VECTORS[layer], VECTORS[layer]), atol=1e-7
        )
        cosines = cdist(VECTORS[layer], VECTORS[layer], "cosine")
        np.testing.assert_allclose(cosine_distances(VECTORS)[layer], cosines, atol=1e-12)
        for i in range(5):
            for j in range(5):
                expected = jensenshannon(ATTENTION[layer, i], ATTENTION[layer, j], base=2)
                assert attention_divergences(ATTENTION)[layer, i, j] == pytest.approx(expected, abs=1e-6)


def test_words_that_attend_to_their_neighbours_make_a_chain() -> None:
    causal = np.eye(5) * 0.1 + np.eye(5, k=-1) * 0.8 + 0.001 * np.tri(5)
    assert (spanning_tree(attention_distances(causal)) == chain(5)).all()


def test_zero_vectors_are_far_from_everything() -> None:
    assert (cosine_distances(np.zeros((1, 2, 3))) == 1).all()


def test_the_next_word_of_the_last_is_none() -> None:
    distances = np.arange(9.0).reshape(1, 3, 3)
    assert to_the_next(distances).tolist() == [[1.0, 5.0, 0.0]]
