"""Tasks whose labels are answers in words, and what a language model answers to them before anything is edited."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.activations import ExtractionSettings
from probes.analysis.effects import effect_estimates, log_odds_of_right
from probes.answers import LanguageModel, Questions, content_free_prompt, label_questions
from probes.backbones import FrozenBackbone
from probes.backbones.fingerprint import fingerprint
from probes.files import digest_of_json
from probes.interventions import KeptArrays
from probes.studies.run_context import RunContext
from probes.studies.suite_activations import SuiteActivations, facts_of, names_of, read_suite
from probes.tasks import Suite, Task
from probes.values import LayerProfile, Reading, RunNames

_log = logging.getLogger(__name__)

ANSWERS_NATS = "nats"
MIN_ROWS_OF_A_CLASS = 2


@dataclass(frozen=True)
class AnsweredTask:
    """A task and its rows as questions to a model.

    Attributes:
        task: The task.
        train: Training prompts with one option of one token: only their hidden states matter.
        test: Test prompts with all labels as options.
        content_free: The prompt without content, with the same options.
    """

    task: Task
    train: Questions
    test: Questions
    content_free: Questions

    @classmethod
    def of(cls, task: Task, backbone: FrozenBackbone, *, tokens_per_batch: int) -> AnsweredTask:
        """Tokenize a task's prompts and labels."""
        prompts = {split: task.splits[split].prompts for split in ("train", "test")}
        free = content_free_prompt(prompts["train"])
        if free == "N/A":
            _log.warning(
                "The prompts of task '%s' share no question, so that its labels do not answer anything. Set "
                "`suite.prompt=instruction`, or `suite.template`.",
                task.name,
            )
        ids = backbone.tokenize(prompts["train"]).ids
        return cls(
            task,
            train=Questions.of(ids, [[[0]]] * len(ids), tokens_per_batch=tokens_per_batch, pad_id=backbone.pad_id),
            test=label_questions(backbone, prompts["test"], task.labels, tokens_per_batch=tokens_per_batch),
            content_free=label_questions(backbone, [free], task.labels),
        )

    def labels(self, split: str) -> Tensor:
        """Class index of each row, int64."""
        return torch.tensor(self.task.splits[split].labels)

    @cached_property
    def key(self) -> str:
        """A digest of everything in the task that decides a model's answers: its rows, and the tokens that are read."""
        rows = {split: [self.task.splits[split].prompts, self.task.splits[split].labels] for split in ("train", "test")}
        read = [questions.digest for questions in (self.train, self.test, self.content_free)]
        return digest_of_json([rows, self.task.labels, read])

    def calibrated(self, log_probs: np.ndarray, content_free: np.ndarray) -> np.ndarray:
        """Log-probabilities per token, less those after the prompt without content.

        Args:
            log_probs: Of the test rows, shape `(…, rows, options)`.
            content_free: Shape `(1, options)`.
        """
        return log_probs / self.test.lengths.numpy() - content_free / self.content_free.lengths.numpy()


@dataclass(frozen=True)
class ReadModel:
    """A language model, and a suite's activations in it.

    Attributes:
        lm: The model with its head.
        layers: The layers that are edited, ascending.
        read: Activations of the suite.
        reading: That of the stream's last token.
        names: What all rows of the results share.
        kept: Where effects are kept.
    """

    lm: LanguageModel
    layers: tuple[int, ...]
    read: SuiteActivations
    reading: Reading
    names: RunNames
    kept: KeptArrays


def read_model(
    context: RunContext,
    study: str,
    suite: Suite,
    backbone: Callable[[], FrozenBackbone],
    extraction: ExtractionSettings,
    *,
    every: int,
) -> ReadModel:
    """Load a model with its head and read the suite; arguments as in `EraseStudy.run` and `edited_layers`.

    Raises:
        ValueError: The model has no language-model head, or the stream's last token is not read.
    """
    with context.stage("backbone"):
        lm = loaded_language_model(backbone)
    layers = edited_layers(lm, every)
    with context.stage("activations"):
        read = read_suite(suite, lm.backbone, extraction, context.cache_dir)
    context.provenance.record(facts_of(suite, read))
    names = names_of(study, suite, lm.backbone.name)
    return ReadModel(lm, layers, read, last_token_reading(read), names, kept_arrays(lm, context.cache_dir))


def answered_suite(suite: Suite) -> Suite:
    """The classification tasks, whose labels are options; the others are named once in the log.

    Raises:
        ValueError: None is left, or a class of a task has fewer than two test rows.
    """
    kept = tuple(task for task in suite.tasks if task.kind == "classification")
    left_out = [task.name for task in suite.tasks if task.kind != "classification"]
    if left_out:
        _log.info("%d tasks are left out, as their labels are not classes: %s.", len(left_out), ", ".join(left_out))
    if not kept:
        raise ValueError(
            f"Suite '{suite.name}' has no classification task, and answers are compared between labels. Set `suite`."
        )
    for task in kept:
        counts = np.bincount(task.splits["test"].labels, minlength=len(task.labels))  # pyright: ignore[reportArgumentType]
        if counts.min() < MIN_ROWS_OF_A_CLASS:
            few = task.labels[int(counts.argmin())]
            raise ValueError(
                f"Task '{task.name}' has {counts.min()} test rows of '{few}'; every label needs {MIN_ROWS_OF_A_CLASS}. "
                "Set `suite.max_rows` larger."
            )
    return Suite(suite.name, kept)


def kept_arrays(lm: LanguageModel, cache_dir: Path, **settings: Any) -> KeptArrays:
    """Where results of a model are kept, by its weights and by settings that all of them share."""
    return KeptArrays(cache_dir / "interventions", {"model": fingerprint(lm.model), **settings})


def edited_layers(lm: LanguageModel, every: int) -> tuple[int, ...]:
    """The last layer, and every so many layers before it, ascending.

    Raises:
        ValueError: `every` is below 1.
    """
    if every < 1:
        raise ValueError(f"`study.every` must be at least 1; got {every}.")
    last = lm.backbone.num_layers
    return tuple(range(last % every, last + 1, every))


def answer_profiles(answered: AnsweredTask, log_probs: np.ndarray, content_free: np.ndarray) -> list[LayerProfile]:
    """What the unedited model answers: the log-odds of the right answer, and accuracy as it is and calibrated."""
    labels = answered.labels("test").numpy()
    calibrated = answered.calibrated(log_probs, content_free)
    rows = {
        "answer/log_odds": (ANSWERS_NATS, log_odds_of_right(log_probs, labels)),
        "answer/accuracy": ("share of rows", (log_probs.argmax(-1) == labels).astype(float)),
        "answer/calibrated_accuracy": ("share of rows", (calibrated.argmax(-1) == labels).astype(float)),
    }
    chance = {"answer/log_odds": 0.0}
    return [
        LayerProfile(
            quantity=quantity,
            unit=unit,
            task=answered.task.name,
            layers=(None,),
            estimates=effect_estimates(
                values[None], labels, null=chance.get(quantity, 1 / len(answered.task.labels)), alternative="greater"
            ),
        )
        for quantity, (unit, values) in rows.items()
    ]


def loaded_language_model(backbone: Callable[[], FrozenBackbone]) -> LanguageModel:
    """Load a backbone with its head; the copy without a head is freed."""
    return LanguageModel.of(backbone())


def last_token_reading(read: SuiteActivations) -> Reading:
    """The reading of the stream's last token, which erasers of the last token are fitted to.

    Raises:
        ValueError: It is not among those that are read.
    """
    for reading in read.layers:
        if (reading.site, reading.pooling) == ("residual", "last"):
            return reading
    raise ValueError(
        f"Probes are compared with edits of the last token; got {', '.join(map(str, read.layers))}. Set "
        "`extraction.pooling=last` and `extraction.site=residual`, or add them to the lists."
    )


def mean_of_largest(profiles: Sequence[LayerProfile]) -> float:
    """Mean over tasks of the largest value over layers; NaN without tasks."""
    largest = [np.nanmax(profile.estimates.values) for profile in profiles]
    return float(np.mean(largest)) if largest else math.nan
