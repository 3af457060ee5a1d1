"""Distances between words that nobody was trained for: straight from activations, and from attention.

Spanning trees and splits at the largest distance (`probes.metrics.trees`) turn them into trees, so that what a model
induces without labels can stand beside what a probe decodes with labels.
"""

from __future__ import annotations

import numpy as np

_TINY = 1e-12
"""Keeps logarithms and divisions finite."""


def euclidean_distances(vectors: np.ndarray) -> np.ndarray:
    """Euclidean distances between the words of a sentence.

    Args:
        vectors: Shape `(layers, words, features)`.

    Returns:
        float64, shape `(layers, words, words)`.
    """
    x = vectors.astype(np.float64)
    squares = np.square(x).sum(-1)
    products = x @ x.swapaxes(1, 2)
    return np.sqrt(np.maximum(squares[:, :, None] + squares[:, None] - 2 * products, 0))


def cosine_distances(vectors: np.ndarray) -> np.ndarray:
    """1 − cosine between the words of a sentence, shape and dtype as of `euclidean_distances`; 1 for a zero vector."""
    x = vectors.astype(np.float64)
    norms = np.sqrt(np.square(x).sum(-1, keepdims=True))
    unit = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
    return 1 - unit @ unit.swapaxes(1, 2)


def attention_distances(attention: np.ndarray) -> np.ndarray:
    """How little two words attend to each other: minus the larger share, whichever of the two it is.

    Args:
        attention: How much each word (row) attends to each word (column), shape `(..., words, words)`.

    Returns:
        float64, symmetric, same shape.
    """
    shares = attention.astype(np.float64)
    return -np.maximum(shares, shares.swapaxes(-1, -2))


def attention_divergences(attention: np.ndarray) -> np.ndarray:
    """Square root of the Jensen–Shannon divergence between what two words attend to, as they are given.

    Args:
        attention: Shape `(..., words, words)`; each row is normalised.

    Returns:
        float64 in [0, 1], shape `(..., words, words)`.

    Source:
        Kim et al. 2020, "Are pre-trained language models aware of phrases?"
    """
    shares = attention.astype(np.float64)
    shares = shares / np.maximum(shares.sum(-1, keepdims=True), _TINY)
    means = (shares[..., :, None, :] + shares[..., None, :, :]) / 2
    between = _entropy(means) - (_entropy(shares)[..., :, None] + _entropy(shares)[..., None, :]) / 2
    return np.sqrt(np.maximum(between, 0))


def to_the_next(distances: np.ndarray) -> np.ndarray:
    """Distance of each word to the next, shape `(..., words)`, from distances of all pairs; that of the last is 0."""
    last = np.zeros((*distances.shape[:-2], 1))
    return np.concatenate([np.diagonal(distances, 1, -2, -1), last], axis=-1)


def _entropy(shares: np.ndarray) -> np.ndarray:
    """In bits, over the last axis."""
    return -(shares * np.log2(np.maximum(shares, _TINY))).sum(-1)
