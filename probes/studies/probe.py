"""What can a probe decode from each layer, task by task?"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from probes.activations import ExtractionSettings
from probes.analysis import LayerAnalysis, result_rows
from probes.architectures import reads_tokens
from probes.backbones import FrozenBackbone
from probes.callbacks import MatrixAnalysis
from probes.files import file_name
from probes.metrics import MAIN_METRIC
from probes.probe_measures import ProbedTask, TaskTable
from probes.progress import tracked
from probes.report import (
    print_best_layers,
    report_findings,
    write_predictions,
    write_report,
    write_results,
    write_task_table,
)
from probes.studies.further_passes import FurtherPasses, read_with_further_passes
from probes.studies.run_context import RunContext
from probes.studies.suite_activations import (
    SuiteActivations,
    facts_of,
    matching_test_rows,
    names_of,
    read_suite,
    task_data,
)
from probes.tasks import Suite, Task
from probes.token_values import token_mode
from probes.trainers import TrainerFactory
from probes.training import ProbeSettings, TaskProbes, fit_task
from probes.values import SPLITS, LayerProfile, Reading

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ProbeStudy:
    """One bank of probes a task over all layers, with controls and intervals, beside measures that need no probe.

    Attributes:
        name: Names the study in `results.csv`.
    """

    name: str = "probe"

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
        callbacks: Callable[..., MatrixAnalysis],
        reference_backbone: Callable[[], FrozenBackbone] | None = None,
    ) -> float:
        """Read every layer once, train the probes of each task, and leave tables, figures, probes and provenance.

        Args:
            context: Logger, seed, folders, config.
            backbone: Loads the backbone; called after the suite was found to be in order.
            suite: Loads and checks the tasks.
            extraction: Poolings, sites, lengths.
            probe: Architecture and training of the probes. Those that read tokens are given all tokens of each text,
                and measures of rows and of probes, which need one vector a row, are not taken.
            trainer: Makes the Lightning trainer of one task.
            analysis: Measures the test rows of each task and holds all findings.
            callbacks: Makes the callback that decides when the trainers hand rows to the analysis.
            reference_backbone: Loads a backbone whose layers the same rows are compared with.

        Returns:
            Mean over tasks of validation macro-F1 at the validation-best layer; negative MSE for regression.

        Raises:
            ValueError: No task has labels, or a measure does not suit the tasks; or bad input, as the packages it
                passes through say.
        """
        with context.stage("tasks"):
            whole_suite = suite()
            loaded_suite = with_labels(whole_suite)
        all_tokens = reads_tokens(probe.architecture)
        if all_tokens:
            _refuse_words(loaded_suite)
            extraction = replace(extraction, tokens=extraction.tokens or "subwords")
        measures = () if all_tokens else analysis.probe_measures  # they need one vector a row
        for measure in measures:
            if hasattr(measure, "check"):
                measure.check(loaded_suite.tasks)
        with context.logged():
            with context.stage("backbone"):
                loaded = backbone()
            with context.stage("activations"):
                read = read_with_further_passes(
                    loaded_suite,
                    loaded,
                    extraction,
                    context.cache_dir,
                    measures=measures,
                    pairs=[task for task in whole_suite.tasks if task.kind == "pairs"],
                    seed=context.seed,
                )
                activations = read.activations
            del loaded
            loaded_suite = activations.readable(loaded_suite)
            context.provenance.record(facts_of(loaded_suite, activations))
            names = names_of(self.name, whole_suite, activations.backbone)
            reference = None
            if reference_backbone is not None:
                with context.stage("reference activations"):
                    other = read_suite(
                        loaded_suite, reference_backbone(), extraction, context.cache_dir, splits=("test",)
                    )
                names = names_of(self.name, whole_suite, activations.backbone, other.backbone)
                reference = matching_test_rows(other, loaded_suite, like=activations)
            callback = callbacks(analysis, reference=reference)
            with_callback = partial(trainer, callbacks=[*_callbacks_of(trainer), callback])
            fits: dict[Reading, dict[str, TaskProbes]] = {reading: {} for reading in activations.layers}
            read_as = {task.name: activations.readings(task, all_tokens=all_tokens) for task in loaded_suite.tasks}
            places = [
                (reading, task) for reading in fits for task in loaded_suite.tasks if reading in read_as[task.name]
            ]
            for reading, task in tracked(places, "tasks probed", total=len(places)):
                with context.stage("probes"):
                    data = task_data(task, activations, reading, max_train_bytes=probe.max_train_bytes)
                    fit = fit_task(data, probe, with_callback, context.seed)
                    callback.add_task(data)  # if no trainer ran, because every layer is constant
                    analysis.table.add(fit.profiles)
                with context.stage("probe measures"):
                    probed = ProbedTask(
                        task=task,
                        data=data,
                        fit=fit,
                        settings=probe,
                        trainer=trainer,
                        seed=context.seed,
                        token_counts={split: activations.token_counts(task, split) for split in SPLITS},
                        variants={} if data.streamed else read.variants_of(data, reading),
                        random_weights=None if data.streamed else read.random_weights_of(task, reading),
                        token_paths=read.token_paths_of(task, reading),
                    )
                    # they need all rows
                    found = [item for measure in measures if not data.streamed for item in measure(probed)]
                    analysis.table.add(item for item in found if isinstance(item, LayerProfile))
                fits[reading][task.name] = fit
                stem = _file_stem(task, reading, first=read_as[task.name][0])
                for table in (item for item in found if isinstance(item, TaskTable)):
                    write_task_table(table, context.output_dir / "tables", stem=stem)
                fit.save(context.output_dir / "probes" / f"{stem}.safetensors", metadata=_identity(activations))
                if fit.predictions is not None:
                    write_predictions(fit.predictions, context.output_dir / "predictions" / f"{stem}.npz")
                # After each task, so that a run that dies keeps the scores it has.
                write_results(result_rows(analysis.table.profiles, names), context.output_dir / "results.csv")
            with context.stage("probe measures"):
                analysis.table.add(_of_pairs(read, fits, measures, seed=context.seed))
            with context.stage("report"):
                primary = {task: fits[readings[0]][task] for task, readings in read_as.items()}
                best = {task: fit.best_layers for task, fit in primary.items() if fit.best_layers is not None}
                report = report_findings(
                    context.output_dir, analysis.finish(), names=names, logger=context.logger, best_layers=best
                )
                objective = context.log_objective(_mean_of_known(fit.objective for fit in primary.values()))
        page = write_report(context.output_dir)
        classes = {task.name: len(task.labels) for task in loaded_suite.tasks if task.labels}
        print_best_layers(
            report.results,
            best_layers=best,
            figure=report.heatmaps[0],
            page=page,
            output_dir=context.output_dir,
            classes=classes,
        )
        return objective


def _of_pairs(
    read: FurtherPasses,
    fits: Mapping[Reading, Mapping[str, TaskProbes]],
    measures: Iterable[Callable[..., Any]],
    *,
    seed: int,
) -> Iterator[LayerProfile]:
    """What measures say of the tasks of pairs, at every reading of texts."""
    for reading in fits:
        if token_mode(reading) is None:
            scores = [fit.profile(MAIN_METRIC[fit.probes.kind]) for fit in fits[reading].values()]
            for task in read.pairs:
                pairs = read.pairs_of(task, reading, probed=scores, seed=seed)
                for measure in measures:
                    if hasattr(measure, "of_pairs"):
                        yield from measure.of_pairs(pairs)  # pyright: ignore[reportFunctionMemberAccess]


def with_labels(suite: Suite) -> Suite:
    """The tasks that probes can be trained on; the others are named once in the log.

    Raises:
        ValueError: None is left.
    """
    without = [task.name for task in suite.tasks if not task.has_probes and task.kind != "pairs"]
    if without:
        _log.info("%d tasks have no labels and are not probed: %s.", len(without), ", ".join(without))
    tasks = tuple(task for task in suite.tasks if task.has_probes)
    if not tasks:
        raise ValueError(
            f"Suite '{suite.name}' has no task with labels: {', '.join(without) or 'it is empty'}. "
            "Probing needs classification, multi-label or regression tasks: set `suite.tasks`."
        )
    return Suite(suite.name, tasks)


def _refuse_words(suite: Suite) -> None:
    of_words = next((task.name for task in suite.tasks if task.of_words), None)
    if of_words is not None:
        raise ValueError(
            f"The rows of task '{of_words}' are words, with one vector each, and the probe reads all tokens of a text. "
            "Set `probe` to linear or mlp, or `suite` to tasks of texts."
        )


def _mean_of_known(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _callbacks_of(trainer: TrainerFactory) -> list[Any]:
    """Callbacks that `conf/trainer` names."""
    return list(getattr(trainer, "keywords", {}).get("callbacks") or [])


def _file_stem(task: Task, reading: Reading, *, first: Reading) -> str:
    """Name of a task's files without suffix: readings but the first are part of it."""
    name = file_name(task.name)
    return name if reading == first else f"{name}@{reading}"


def _identity(activations: SuiteActivations) -> dict[str, str]:
    return {"backbone": activations.backbone, "backbone_fingerprint": activations.fingerprint}
