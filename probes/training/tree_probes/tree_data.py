"""Sentences with their trees and a vector for each word, and what a probe of trees is trained towards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from probes.architectures import DepthProbe, DistanceProbe, ProbeArchitecture, SyntacticDistanceProbe
from probes.metrics.trees import Tree, relabelled
from probes.seeds import derive_seed
from probes.training.data_module import Rows
from probes.training.ragged import RaggedRows
from probes.values import SPLITS, Layer, Reading


@dataclass(frozen=True)
class ParsedSentences:
    """Sentences of one split.

    Attributes:
        values: A vector for each word at each layer.
        trees: The tree of each sentence.

    Raises:
        ValueError: A sentence has not as many vectors as words, or there are no sentences.
    """

    values: RaggedRows
    trees: tuple[Tree, ...]

    def __post_init__(self) -> None:
        words = [len(tree) for tree in self.trees]
        if words != self.values.lengths.tolist() or not words:
            raise ValueError(
                f"Probes of trees expect a vector for each word of one or more sentences; got {len(words)} trees of "
                f"{sum(words)} words in all and {self.values.shape[1]} sentences of {self.values.tokens.shape[1]} "
                "vectors."
            )

    def __len__(self) -> int:
        return len(self.trees)

    def of_layers(self, layers: Tensor) -> ParsedSentences:
        """The sentences at some of the layers."""
        return ParsedSentences(self.values.of_layers(layers), self.trees)


@dataclass(frozen=True)
class TreeData:
    """A treebank at one reading.

    Attributes:
        layers: Names of the layers.
        reading: Stack, site and how words became vectors.
        train: Sentences to train on.
        validation: Sentences by which ranks are chosen and training stops.
        test: Sentences that are scored.

    Raises:
        ValueError: Splits differ in layers or width, or a vector is NaN or infinite.
    """

    layers: tuple[Layer, ...]
    reading: Reading
    train: ParsedSentences
    validation: ParsedSentences
    test: ParsedSentences

    def __post_init__(self) -> None:
        for split in SPLITS:
            values = getattr(self, split).values
            if (len(values), values.shape[-1]) != (len(self.layers), self.train.values.shape[-1]):
                raise ValueError(
                    f"{len(self.layers)} layers of {self.train.values.shape[-1]} features were expected; the {split} "
                    f"sentences have {len(values)} layers of {values.shape[-1]} features."
                )
            if not values.tokens.isfinite().all():
                raise ValueError(
                    f"Activations of {split} words are NaN or infinite. Try `backbone.dtype=float32`, or omit the "
                    "layer from `backbone.layers`."
                )


@dataclass(frozen=True)
class TreeTarget:
    """What the probes of one kind are trained towards.

    Attributes:
        architecture: Called with the width of a layer and a rank, constructs a probe.
        of_tree: Numbers of one tree: `(words,)`, or `(words, words)`.
        token_axes: Number of axes of these numbers.
        ranked: Whether ranks are compared; a linear function has none.
    """

    architecture: ProbeArchitecture
    of_tree: Callable[[Tree], np.ndarray]
    token_axes: int
    ranked: bool = True


def _heights(tree: Tree) -> np.ndarray:
    """Heights between each counted word and the next; those of words that do not count are unknown."""
    heights = np.full(len(tree), np.nan)
    places = tree.places
    neighbours = np.flatnonzero(np.diff(places) == 1)  # a gap with punctuation in it has no two neighbouring vectors
    heights[places[neighbours]] = tree.gap_heights[neighbours]
    return heights


TREE_TARGETS: Mapping[str, TreeTarget] = MappingProxyType(
    {
        "distance": TreeTarget(DistanceProbe, lambda tree: tree.distances, 2),
        "depth": TreeTarget(DepthProbe, lambda tree: tree.depths, 1),
        "syntactic distance": TreeTarget(SyntacticDistanceProbe, _heights, 1, ranked=False),
    }
)
"""Kind of probe → what it is trained towards."""


def control_trees(trees: Sequence[Tree], *, seed: int, split: str, control: int) -> list[Tree]:
    """The same trees with the words of each sentence shuffled, so that nothing of the sentence tells its tree."""
    draw = np.random.default_rng(derive_seed(seed, "control", split, control))
    return [relabelled(tree, draw.permutation(len(tree))) for tree in trees]


def tree_rows(sentences: ParsedSentences, trees: Sequence[Sequence[Tree]], target: TreeTarget) -> Rows:
    """Rows to train on.

    Args:
        sentences: The sentences.
        trees: Their trees, then those of each control.
        target: What of a tree is to be predicted.
    """
    longest = sentences.values.longest
    targets = torch.full((len(trees), len(sentences), *[longest] * target.token_axes), torch.nan)
    for replica, of_replica in enumerate(trees):
        for row, tree in enumerate(of_replica):
            numbers = torch.as_tensor(target.of_tree(tree), dtype=torch.float32)
            targets[replica, row][tuple(slice(0, size) for size in numbers.shape)] = numbers
    return Rows(sentences.values, targets, torch.ones(targets.shape[:2]), token_axes=target.token_axes)
