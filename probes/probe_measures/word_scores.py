"""Scores that only words have: of each tag, and of entities as wholes; with intervals over sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.metrics import Predictions, bootstrap_counts, score_interval, word_majority_logits
from probes.metrics.sequences import count_entities, is_bio
from probes.probe_measures.protocol import ProbedTask
from probes.seeds import derive_seed
from probes.values import Estimates, Layer, LayerProfile


@dataclass(frozen=True, kw_only=True)
class TagScores:
    """F1 of each tag of a task of words on test rows, in a matrix of layers and tags for each task.

    Attributes:
        samples: Bootstrap resamples of the sentences behind each interval; 0 for none.
        most_tags: Tags with the most test words that are scored, so that a matrix can be read.
    """

    samples: int = 1000
    most_tags: int = 24

    def __call__(self, probed: ProbedTask) -> Iterator[LayerProfile]:
        """A profile of the quantity `tag_f1/TASK` for each tag."""
        predictions = probed.fit.predictions
        if predictions is None or predictions.groups is None or predictions.kind != "classification":
            return
        of_tag = np.bincount(predictions.targets, minlength=len(predictions.labels))
        frequent = [int(tag) for tag in np.argsort(-of_tag, kind="stable")[: self.most_tags] if of_tag[tag] > 0]
        weights = _weights(probed, predictions, self.samples)
        once = np.ones((1, len(predictions.targets)))
        for tag in sorted(frequent):
            is_predicted, is_true = predictions.predicted == tag, predictions.targets == tag

            def f1(
                counts: np.ndarray, is_predicted: np.ndarray = is_predicted, is_true: np.ndarray = is_true
            ) -> Tensor:
                right = counts @ (is_predicted & is_true).T.astype(np.float64)
                either = counts @ is_predicted.T.astype(np.float64) + (counts @ is_true.astype(np.float64))[:, None]
                return torch.from_numpy(2 * right / np.maximum(either, 1e-12))

            yield _profile(
                probed,
                predictions,
                f"tag_f1/{predictions.task}",
                (f1(once)[0], f1(weights)),
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
    """

    samples: int = 1000

    def __call__(self, probed: ProbedTask) -> Iterator[LayerProfile]:
        """Profiles of `entity_f1`, `entity_precision` and `entity_recall`."""
        predictions = probed.fit.predictions
        if predictions is None or predictions.groups is None or not is_bio(predictions.labels):
            return
        sentences, targets = predictions.sentences, predictions.targets.astype(np.int64)
        number, first = np.unique(sentences, return_index=True)
        by_word = _weights(probed, predictions, self.samples)
        weights = by_word[:, first]  # all words of a sentence have the weight of the sentence
        counts = count_entities(predictions.predicted.astype(np.int64), targets, sentences, predictions.labels)
        values, draws = counts.scores(np.ones((1, len(number)))), counts.scores(weights)
        for name, value in values.items():
            scored = torch.from_numpy(value[0]), torch.from_numpy(draws[name])
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
    return bootstrap_counts(len(predictions.targets), samples, seed=seed, groups=predictions.groups).double().numpy()


def _profile(
    probed: ProbedTask, predictions: Predictions, quantity: str, scored: tuple[Tensor, Tensor], *, n: int, task: str
) -> LayerProfile:
    values, draws = scored
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
            _spread(values.numpy(), places, len(layers)),
            n,
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
