"""What does an answer owe itself to: the input, the instruction, or the options that it names?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from probes.analysis import LayerAnalysis, result_rows
from probes.analysis.effects import effect_estimates
from probes.answers import LanguageModel
from probes.backbones import FrozenBackbone
from probes.interventions.attribution import (
    PARTS,
    gradient_times_input,
    integrated_gradients,
    parts_of_prompts,
    right_answer_weights,
)
from probes.progress import tracked
from probes.report import path_lines, print_screen, report_findings, write_report, write_results
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
from probes.values import LayerProfile

METHODS = ("gradient_times_input", "integrated_gradients")


@dataclass(frozen=True, kw_only=True)
class AttributeStudy:
    """Shares of the attribution of the right answer's log-odds to parts of the prompt, for one model or two.

    Attributes:
        name: Names the study in `results.csv`.
        method: `gradient_times_input` or `integrated_gradients`.
        steps: Nodes of the quadrature of integrated gradients.
        tokens_per_batch: Tokens of one pass at most.

    Raises:
        ValueError: There is no such method.
    """

    name: str = "attribute"
    method: str = "gradient_times_input"
    steps: int = 16
    tokens_per_batch: int = 1024

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"There is no method '{self.method}'. There are {', '.join(METHODS)}. Set `study.method`.")

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
                    own, found = self._task(
                        lm, AnsweredTask.of(task, lm.backbone, tokens_per_batch=self.tokens_per_batch), context, ""
                    )
                    analysis.table.add(own)
                    shares.append(found["instruction"].mean())
                    if other is not None:
                        answered = AnsweredTask.of(task, other.backbone, tokens_per_batch=self.tokens_per_batch)
                        theirs, base = self._task(other, answered, context, "reference")
                        analysis.table.add(theirs)
                        labels = answered.labels("test").numpy()
                        analysis.table.add(
                            _profile(task.name, f"share_difference/{part}", found[part] - base[part], labels, "")
                            for part in PARTS
                        )
                write_results(result_rows(analysis.table.profiles, names), context.output_dir / "results.csv")
            with context.stage("report"):
                report_findings(context.output_dir, analysis.finish(), names=names, logger=context.logger)
        page = write_report(context.output_dir)
        print_screen(*path_lines(report=page, everything=context.output_dir))
        return float(np.mean(shares)) if shares else math.nan

    def _task(
        self, lm: LanguageModel, answered: AnsweredTask, context: RunContext, role: str
    ) -> tuple[list[LayerProfile], dict[str, np.ndarray]]:
        """A task's profiles, and the share of each part in each row."""
        key = {"attribute": answered.key, "method": self.method, "steps": self.steps}
        found = kept_arrays(lm, context.cache_dir).get(key, partial(self._shares, lm, answered))
        labels = answered.labels("test").numpy()
        profiles = [_profile(answered.task.name, f"share/{part}", found[part], labels, role) for part in PARTS]
        own = answer_profiles(answered, found["log_probs"], found["content_free"])
        return [*profiles, *(replace(profile, role=role) for profile in own)], found

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
        for batch, found in zip(questions.batches, method(lm, questions, weights), strict=True):
            for row, values in zip(batch.rows.tolist(), found.double().numpy(force=True), strict=True):
                by_row[row, : len(values)] += values  # a row with several long options has several inputs
        parts = parts_of_prompts(lm.backbone, answered.task.splits["test"].prompts, answered.task.labels)
        size = np.abs(by_row)
        shares = {
            part: np.array([size[row, : len(own[part])][own[part]].sum() for row, own in enumerate(parts)])
            / np.maximum(size.sum(1), 1e-300)
            for part in PARTS
        }
        log_probs = lm.log_probs(questions).numpy()
        return {**shares, "log_probs": log_probs, "content_free": lm.log_probs(answered.content_free).numpy()}


def _profile(task: str, quantity: str, values: np.ndarray, labels: np.ndarray, role: str) -> LayerProfile:
    return LayerProfile(
        quantity=f"attribution/{quantity}",
        unit="share of absolute attribution",
        task=task,
        role=role,
        layers=(None,),
        estimates=effect_estimates(values[None], labels),
    )
