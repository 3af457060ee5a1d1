"""Trees that no probe was trained for, at every layer: from distances between activations, and from attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from probes.backbones import FrozenBackbone
from probes.backbones.attention_maps import word_attention
from probes.metrics.induced_trees import (
    attention_distances,
    attention_divergences,
    cosine_distances,
    euclidean_distances,
    to_the_next,
)
from probes.metrics.tree_scores import spanning_trees, uuas_parts
from probes.metrics.trees import Tree
from probes.tasks.words.sentence import Sentence
from probes.training import Standardiser
from probes.training.tree_probes.tree_data import TreeData
from probes.training.tree_probes.tree_profiles import Method, TreeScorer
from probes.values import Layer, LayerProfile


def activation_profiles(data: TreeData, scorer: TreeScorer) -> Iterator[LayerProfile]:
    """Trees from distances between the vectors of words: 1 − cosine, and Euclidean after standardising each feature.

    Args:
        data: Vectors and trees; training words give the statistics, their trees are not used.
        scorer: Layers, resamples and the split that is scored.
    """
    sentences = getattr(data, scorer.split)
    standardiser, constant = Standardiser.of(data.train.values.tokens)
    live = (~constant).nonzero()[:, 0]
    values = sentences.values.of_layers(live)
    plain = [vectors.numpy() for vectors in values.of_rows()]
    standardised = [standardiser[live](vectors).numpy() for vectors in values.of_rows()]
    for name, vectors, between in (
        ("cosine, no labels", plain, cosine_distances),
        ("euclidean, no labels", standardised, euclidean_distances),
    ):
        method = Method(name, tuple(live.tolist()))
        distances = [between(of_sentence) for of_sentence in vectors]
        yield from scorer.distances(method, distances, sentences.trees)
        yield from scorer.spans(method, [to_the_next(of_sentence) for of_sentence in distances], sentences.trees)


@dataclass(frozen=True)
class AttentionTrees:
    """Distances from attention in some sentences.

    Attributes:
        mean: For each sentence, distances from the mean over heads, shape `(blocks, words, words)`.
        next: For each sentence, how far each word is from the next, from the mean over heads, shape `(blocks, words)`.
        heads: For each sentence, distances from each head, float32 `(blocks, heads, words, words)`.
    """

    mean: list[np.ndarray]
    next: list[np.ndarray]
    heads: list[np.ndarray]

    @classmethod
    def of(cls, backbone: FrozenBackbone, sentences: Sequence[Sentence], max_length: int | None) -> AttentionTrees:
        """Run the backbone on sentences all of whose words have tokens within the length limit.

        Raises:
            ValueError: The model does not report its attention.
        """
        aligned = backbone.align([s.text for s in sentences], [s.ranges for s in sentences], max_length=max_length)
        found = cls([], [], [])
        for ids, spans in zip(aligned.tokenized.ids, aligned.tokenized.spans, strict=True):
            maps = word_attention(backbone, ids, spans)
            mean = maps.mean(1)
            found.mean.append(attention_distances(mean))
            found.next.append(to_the_next(attention_divergences(mean)))
            found.heads.append(attention_distances(maps).astype(np.float32))
        return found


def attention_profiles(
    validation: AttentionTrees, test: AttentionTrees, *, validation_trees: Sequence[Tree], test_trees: Sequence[Tree],
    scorer: TreeScorer,
) -> Iterator[LayerProfile]:  # fmt: skip
    """Trees from the mean attention of each block, and from the head whose trees are best on validation sentences.

    The chosen head has seen labels, if only to be chosen.

    Args:
        validation: Of validation sentences.
        test: Of test sentences.
        validation_trees: Their gold trees.
        test_trees: Their gold trees.
        scorer: Layers and resamples; block k is layer k.
    """
    blocks = {layer: layer - 1 for layer in _blocks(scorer.layers, len(test.mean[0]))}
    live = tuple(scorer.layers.index(layer) for layer in blocks)
    chosen_blocks = list(blocks.values())
    note = "no attention belongs to this layer"
    mean = Method("attention, no labels", live, note=note)
    yield from scorer.distances(mean, [distances[chosen_blocks] for distances in test.mean], test_trees)
    yield from scorer.spans(mean, [distances[chosen_blocks] for distances in test.next], test_trees)
    heads = _best_heads(validation.heads, validation_trees)
    remarks = tuple(f"head {heads[block] + 1}" for block in chosen_blocks)
    best = Method("attention, chosen head", live, remarks=remarks, note=note)
    of_heads = [distances[chosen_blocks, heads[chosen_blocks]] for distances in test.heads]
    yield from scorer.distances(best, of_heads, test_trees)


def _blocks(layers: Sequence[Layer | None], count: int) -> list[int]:
    return [cast(int, layer) for layer in layers if isinstance(layer, int) and 1 <= layer <= count]


def _best_heads(heads: Sequence[np.ndarray], trees: Sequence[Tree]) -> np.ndarray:
    """The head of each block whose spanning trees have the most gold edges, int64 `(blocks,)`."""
    blocks, count = heads[0].shape[:2]
    flat = [distances.reshape(blocks * count, *distances.shape[2:]) for distances in heads]
    parts = uuas_parts(spanning_trees(flat, trees), trees)
    return parts.hits.sum(1).reshape(blocks, count).argmax(1)
