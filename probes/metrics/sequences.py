"""Tags of sequences of words: F1 of each tag, and entities as wholes, for all layers at once.

Tags are `B-type` (an entity begins), `I-type` (it goes on) and `O` (outside). An entity is right if its first and last
word and its type are. An `I` after `O`, after another type or at the beginning of a sentence begins an entity, as in
the CoNLL script and in seqeval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_NAMES = ("entity_f1", "entity_precision", "entity_recall")


@dataclass(frozen=True)
class EntityCounts:
    """Entities of each sentence.

    Attributes:
        right: Entities that were predicted and are there, float64 `(layers, sentences)`.
        predicted: Entities that were predicted, same shape.
        true: Entities that are there, float64 `(sentences,)`.
    """

    right: np.ndarray
    predicted: np.ndarray
    true: np.ndarray

    def scores(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Precision, recall and F1 over the entities of all sentences, each in [0, 1].

        Args:
            weights: How often each sentence counts in each resample, shape `(samples, sentences)`.

        Returns:
            Name → float64 `(samples, layers)`. Precision is NaN where nothing is predicted, recall where there is no
            entity, and F1 where both are so.
        """
        right, predicted = weights @ self.right.T, weights @ self.predicted.T
        true = (weights @ self.true)[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            scores = 2 * right / (predicted + true), right / predicted, right / np.broadcast_to(true, right.shape)
        return dict(zip(_NAMES, scores, strict=True))


def tag_f1(predicted: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, tag: int) -> np.ndarray:
    """F1 of one tag.

    Args:
        predicted: Indices of tags, shape `(layers, words)`.
        targets: The true ones, shape `(words,)`.
        weights: How often each word counts in each resample, float64 `(samples, words)`.
        tag: Index of the tag.

    Returns:
        float64 `(samples, layers)`; 0 where the tag neither occurs nor is predicted.
    """
    is_predicted, is_true = predicted == tag, targets == tag
    right = weights @ (is_predicted & is_true).T.astype(np.float64)
    either = weights @ is_predicted.T.astype(np.float64) + (weights @ is_true.astype(np.float64))[:, None]
    return 2 * right / np.maximum(either, 1e-12)


def matched_tag_f1(predicted: np.ndarray, targets: np.ndarray, orders: np.ndarray, *, tags: int) -> np.ndarray:
    """F1 of each tag when predictions are matched with the tags of other words: what it would be by chance.

    Args:
        predicted: Indices of tags, shape `(layers, words)`.
        targets: The true ones, shape `(words,)`.
        orders: Which word's prediction each tag is matched with, int64 `(draws, words)`, from `permuted_orders`.
        tags: Number of tags.

    Returns:
        float64 `(draws, layers, tags)`; 0 where a tag neither occurs nor is predicted.
    """
    layers, true = len(predicted), np.bincount(targets, minlength=tags)
    of_layer = tags * np.arange(layers)[:, None]
    draws = np.empty((len(orders), layers, tags))
    for draw, order in zip(draws, orders, strict=True):
        matched = predicted[:, order]
        cells = of_layer + matched
        counts = np.bincount(cells.ravel(), minlength=layers * tags).reshape(layers, tags)
        right = np.bincount(cells[matched == targets], minlength=layers * tags).reshape(layers, tags)
        draw[:] = 2 * right / np.maximum(counts + true, 1)
    return draws


def matched_entity_scores(
    predicted: np.ndarray, targets: np.ndarray, sentences: np.ndarray, labels: Sequence[str], orders: np.ndarray
) -> dict[str, np.ndarray]:
    """Scores of entities when each sentence has the predictions of another: what they would be by chance.

    Args:
        predicted: Indices into `labels`, shape `(layers, words)`, the words of a sentence one after another.
        targets: The true ones, shape `(words,)`.
        sentences: Number of each word's sentence, shape `(words,)`.
        labels: Names of the tags.
        orders: Which word's prediction each tag is matched with, int64 `(draws, words)`, from `permuted_orders`.

    Returns:
        Name → float64 `(draws, layers)`, as from `EntityCounts.scores`, with 0 where nothing is predicted.
    """
    draws: dict[str, list[np.ndarray]] = {name: [] for name in _NAMES}
    for order in orders:
        counts = count_entities(predicted[:, order], targets, sentences, labels)
        for name, values in counts.scores(np.ones((1, counts.right.shape[1]))).items():
            draws[name].append(np.nan_to_num(values[0]))
    return {name: np.reshape(values, (len(orders), len(predicted))) for name, values in draws.items()}


def is_bio(labels: Sequence[str]) -> bool:
    """Whether labels are those of entities: `O`, and others that begin with `B-` or `I-`.

    >>> is_bio(["B-person", "I-person", "O"]), is_bio(["ADJ", "O"])
    (True, False)
    """
    return "O" in labels and len(labels) > 1 and all(label == "O" or label[:2] in {"B-", "I-"} for label in labels)


def count_entities(
    predicted: np.ndarray, targets: np.ndarray, sentences: np.ndarray, labels: Sequence[str]
) -> EntityCounts:
    """Count entities sentence by sentence.

    Args:
        predicted: Indices into `labels`, shape `(layers, words)`, the words of a sentence one after another.
        targets: The true ones, shape `(words,)`.
        sentences: Number of each word's sentence, shape `(words,)`.
        labels: Names of the tags.

    Example:
        >>> tags = np.array([[0, 1, 2, 0, 2]])  # the last entity is one word too short
        >>> counts = count_entities(tags, np.array([0, 1, 2, 0, 1]), np.zeros(5), ["B-x", "I-x", "O"])
        >>> counts.right.tolist(), counts.predicted.tolist(), counts.true.tolist()
        ([[1.0]], [[2.0]], [2.0])
    """
    number = np.unique(sentences, return_inverse=True)[1]
    first = np.append(True, number[1:] != number[:-1])
    starts, ends, types = _entities(np.vstack([targets[None], predicted]), first, labels)
    right = starts & starts[:1] & (ends == ends[:1]) & (types == types[:1])
    count = int(number.max()) + 1

    def by_sentence(of_words: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(number, weights=row, minlength=count) for row in of_words])

    return EntityCounts(by_sentence(right[1:]), by_sentence(starts[1:]), by_sentence(starts[:1])[0])


def _entities(tags: np.ndarray, first: np.ndarray, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether an entity starts at a word, the last word of the one it is in, and its type; each `(rows, words)`.

    Args:
        tags: Indices into `labels`, shape `(rows, words)`.
        first: Whether a word is the first of its sentence, shape `(words,)`.
        labels: Names of the tags.
    """
    names = sorted({label[2:] for label in labels})
    type_of = np.array([-1 if label == "O" else names.index(label[2:]) for label in labels])
    begins = np.array([label.startswith("B-") for label in labels])[tags]
    types = type_of[tags]
    before = np.concatenate([np.full((len(tags), 1), -1), types[:, :-1]], axis=1)
    inside = types >= 0
    starts = inside & (begins | first | (before != types))
    last = np.ones_like(inside)
    last[:, :-1] = first[1:] | ~inside[:, 1:] | starts[:, 1:]
    places = np.where(last, np.arange(tags.shape[1]), tags.shape[1])
    ends = np.flip(np.minimum.accumulate(np.flip(places, axis=1), axis=1), axis=1)
    return starts, ends, types
