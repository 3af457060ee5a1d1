"""What does an answer owe itself to: the input, the instruction, or the options that it names?"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from probes.analysis import LayerAnalysis, result_rows
from probes.analysis.effects import effect_estimates, log_odds_of_right, without_null
from probes.answers import LanguageModel
from probes.backbones import FrozenBackbone
from probes.interventions.attribution import (
    PARTS,
    completeness_error,
    gradient_times_input,
    integrated_gradients,
    parts_of_prompts,
    right_answer_weights,
    words_of_prompts,
)
from probes.progress import tracked
from probes.report import (
    AttributedText,
    path_lines,
    print_screen,
    report_findings,
    write_attributions,
    write_report,
    write_results,
)
from probes.studies.interventions.answered import (
    AnsweredTask,
    answer_profiles,
    answered_suite,
    kept_arrays,
    loaded_language_model,
)
from probes.studies.run_context import RunContext
from probes.studies.suite_activations import names_of
from probes.tasks import Suite
from probes.values import Estimates, LayerProfile

_log = logging.getLogger(__name__)
METHODS = ("gradient_times_input", "integrated_gradients")
_COMPLETE = 0.05
"""Integrated gradients that miss more than this share of the difference are warned about."""


@dataclass(frozen=True, kw_only=True)
class AttributeStudy:
    """Shares of the attribution of the right answer's log-odds to parts of the prompt, for one model or two.

    Attributes:
        name: Names the study in `results.csv`.
        method: `gradient_times_input` or `integrated_gradients`.
        steps: Nodes of the quadrature of integrated gradients.
        tokens_per_batch: Tokens of one pass at most.

    Raises:
        ValueError: There is no such method, or a number is out of its range.
    """

    name: str = "attribute"
    method: str = "gradient_times_input"
    steps: int = 16
    tokens_per_batch: int = 1024

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"There is no method '{self.method}'. There are {', '.join(METHODS)}. Set `study.method`.")
        for key in ("steps", "tokens_per_batch"):
            if getattr(self, key) < 1:
                raise ValueError(f"`study.{key}` must be at least 1; got {getattr(self, key)}.")

    def run(
        self,
        context: RunContext,
        *,
        backbone: Callable[[], FrozenBackbone],
        reference_backbone: Callable[[], FrozenBackbone] | None,
        suite: Callable[[], Suite],
        analysis: LayerAnalysis,
    ) -> float:
        """Attribute the answers to every test prompt.

        Args:
            context: Logger, seed, folders, config.
            backbone: Loads a causal language model.
            reference_backbone: Loads another one, such as the base of a tuned model, whose shares are subtracted.
            suite: Loads and checks the tasks, whose labels are the answers to their prompts.
            analysis: Holds all findings.

        Returns:
            Share of the instruction, mean over tasks.

        Raises:
            ValueError: No task has classes, or a model has no language-model head.
        """
        with context.stage("tasks"):
            loaded = answered_suite(suite())
        with context.logged():
            with context.stage("backbone"):
                lm = loaded_language_model(backbone)
                other = None if reference_backbone is None else loaded_language_model(reference_backbone)
            names = names_of(self.name, loaded, lm.backbone.name, "" if other is None else other.backbone.name)
            shares = []
            for task in tracked(loaded.tasks, "tasks attributed", total=len(loaded.tasks)):
                with context.stage("attribution"):
                    answered = AnsweredTask.of(task, lm.backbone, tokens_per_batch=self.tokens_per_batch)
                    own, found = self._task(lm, answered, context, "")
                    texts = attributed_texts(lm.backbone, answered, found, "")
                    analysis.table.add(own)
                    shares.append(found["instruction"].mean())
                    if other is not None:
                        answered = AnsweredTask.of(task, other.backbone, tokens_per_batch=self.tokens_per_batch)
                        theirs, base = self._task(other, answered, context, "reference")
                        texts += attributed_texts(other.backbone, answered, base, "reference")
                        analysis.table.add(theirs)
                        labels = answered.labels("test").numpy()
                        analysis.table.add(
                            _profile(task.name, f"share_difference/{part}", found[part] - base[part], labels, "")
                            for part in PARTS
                        )
                write_attributions(task.name, texts, context.output_dir / "attributions")
                write_results(result_rows(analysis.table.profiles, names), context.output_dir / "results.csv")
            with context.stage("report"):
                report_findings(context.output_dir, analysis.finish(), names=names, logger=context.logger)
                objective = context.log_objective(float(np.mean(shares)) if shares else math.nan)
        page = write_report(context.output_dir)
        print_screen(*path_lines(report=page, everything=context.output_dir))
        return objective

    def _task(
        self, lm: LanguageModel, answered: AnsweredTask, context: RunContext, role: str
    ) -> tuple[list[LayerProfile], dict[str, np.ndarray]]:
        """A task's profiles, and the share of each part in each row."""
        key = {"attributions": answered.key, "method": self.method, "steps": self.steps}
        found = kept_arrays(lm, context.cache_dir).get(key, partial(self._shares, lm, answered))
        labels = answered.labels("test").numpy()
        profiles = [_profile(answered.task.name, f"share/{part}", found[part], labels, role) for part in PARTS]
        profiles = [replace(profile, estimates=without_null(profile.estimates)) for profile in profiles]
        if "completeness_error" in found:
            profiles.append(self._completeness(answered.task.name, found["completeness_error"], role))
        own = answer_profiles(answered, found["log_probs"], found["content_free"])
        return [*profiles, *(replace(profile, role=role) for profile in own)], found

    def _completeness(self, task: str, error: np.ndarray, role: str) -> LayerProfile:
        if error[0] > _COMPLETE:
            _log.warning(
                "Integrated gradients of task '%s' miss %.0f %% of the difference that they should add up to. Set "
                "`study.steps` larger than %d.",
                task, 100 * error[0], self.steps,
            )  # fmt: skip
        return LayerProfile(
            quantity="attribution/completeness_error", unit="share of the difference", task=task, role=role,
            layers=(None,), estimates=Estimates(error, len(error)),
        )  # fmt: skip

    def _shares(self, lm: LanguageModel, answered: AnsweredTask) -> dict[str, np.ndarray]:
        method = (
            gradient_times_input
            if self.method == "gradient_times_input"
            else partial(integrated_gradients, steps=self.steps)
        )
        questions = answered.test
        weights = right_answer_weights(answered.labels("test"), questions.options)
        longest = max(batch.input_ids.shape[1] for batch in questions.batches)
        by_row = np.zeros((questions.rows, longest))
        by_batch = method(lm, questions, weights)
        for batch, found in zip(questions.batches, by_batch, strict=True):
            for row, values in zip(batch.rows.tolist(), found.double().numpy(force=True), strict=True):
                by_row[row, : len(values)] += values  # a row with several long options has several inputs
        parts = parts_of_prompts(lm.backbone, answered.task.splits["test"].prompts, answered.task.labels)
        size = np.abs(by_row)
        shares = {
            part: np.array([size[row, : len(own[part])][own[part]].sum() for row, own in enumerate(parts)])
            / np.maximum(size.sum(1), 1e-300)
            for part in PARTS
        }
        found = {"by_token": by_row, "log_probs": lm.log_probs(questions).numpy()}
        found["content_free"] = lm.log_probs(answered.content_free).numpy()
        if self.method == "integrated_gradients":
            found["completeness_error"] = np.array([completeness_error(lm, questions, weights, by_batch)])
        return {**shares, **found}


def attributed_texts(
    backbone: FrozenBackbone, answered: AnsweredTask, found: Mapping[str, np.ndarray], role: str
) -> list[AttributedText]:
    """The test prompts of a task, word by word; a word's contribution is the sum of those of its tokens.

    Args:
        backbone: Its tokenizer.
        answered: The task.
        found: `by_token`, shape `(rows, tokens)`, and `log_probs` of the options, shape `(rows, options)`.
        role: Which model.
    """
    split, labels = answered.task.splits["test"], answered.labels("test").numpy()
    log_odds = log_odds_of_right(found["log_probs"], labels)
    parts = parts_of_prompts(backbone, split.prompts, answered.task.labels)
    texts = []
    for row, words in enumerate(words_of_prompts(backbone, split.prompts)):
        part_of = {token: part for part, mask in parts[row].items() for token in np.flatnonzero(mask).tolist()}
        of_words = tuple(
            (text, part_of[int(tokens[0])], float(found["by_token"][row, tokens].sum()))
            for text, tokens in words
            if len(tokens)
        )
        texts.append(AttributedText(row, role, answered.task.labels[labels[row]], float(log_odds[row]), of_words))
    return texts


def _profile(task: str, quantity: str, values: np.ndarray, labels: np.ndarray, role: str) -> LayerProfile:
    return LayerProfile(
        quantity=f"attribution/{quantity}",
        unit="share of absolute attribution",
        task=task,
        role=role,
        layers=(None,),
        estimates=effect_estimates(values[None], labels),
    )
