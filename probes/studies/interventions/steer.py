"""Which layer steers best? Directions of each class are added at layer after layer, and the model answers again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from probes.activations import ExtractionSettings
from probes.analysis import LayerAnalysis, result_rows
from probes.backbones import FrozenBackbone
from probes.metrics import MAIN_METRIC
from probes.progress import tracked
from probes.report import (
    layer_table,
    path_lines,
    print_screen,
    report_decodable_and_used,
    report_dose_response,
    report_findings,
    write_report,
    write_results,
)
from probes.studies.interventions.answered import (
    AnsweredTask,
    answer_profiles,
    answered_suite,
    mean_of_largest,
    read_model,
)
from probes.studies.interventions.steering import SteeringSettings, TaskSteering, steering_profiles
from probes.studies.run_context import RunContext
from probes.studies.suite_activations import task_data
from probes.tasks import Suite
from probes.trainers import TrainerFactory
from probes.training import ProbeSettings, fit_task
from probes.values import BestLayers


@dataclass(frozen=True, kw_only=True)
class SteerStudy:
    """Dose–response of a model's answers to directions of probes, mean differences and discriminants, layer by layer.

    Attributes:
        name: Names the study in `results.csv`.
        steering: What is added, and where.
    """

    name: str = "steer"
    steering: SteeringSettings = field(default_factory=SteeringSettings)

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
        """Probe every layer, steer at some of them, and score the model's answers again.

        Args:
            context: Logger, seed, folders, config.
            backbone: Loads a causal language model.
            suite: Loads and checks the tasks, whose labels are the answers to their prompts.
            extraction: How probes are given the activations; the stream's last token has to be among them.
            probe: Architecture and training of the probes.
            trainer: Makes Lightning trainers.
            analysis: Holds all findings.

        Returns:
            Largest steering beyond random directions over layers, by the first direction, mean over tasks, nats.

        Raises:
            ValueError: No task has classes, the model has no language-model head, or other bad input.
        """
        with context.stage("tasks"):
            loaded = answered_suite(suite())
        with context.logged():
            model = read_model(context, self.name, loaded, backbone, extraction, every=self.steering.every)
            lm, layers, read, reading, names = model.lm, model.layers, model.read, model.reading, model.names
            best: dict[str, BestLayers] = {}
            steering: TaskSteering | None = None
            found: dict[int, dict[str, np.ndarray]] = {}
            places = [(task, layer) for task in loaded.tasks for layer in layers]
            for task, layer in tracked(places, "layers steered", total=len(places)):
                if layer == layers[0]:
                    with context.stage("probes"):
                        fit = fit_task(task_data(task, read, reading), probe, trainer, context.seed)
                    analysis.table.add(fit.profiles)
                    if fit.best_layers is not None:
                        best[task.name] = fit.best_layers
                    answered = AnsweredTask.of(task, lm.backbone, tokens_per_batch=self.steering.tokens_per_batch)
                    steering = TaskSteering(lm, answered, fit.probes, self.steering, model.kept, context.seed)
                    found = {}
                assert steering is not None
                with context.stage("steering"):
                    found[layer] = steering.at(layer)
                if layer != layers[-1]:
                    continue
                unedited = steering.unedited()
                analysis.table.add(answer_profiles(steering.answered, unedited["test"], unedited["content_free"]))
                analysis.table.add(steering_profiles(steering, found, reading))
                write_results(result_rows(analysis.table.profiles, names), context.output_dir / "results.csv")
            with context.stage("report"):
                report = report_findings(
                    context.output_dir, analysis.finish(), names=names, logger=context.logger, best_layers=best
                )
                first = f"steering_beyond_random/{self.steering.directions[0]}"
                report_decodable_and_used(
                    context.output_dir,
                    analysis.table.group(f"probe/{MAIN_METRIC['classification']}", reading),
                    analysis.table.group(first, reading),
                    logger=context.logger,
                    name="decodable_and_steered",
                )
                picture = report_dose_response(context.output_dir, report.results, logger=context.logger)
                objective = context.log_objective(mean_of_largest(analysis.table.group(first, reading)))
        page = write_report(context.output_dir)
        lines = path_lines(report=page, picture=picture, everything=context.output_dir)
        print_screen(layer_table(report.results, first), *lines)
        return objective
