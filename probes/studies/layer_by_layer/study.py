"""Where does multi-task tuning happen? Control models, the experimental model and their base, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from probes.activations import ExtractionSettings
from probes.analysis import LayerAnalysis, result_rows
from probes.analysis.between_tasks.tuning_gain import paired_difference
from probes.backbones import FrozenBackbone
from probes.callbacks import MatrixAnalysis
from probes.metrics import MAIN_METRIC
from probes.progress import tracked
from probes.report import (
    layer_table,
    learning_table,
    path_lines,
    print_screen,
    report_findings,
    report_model_patching,
    write_report,
    write_results,
)
from probes.studies.layer_by_layer.comparison import GAIN, Comparison, SimilarityMeasure
from probes.studies.layer_by_layer.figures import MapSettings, report_figures
from probes.studies.layer_by_layer.job_graph import BASE, split_replicate
from probes.studies.layer_by_layer.mixture import MixtureSettings, mark_unseen, watched_rows, with_answers
from probes.studies.layer_by_layer.model_patching import ModelPatching, ModelPatchingSettings
from probes.studies.layer_by_layer.models import (
    ModelTuner,
    ReadModels,
    answer_profiles,
    check_models,
    read_models,
    read_only,
    tune_models,
)
from probes.studies.run_context import RunContext
from probes.studies.suite_activations import (
    SuiteActivations,
    facts_of,
    labels_of_test_rows,
    names_of,
    refuse_words,
    task_data,
)
from probes.tasks import Suite
from probes.trainers import TrainerFactory
from probes.training import ProbeSettings, fit_task
from probes.training.scoring import class_of_few_rows
from probes.tuning import TuningSettings
from probes.values import SPLITS, LayerProfile, Result

EXPERIMENTAL = "experimental"
STAGES = ("tune", "read")


@dataclass(frozen=True, kw_only=True)
class LayerByLayerStudy:
    """The study of Zhao, Ziser and Cohen 2024 (arXiv:2410.20008), with uncertainty.

    A control model is tuned on each task and an experimental model on the mixture; all are read once and compared layer
    by layer. Every tuned model and every activation is kept by its content, so a stage whose result exists is skipped,
    an interrupted one is resumed, and the jobs of a sweep can divide the work among them (`only_models`); `probes
    submit` does so.

    Attributes:
        name: Names the study in `results.csv`.
        mixture: How the experimental model is made, and which controls are tuned again with other seeds.
        maps: Which layers are drawn in the plane.
        similarity: Other measures that the tuning gain is also computed with.
        similarity_rows: Rows of a task that these use at most.
        similarity_every: They are computed at every so many layers.
        with_probes: Also probe base and experimental model on the tasks with labels.
        patch_models: Also patch activations of tuned models into the base and back: where does the gain enter?
        patching: What is patched then.
        only_models: Tune only these models, by task name or `mixture`, and stop; with `stop_after="read"` read them as
            well. A name means the models of all seeds, and with `:0`, `:1` … one of them; `base` is read alone.
        stop_after: Stop after this stage, `tune` or `read`.

    Raises:
        ValueError: A number is out of its range, or the base alone is named and not read.
    """

    name: str = "layer_by_layer"
    mixture: MixtureSettings = field(default_factory=MixtureSettings)
    maps: MapSettings = field(default_factory=MapSettings)
    similarity: Mapping[str, SimilarityMeasure] = field(default_factory=dict)
    similarity_rows: int = 200
    similarity_every: int = 4
    with_probes: bool = True
    patch_models: bool = False
    patching: ModelPatchingSettings = field(default_factory=ModelPatchingSettings)
    only_models: Sequence[str] | None = None
    stop_after: str | None = None

    def __post_init__(self) -> None:
        for key, least in {"similarity_rows": 2, "similarity_every": 1}.items():
            if getattr(self, key) < least:
                raise ValueError(f"`study.{key}` must be at least {least}; got {getattr(self, key)}.")
        only = {split_replicate(model)[0] for model in self.only_models or ()}
        if only == {BASE} and self.stop_after != "read":
            raise ValueError(
                f"`study.only_models` names the base alone, which is read and not tuned; got {self.stop_after} in "
                "`study.stop_after`. Set it to read."
            )

    def run(
        self,
        context: RunContext,
        *,
        backbone: Callable[[], FrozenBackbone],
        suite: Callable[[], Suite],
        extraction: ExtractionSettings,
        probe: ProbeSettings,
        tuning: TuningSettings,
        trainer: TrainerFactory,
        analysis: LayerAnalysis,
        callbacks: Callable[..., MatrixAnalysis],
    ) -> float:
        """Tune all models, read their activations, compare them layer by layer.

        Args:
            context: Logger, seed, folders, config.
            backbone: Loads the base model.
            suite: Loads and checks tasks with answers in words.
            extraction: Poolings, sites, lengths; the same for all models.
            probe: Architecture and training of the probes on base and experimental model.
            tuning: How models are tuned.
            trainer: Makes Lightning trainers, of tuned models and of probes.
            analysis: Measures base and experimental model, and holds all findings.
            callbacks: Makes the callback that decides when the model being tuned is measured.

        Returns:
            Mean tuning gain over layers and seen tasks; NaN where the study stopped before.

        Raises:
            ValueError: `stop_after` names no stage, a task has no answers or no training rows, or the packages it
                passes through refuse their input.
        """
        if self.stop_after is not None and self.stop_after not in STAGES:
            raise ValueError(
                f"There is no stage '{self.stop_after}' to stop after. Set `study.stop_after` to "
                f"{' or '.join(STAGES)}, or null."
            )
        with context.stage("tasks"):
            whole = suite()
            refuse_words(whole, "layer_by_layer")
            loaded = mark_unseen(with_answers(whole), self.mixture.unseen)
            check_models(loaded, self.mixture, self.only_models)
        with context.logged():
            with context.stage("backbone"):
                base = backbone()
            callback = callbacks(analysis, live=watched_rows(base, loaded))
            tuner = ModelTuner(
                base, loaded, tuning, trainer, extraction, context.seed, context.cache_dir, callbacks=[callback]
            )
            with context.stage("tune"):
                models = tune_models(tuner, self.mixture, only=self.only_models)
            names = names_of(self.name, loaded, base.name)
            answers = answer_profiles(models, seed=context.seed)
            analysis.table.add(answers)
            results = result_rows(answers, names)
            write_results(results, context.output_dir / "results.csv")
            context.provenance.record({"tuned_models": models.facts()})
            print_screen(learning_table(results))
            splits = SPLITS if self.with_probes else ("test",)
            if self.only_models is not None and self.stop_after == "read":
                with context.stage("read"):
                    read_only(tuner, models, only=self.only_models, splits=splits)
            if self.only_models is not None or self.stop_after == "tune":
                return math.nan
            with context.stage("read"):
                read = read_models(tuner, models, splits=splits)
                context.provenance.record(facts_of(loaded, read.base) | read.passes())
            if self.stop_after == "read":
                return math.nan
            sides = {BASE: read.base, EXPERIMENTAL: read.experimental[0]}
            with context.stage("compare"):
                comparisons = self._compare(loaded, read, analysis)
            if self.with_probes:
                with context.stage("probes"):
                    analysis.table.add(_probe_roles(loaded, sides, probe, trainer, context.seed))
            if self.patch_models:
                with context.stage("patch"):
                    analysis.table.add(ModelPatching(tuner, models, self.patching).profiles())
            with context.stage("report"):
                findings = analysis.finish()
                report = report_findings(context.output_dir, findings, names=names, logger=context.logger)
                pictures = report_figures(
                    context.output_dir, comparisons[0], sides, findings, self.maps, logger=context.logger
                )
                report_model_patching(context.output_dir, findings.profiles, logger=context.logger)
                objective = context.log_objective(_mean_gain(report.results, loaded))
        page = write_report(context.output_dir)
        lines = path_lines(report=page, picture=pictures[0], everything=context.output_dir)
        print_screen(layer_table(report.results, GAIN), *lines)
        return objective

    def _compare(self, suite: Suite, read: ReadModels, analysis: LayerAnalysis) -> list[Comparison]:
        """Compare the models of every task under every reading, and put the profiles into the analysis' table."""
        comparisons = []
        for reading, layers in read.base.layers.items():
            comparison = Comparison(
                suite, reading, layers, self.similarity, max_rows=self.similarity_rows, every=self.similarity_every
            )
            for task in tracked(suite.tasks, "tasks compared", total=len(suite.tasks)):
                models = read.task(task, reading)
                comparison.add(task.name, models)
                labels = labels_of_test_rows(task)
                for role, rows in ((BASE, models.base), (EXPERIMENTAL, models.experimental[0])):
                    complete = rows.row_ids == read.base.rows(task, "test", reading).row_ids
                    analysis.add(task.name, rows, labels if complete else None, role=role)
            analysis.table.add(comparison.profiles())
            comparisons.append(comparison)
        return comparisons


def _probe_roles(
    suite: Suite,
    roles: Mapping[str, SuiteActivations],
    probe: ProbeSettings,
    trainer: TrainerFactory,
    seed: int,
) -> Iterator[LayerProfile]:
    """Train probes on two models' activations of the tasks with labels.

    Args:
        suite: The tasks; those without labels are left out.
        roles: Role → its activations of all splits; two of them, the second compared with the first.
        probe: How probes are trained.
        trainer: Makes the trainers.
        seed: Decides folds, controls and resamples, the same for all roles.

    Yields:
        Each task's scores in both roles, then `probe_gain/<main metric>`: second role less first, errors paired.
    """
    first = next(iter(roles.values()))
    tasks = [task for task in suite.tasks if task.has_probes]
    places = [(reading, task) for reading in first.layers for task in tasks]
    for reading, task in tracked(places, "tasks probed", total=len(places)):
        scores, rarest = [], ""
        for role, activations in roles.items():
            data = task_data(task, activations, reading, max_train_bytes=probe.max_train_bytes)
            rarest = class_of_few_rows(data.test.targets, data.labels) if data.kind == "classification" else ""
            fit = fit_task(data, probe, trainer, seed)
            yield from (replace(profile, role=role) for profile in fit.profiles)
            scores.append(fit.profile(MAIN_METRIC[data.kind]))
        before, after = scores
        if before.estimates.errors is not None:
            gain = paired_difference(after.estimates, before.estimates)
            if rarest:
                gain = replace(gain, errors=None, note=f"no interval: {rarest}")
            quantity = f"probe_gain/{before.metric}"
            yield LayerProfile(
                quantity=quantity,
                unit=before.unit,
                task=task.name,
                reading=reading,
                layers=before.layers,
                estimates=gain,
            )


def _mean_gain(results: Sequence[Result], suite: Suite) -> float:
    seen = {task.name for task in suite.tasks if not task.unseen}
    gains = [result.value for result in results if result.metric == GAIN and result.task in seen]
    return float(np.nanmean(gains)) if np.isfinite(gains).any() else math.nan
