"""Scores that only words have: of each tag, and of entities as wholes; with intervals and p over sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from probes.metrics import Predictions, bootstrap_counts, permuted_orders, score_interval, word_majority_logits
from probes.metrics.sequences import count_entities, is_bio, matched_entity_scores, matched_tag_f1, tag_f1
from probes.probe_measures.protocol import ProbedTask
from probes.seeds import derive_seed
from probes.values import Estimates, Layer, LayerProfile


@dataclass(frozen=True, kw_only=True)
class TagScores:
    """F1 of each tag of a task of words on test rows, in a matrix of layers and tags for each task.

    Attributes:
        samples: Bootstrap resamples of the sentences behind each interval; 0 for none.
        permutations: How often sentences are matched with predictions of others, behind each null and p; 0 for none.
        most_tags: Tags with the most test words that are scored, so that a matrix can be read.
    """

    samples: int = 1000
    permutations: int = 200
    most_tags: int = 24

    def __call__(self, probed: ProbedTask) -> Iterator[LayerProfile]:
        """A profile of the quantity `tag_f1/TASK` for each tag."""
        predictions = probed.fit.predictions
        if predictions is None or len(predictions.sentences) == 0 or predictions.kind != "classification":
            return
        predicted, targets = predictions.predicted, predictions.targets
        of_tag = np.bincount(targets, minlength=len(predictions.labels))
        frequent = [int(tag) for tag in np.argsort(-of_tag, kind="stable")[: self.most_tags] if of_tag[tag] > 0]
        weights = _weights(probed, predictions, self.samples)
        once = np.ones((1, len(targets)))
        orders = _orders(probed, predictions, self.permutations)
        null = None
        if orders is not None:
            null = matched_tag_f1(predicted, targets, orders, tags=len(predictions.labels))
        for tag in sorted(frequent):
            yield _profile(
                probed,
                predictions,
                f"tag_f1/{predictions.task}",
                _Scored(
                    tag_f1(predicted, targets, once, tag=tag)[0],
                    tag_f1(predicted, targets, weights, tag=tag),
                    None if null is None else null[:, :, tag],
                ),
                n=int(of_tag[tag]),
                task=predictions.labels[tag],
            )


@dataclass(frozen=True, kw_only=True)
class EntityScores:
    """Precision, recall and F1 of entities as wholes, for tasks whose tags are `B-…`, `I-…` and `O`.

    An entity counts if its first word, its last word and its type are right. The control `majority_per_word` gives each
    word the tag that it has most often in training.

    Attributes:
        samples: Bootstrap resamples of the sentences behind each interval; 0 for none.
        permutations: How often sentences are matched with predictions of others, behind each null and p; 0 for none.
    """

    samples: int = 1000
    permutations: int = 200

    def __call__(self, probed: ProbedTask) -> Iterator[LayerProfile]:
        """Profiles of `entity_f1`, `entity_precision` and `entity_recall`."""
        predictions = probed.fit.predictions
        if predictions is None or len(predictions.sentences) == 0 or not is_bio(predictions.labels):
            return
        sentences, targets = predictions.sentences, predictions.targets.astype(np.int64)
        number, first = np.unique(sentences, return_index=True)
        by_word = _weights(probed, predictions, self.samples)
        weights = by_word[:, first]  # all words of a sentence have the weight of the sentence
        predicted = predictions.predicted.astype(np.int64)
        counts = count_entities(predicted, targets, sentences, predictions.labels)
        values, draws = counts.scores(np.ones((1, len(number)))), counts.scores(weights)
        orders = _orders(probed, predictions, self.permutations)
        null = {}
        if orders is not None:
            null = matched_entity_scores(predicted, targets, sentences, predictions.labels, orders)
        for name, value in values.items():
            scored = _Scored(value[0], draws[name], null.get(name))
            yield _profile(probed, predictions, name, scored, n=int(counts.true.sum()), task=predictions.task)
        baseline = count_entities(_majority_tags(probed), targets, sentences, predictions.labels)
        for name, value in baseline.scores(np.ones((1, len(number)))).items():
            yield LayerProfile(
                quantity=name,
                unit="share of entities",
                estimates=Estimates(value[0], int(counts.true.sum()), note="no entity is predicted"),
                layers=(None,),
                task=predictions.task,
                reading=predictions.reading,
                control="majority_per_word",
                probe=probed.settings.name,
                seed=probed.seed,
            )


def _majority_tags(probed: ProbedTask) -> np.ndarray:
    """The tag that each test word has most often in training, `(1, words)`."""
    data = probed.data
    assert data.word_types is not None  # whoever has sentences has words
    logits = word_majority_logits(
        data.train.targets, data.word_types["train"], data.word_types["test"], classes=data.num_classes
    )
    return logits.argmax(-1).numpy()


def _weights(probed: ProbedTask, predictions: Predictions, samples: int) -> np.ndarray:
    """How often each test word counts in each resample of the sentences, float64 `(samples, words)`."""
    seed = derive_seed(probed.seed, "bootstrap", "test")
    sentences = torch.from_numpy(predictions.sentences)
    return bootstrap_counts(len(predictions.targets), samples, seed=seed, groups=sentences).double().numpy()


def _orders(probed: ProbedTask, predictions: Predictions, permutations: int) -> np.ndarray | None:
    """Which word's prediction each word is matched with by chance, int64 `(permutations, words)`; `None` for none."""
    if permutations == 0:
        return None
    seed = derive_seed(probed.seed, "permutations")
    sentences = torch.from_numpy(predictions.sentences)
    return permuted_orders(len(predictions.targets), permutations, seed=seed, groups=sentences).numpy()


class _Scored(NamedTuple):
    """A score of the probed layers: its value `(layers,)`, resamples and draws of its null, `(draws, layers)`."""

    values: np.ndarray
    draws: np.ndarray
    null: np.ndarray | None


def _profile(
    probed: ProbedTask, predictions: Predictions, quantity: str, scored: _Scored, *, n: int, task: str
) -> LayerProfile:
    values, draws = torch.from_numpy(scored.values), torch.from_numpy(scored.draws)
    layers = probed.data.layers
    places = [layers.index(layer) for layer in predictions.layers]
    ends = None
    if len(draws) > 1:
        units = len(np.unique(predictions.sentences))
        ends = torch.stack(score_interval(values, draws, rows=units, scale="share_of_labels")).numpy()
    penalties: dict[Layer, float] = dict(zip(probed.fit.probes.layers, probed.fit.probes.penalties, strict=True))
    place: dict[str, Any] = {"layers": layers, "task": task, "reading": predictions.reading, "seed": probed.seed}
    return LayerProfile(
        quantity=quantity,
        unit="F1" if quantity.startswith("tag_f1") else "share of entities",
        estimates=Estimates(
            _spread(scored.values, places, len(layers)),
            n,
            null=None if scored.null is None else _spread(scored.null, places, len(layers)),
            note="the score is undefined, or the layer is constant",
            interval=None if ends is None else _spread(ends, places, len(layers)),
            interval_over="sentences",
        ),
        probe=probed.settings.name,
        penalties=tuple(penalties.get(layer) for layer in layers),
        **place,
    )


def _spread(values: np.ndarray, places: list[int], layers: int) -> np.ndarray:
    """Values of some layers, the last axis, over all layers; NaN at the others."""
    spread = np.full((*values.shape[:-1], layers), np.nan)
    spread[..., places] = values
    return spread
