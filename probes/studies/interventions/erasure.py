"""One task's label erased at one layer after another: what erasers leave of the answers, and what random ones do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.answers import LanguageModel, Questions, sentence_questions
from probes.interventions import (
    Eraser,
    KeptArrays,
    LabelMoments,
    Streams,
    erasers_from_layer_on,
    erasing,
    inlp,
    leace,
    mean_difference,
    random_subspace,
)
from probes.interventions.streams import GROUPS, EditsOf, ErasersAt
from probes.seeds import derive_seed
from probes.studies.interventions.answered import AnsweredTask

ERASERS = ("leace", "mean_difference", "inlp")
ALONE, ONWARD = "alone", "from"
"""Erased at one layer alone, or from a layer on at all that follow."""


@dataclass(frozen=True, kw_only=True)
class ErasureSettings:
    """What is erased, and where.

    Attributes:
        erasers: Some of `leace`, `mean_difference`, `inlp`; each is compared with random subspaces of its rank.
        from_layer_on: Those that are also used at all layers from each one on.
        positions: Of which tokens of the prompt: `all`, or the `last`, where the answer is predicted.
        every: The last layer and every so many layers before it are edited.
        random_subspaces: Random subspaces for each rank.
        inlp_iterations: Classifiers of `inlp`.
        shrink: Shrink the correlations that erasers whiten with.
        collateral_rows: Test rows of each other task, and texts for perplexity, that show what else is erased; 0: none.
        tokens_per_batch: Tokens of one pass at most.

    Raises:
        ValueError: A field is out of its range.
    """

    erasers: Sequence[str] = ERASERS
    from_layer_on: Sequence[str] = ("leace",)
    positions: str = "all"
    every: int = 6
    random_subspaces: int = 4
    inlp_iterations: int = 8
    shrink: bool = True
    collateral_rows: int = 24
    tokens_per_batch: int = 1024

    def __post_init__(self) -> None:
        unknown = [name for name in (*self.erasers, *self.from_layer_on) if name not in ERASERS]
        if unknown or not self.erasers:
            raise ValueError(f"Unknown eraser {unknown}. There are {', '.join(ERASERS)}. Set `study.erasure.erasers`.")
        extra = [name for name in self.from_layer_on if name not in self.erasers]
        if extra:
            raise ValueError(f"`study.erasure.from_layer_on` names {extra}, which is not in `study.erasure.erasers`.")
        if self.positions not in GROUPS:
            raise ValueError(
                f"Unknown positions {self.positions!r}. There are {', '.join(GROUPS)}. Set `study.erasure.positions`."
            )
        least = {"every": 1, "random_subspaces": 2, "inlp_iterations": 1, "collateral_rows": 0, "tokens_per_batch": 1}
        for key, smallest in least.items():
            if getattr(self, key) < smallest:
                raise ValueError(f"`study.erasure.{key}` must be at least {smallest}; got {getattr(self, key)}.")

    def maker(self, name: str) -> Callable[[LabelMoments], Eraser]:
        """What makes an eraser from moments."""
        if name == "leace":
            return partial(leace, shrink=self.shrink)
        if name == "inlp":
            return partial(inlp, iterations=self.inlp_iterations, shrink=self.shrink)
        return mean_difference


@dataclass
class TaskErasure:
    """Erases one task's label, layer by layer in ascending order.

    Attributes:
        lm: The model.
        answered: The task.
        others: Test questions of the other tasks, for what else is erased.
        other_labels: The class of each of their rows, int64 `(rows,)`.
        settings: What is erased, and where.
        kept: Where results are kept.
        seed: Decides the random subspaces.
    """

    lm: LanguageModel
    answered: AnsweredTask
    others: Mapping[str, Questions]
    other_labels: Mapping[str, np.ndarray]
    settings: ErasureSettings
    kept: KeptArrays
    seed: int

    def __post_init__(self) -> None:
        self._streams: dict[str, Streams] = {}
        self._random: dict[tuple[int, int], list[dict[str, Eraser]]] = {}
        self.labels, self.classes = self.answered.labels("train"), len(self.answered.task.labels)

    def at(self, layer: int) -> dict[str, np.ndarray]:
        """Everything that erasing at a layer, and from it on, leads to.

        Returns:
            `alone/<eraser>` and `from/<eraser>`: log-probabilities of the options `(rows, options)`;
            `alone/random/<eraser>` and `from/random/<eraser>`: `(draws, rows, options)`, for subspaces of its rank;
            `other/<task>` and `random_other/<task>`: those of other tasks' rows under `leace` or the first eraser;
            `text` and `random_text`: log-probabilities of texts; `eraser/<eraser>/<part>`: the last token's eraser.
        """
        settings = vars(self.settings) | {"erasers": list(self.settings.erasers)}
        settings["from_layer_on"] = list(self.settings.from_layer_on)
        key = {"erase": self.answered.key, "layer": layer, "settings": settings, "seed": self.seed}
        key["others"] = {name: questions.digest for name, questions in self.others.items()}
        key["texts"] = self._texts.digest if self.settings.collateral_rows else None
        return self.kept.get(key, partial(self._compute, layer))

    def unedited(self) -> dict[str, np.ndarray]:
        """Log-probabilities without edits: `test`, `content_free`, `text`, and `other/<task>`."""
        key = {"unedited": self.answered.key, "others": {name: q.digest for name, q in self.others.items()}}
        key["texts"] = self._texts.digest if self.settings.collateral_rows else None
        return self.kept.get(key, self._answers)

    def _answers(self) -> dict[str, np.ndarray]:
        found = {"test": self.answered.test, "content_free": self.answered.content_free}
        found |= {f"other/{name}": questions for name, questions in self.others.items()}
        if self.settings.collateral_rows:
            found["text"] = self._texts
        return {name: self.lm.log_probs(questions).numpy() for name, questions in found.items()}

    def _compute(self, layer: int) -> dict[str, np.ndarray]:
        train = self._carried("train", self.answered.train, layer)
        test = self._carried("test", self.answered.test, layer)
        moments = train.moments(self.labels, self.classes, self.settings.positions)
        found: dict[str, np.ndarray] = {}
        by_rank: dict[int, np.ndarray] = {}
        for name in self.settings.erasers:
            make = self.settings.maker(name)
            erasers = {group: make(own) for group, own in moments.items()}
            rank = max(eraser.rank for eraser in erasers.values())
            found[f"{ALONE}/{name}"] = self._erased(test, {layer: erasers})
            draws = [{layer: own} for own in self._random_erasers(layer, rank, moments)]
            if rank not in by_rank:
                by_rank[rank] = np.stack([self._erased(test, own) for own in draws])
            found[f"{ALONE}/random/{name}"] = by_rank[rank]
            last = erasers["last"]
            found |= {f"eraser/{name}/{part}": value.numpy() for part, value in vars(last).items()}
            if name == self.settings.erasers[0]:
                found |= self._collateral(layer, {layer: erasers}, draws[:2])
        for name in self.settings.from_layer_on:
            erasers = erasers_from_layer_on(
                train, self.settings.maker(name), self.labels, self.classes, self.settings.positions
            )
            rank = max(eraser.rank for eraser in erasers[layer].values())
            found[f"{ONWARD}/{name}"] = self._erased(test, erasers)
            found[f"{ONWARD}/random/{name}"] = np.stack(
                [self._erased(test, own) for own in self._random_onward(train, rank)]
            )
        return found

    def _collateral(self, layer: int, erasers: ErasersAt, draws: Sequence[ErasersAt]) -> dict[str, np.ndarray]:
        found = {}
        for name, questions in self.others.items():
            streams = self._carried(f"other/{name}", questions, layer)
            found[f"other/{name}"] = self._erased(streams, erasers)
            found[f"random_other/{name}"] = np.stack([self._erased(streams, own) for own in draws])
        if self.settings.collateral_rows:
            streams = self._carried("text", self._texts, layer)
            found["text"] = streams.log_probs(_everywhere(erasers)).numpy()
            found["random_text"] = np.stack([streams.log_probs(_everywhere(own)).numpy() for own in draws])
        return found

    def _erased(self, streams: Streams, erasers: ErasersAt) -> np.ndarray:
        return streams.log_probs(erasing(erasers, self.settings.positions)).numpy()

    def _random_erasers(self, layer: int, rank: int, moments: Mapping[str, LabelMoments]) -> list[dict[str, Eraser]]:
        """Random erasers of a layer for each group of tokens; those of one rank are made once."""
        if (layer, rank) not in self._random:
            self._random[layer, rank] = [
                {
                    group: random_subspace(
                        own,
                        rank,
                        seed=derive_seed(self.seed, "random subspace", layer, rank, draw, group),
                        shrink=self.settings.shrink,
                    )
                    for group, own in moments.items()
                }
                for draw in range(self.settings.random_subspaces)
            ]
        return self._random[layer, rank]

    def _random_onward(self, train: Streams, rank: int) -> list[ErasersAt]:
        """Random erasers of all layers from one on, made from unedited streams."""
        by_layer = {}
        for layer in range(train.layer, self.lm.backbone.num_layers + 1):
            if (layer, rank) not in self._random:
                train = train.carried(layer)
                moments = train.moments(self.labels, self.classes, self.settings.positions)
            else:
                moments = {}
            by_layer[layer] = self._random_erasers(layer, rank, moments)
        return [{layer: own[draw] for layer, own in by_layer.items()} for draw in range(self.settings.random_subspaces)]

    def _carried(self, name: str, questions: Questions, layer: int) -> Streams:
        """Streams at a layer, carried on from the last one asked for."""
        streams = self._streams.get(name) or Streams.at_input(self.lm, questions)
        self._streams[name] = streams.carried(layer)
        return self._streams[name]

    @cached_property
    def _texts(self) -> Questions:
        """Some test prompts as texts whose perplexity is measured."""
        prompts = self.answered.task.splits["test"].prompts[: self.settings.collateral_rows]
        return sentence_questions(self.lm.backbone, prompts, tokens_per_batch=self.settings.tokens_per_batch)

    @property
    def text_tokens(self) -> float:
        """Tokens of these texts that are scored."""
        return float(self._texts.lengths.sum())


def _everywhere(erasers: ErasersAt) -> EditsOf:
    """Erase at every token with the eraser of earlier tokens, or of last ones where there is no other."""
    return lambda batch: [
        own.edit(layer, positions=batch.attention_mask.bool())
        for layer, by_group in erasers.items()
        if (own := by_group.get("earlier", by_group["last"])).rank > 0
    ]


def eraser_of(found: Mapping[str, Any], name: str) -> Eraser:
    """The last token's eraser that `TaskErasure.at` kept."""
    parts: dict[str, Tensor] = {
        part: torch.from_numpy(found[f"eraser/{name}/{part}"]) for part in ("directions", "read", "centre")
    }
    return Eraser(**parts)
