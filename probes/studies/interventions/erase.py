"""Decodable or used? Each task's label is erased at layer after layer, and the model answers again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from probes.activations import ExtractionSettings
from probes.analysis import LayerAnalysis, result_rows
from probes.analysis.effects import effect_estimates, log_odds_of_right
from probes.answers import Questions, label_questions
from probes.backbones import FrozenBackbone
from probes.metrics import MAIN_METRIC
from probes.progress import tracked
from probes.report import (
    layer_table,
    path_lines,
    print_screen,
    report_decodable_and_used,
    report_findings,
    write_report,
    write_results,
)
from probes.studies.interventions.answered import (
    ANSWERS_NATS,
    AnsweredTask,
    answer_profiles,
    answered_suite,
    mean_of_largest,
    read_model,
)
from probes.studies.interventions.erasure import ALONE, ONWARD, ErasureSettings, TaskErasure, eraser_of
from probes.studies.run_context import RunContext
from probes.studies.suite_activations import task_data
from probes.tasks import Suite, Task
from probes.trainers import TrainerFactory
from probes.training import LabelledActivations, ProbeSettings, TaskData, TaskProbes, fit_task
from probes.values import Estimates, LayerProfile, Reading

Found = Mapping[int, Mapping[str, np.ndarray]]
"""Layer → what `TaskErasure.at` found there."""
_EFFECTS = {ALONE: ("effect", "usedness"), ONWARD: ("effect_from", "usedness_from")}


@dataclass(frozen=True, kw_only=True)
class EraseStudy:
    """What a probe can decode at a layer, and what of the model's answer is lost when it is erased there.

    Attributes:
        name: Names the study in `results.csv`.
        erasure: What is erased, and where.
    """

    name: str = "erase"
    erasure: ErasureSettings = field(default_factory=ErasureSettings)

    def run(
        self,
        context: RunContext,
        *,
        backbone: Callable[[], FrozenBackbone],
        suite: Callable[[], Suite],
        extraction: ExtractionSettings,
        probe: ProbeSettings,
        trainer: TrainerFactory,
        analysis: LayerAnalysis,
    ) -> float:
        """Probe every layer, erase each task's label at some of them, and score the model's answers again.

        Args:
            context: Logger, seed, folders, config.
            backbone: Loads a causal language model.
            suite: Loads and checks the tasks, whose labels are the answers to their prompts.
            extraction: How probes are given the activations; of sites and poolings, the last token of the stream.
            probe: Architecture and training of the probes.
            trainer: Makes Lightning trainers.
            analysis: Holds all findings.

        Returns:
            Largest used-ness under the first eraser over layers, mean over tasks, nats.

        Raises:
            ValueError: No task has classes, the model has no language-model head, or other bad input.
        """
        with context.stage("tasks"):
            loaded = answered_suite(suite())
        with context.logged():
            model = read_model(context, self.name, loaded, backbone, extraction, every=self.erasure.every)
            lm, layers, read, reading, names = model.lm, model.layers, model.read, model.reading, model.names
            per_batch = self.erasure.tokens_per_batch
            answered = {
                task.name: AnsweredTask.of(task, lm.backbone, tokens_per_batch=per_batch) for task in loaded.tasks
            }
            places = [(task, layer) for task in loaded.tasks for layer in layers]
            found: dict[str, dict[int, dict[str, np.ndarray]]] = {}
            erasures: dict[str, TaskErasure] = {}
            for task, layer in tracked(places, "layers edited", total=len(places)):
                if task.name not in erasures:
                    others = _others(answered, task, self.erasure, lm.backbone)
                    labels = {name: answered[name].labels("test")[: q.rows].numpy() for name, q in others.items()}
                    erasures = {  # one at a time, as it holds streams
                        task.name: TaskErasure(
                            lm, answered[task.name], others, labels, self.erasure, model.kept, context.seed
                        )
                    }
                erasure = erasures[task.name]
                with context.stage("erasing"):
                    found.setdefault(task.name, {})[layer] = erasure.at(layer)
                if layer != layers[-1]:
                    continue
                with context.stage("probes"):
                    data = task_data(task, read, reading)
                    fit = fit_task(data, probe, trainer, context.seed)
                    refits = _refits(data, found[task.name], self.erasure.erasers, probe, trainer, context.seed)
                unedited = erasure.unedited()
                analysis.table.add(fit.profiles)
                analysis.table.add(answer_profiles(erasure.answered, unedited["test"], unedited["content_free"]))
                analysis.table.add(_effect_profiles(erasure, unedited, found[task.name], reading))
                analysis.table.add(refits)
                write_results(result_rows(analysis.table.profiles, names), context.output_dir / "results.csv")
            with context.stage("report"):
                report = report_findings(context.output_dir, analysis.finish(), names=names, logger=context.logger)
                first = self.erasure.erasers[0]
                used = analysis.table.group(f"usedness/{first}", reading)
                score = f"probe/{MAIN_METRIC['classification']}"
                picture = report_decodable_and_used(
                    context.output_dir,
                    analysis.table.group(score, reading),
                    used,
                    logger=context.logger,
                )
                objective = context.log_objective(mean_of_largest(used))
        page = write_report(context.output_dir)
        lines = path_lines(report=page, picture=picture, everything=context.output_dir)
        print_screen(layer_table(report.results, f"usedness/{first}"), *lines)
        return objective


def _others(
    answered: Mapping[str, AnsweredTask], task: Task, settings: ErasureSettings, backbone: FrozenBackbone
) -> dict[str, Questions]:
    """Questions of some test rows of each other task."""
    if settings.collateral_rows == 0:
        return {}
    return {
        name: label_questions(
            backbone,
            other.task.splits["test"].prompts[: settings.collateral_rows],
            other.task.labels,
            tokens_per_batch=settings.tokens_per_batch,
        )
        for name, other in answered.items()
        if name != task.name
    }


def _effect_profiles(
    erasure: TaskErasure, unedited: Mapping[str, np.ndarray], found: Found, reading: Reading
) -> Iterator[LayerProfile]:
    """Effects of each eraser on the answers, beyond those of random subspaces, and on what else the model says."""
    task, layers = erasure.answered.task.name, tuple(found)
    labels = erasure.answered.labels("test").numpy()
    free = unedited["content_free"]

    def profile(quantity: str, unit: str, estimates: Estimates) -> LayerProfile:
        return LayerProfile(
            quantity=quantity, unit=unit, task=task, reading=reading, layers=layers, estimates=estimates
        )

    def stacked(name: str) -> np.ndarray:
        return np.stack([by_name[name] for by_name in found.values()])

    def correct(log_probs: np.ndarray) -> np.ndarray:
        return (erasure.answered.calibrated(log_probs, free).argmax(-1) == labels).astype(float)

    for place, (effect, usedness) in _EFFECTS.items():
        names = erasure.settings.erasers if place == ALONE else erasure.settings.from_layer_on
        for name in names:
            edited = stacked(f"{place}/{name}")  # (layers, rows, options)
            random = np.moveaxis(stacked(f"{place}/random/{name}"), 1, 0)  # (draws, layers, rows, options)
            before = log_odds_of_right(unedited["test"], labels)
            drops, by_chance = (before - log_odds_of_right(after, labels) for after in (edited, random))
            yield profile(f"{effect}/{name}", ANSWERS_NATS, effect_estimates(drops, labels))
            beyond = effect_estimates(drops, labels, by_chance, alternative="greater")
            yield profile(f"{usedness}/{name}", ANSWERS_NATS, beyond)
            before = correct(unedited["test"])
            lost, lost_by_chance = (before - correct(after) for after in (edited, random))
            beyond = effect_estimates(lost, labels, lost_by_chance, alternative="greater")
            yield profile(f"{usedness}_accuracy/{name}", "share of rows", beyond)
    if erasure.others:
        yield profile("collateral/other_tasks", ANSWERS_NATS, _on_other_tasks(erasure, unedited, found))
    if erasure.settings.collateral_rows:
        texts = np.zeros(len(unedited["text"]), dtype=int)
        per_token = len(texts) / erasure.text_tokens  # the mean over texts of their sums becomes one over tokens
        rise, by_chance = ((unedited["text"] - stacked(name))[..., 0] * per_token for name in ("text", "random_text"))
        yield profile("collateral/text", "nats per token", effect_estimates(rise, texts))
        random = np.moveaxis(by_chance, 1, 0)
        yield profile("collateral_beyond_random/text", "nats per token", effect_estimates(rise, texts, random))


def _on_other_tasks(erasure: TaskErasure, unedited: Mapping[str, np.ndarray], found: Found) -> Estimates:
    """Drop of the log-odds of other tasks' right answers, mean over rows of all of them."""
    drops = []
    for name, labels in erasure.other_labels.items():
        before = log_odds_of_right(unedited[f"other/{name}"], labels)
        after = np.stack([by_name[f"other/{name}"] for by_name in found.values()])
        drops.append(before - log_odds_of_right(after, labels))
    rows = np.concatenate(drops, axis=1)
    tasks = np.repeat(np.arange(len(drops)), [drop.shape[1] for drop in drops])
    return effect_estimates(rows, tasks)


def _refits(
    data: TaskData,
    found: Found,
    erasers: Sequence[str],
    probe: ProbeSettings,
    trainer: TrainerFactory,
    seed: int,
) -> Iterator[LayerProfile]:
    """Scores of probes trained anew on what each eraser has left, at the edited layers."""
    settings = replace(probe, controls=0, training_sets=0)
    for name in erasers:
        splits: dict[str, Any] = {}
        for split in ("train", "validation", "test"):
            activations, targets = getattr(data, split)
            values = torch.stack(
                [
                    eraser_of(by_name, name)(activations.values[activations.layers.index(layer)])
                    for layer, by_name in found.items()
                ]
            )
            kept = replace(activations, values=values, layers=tuple(found))
            splits[split] = LabelledActivations(kept, targets)
        fit: TaskProbes = fit_task(replace(data, **splits), settings, trainer, seed)
        score = fit.profile(MAIN_METRIC[data.kind])
        yield replace(score, quantity=f"after_erasure/{name}", probe="")
