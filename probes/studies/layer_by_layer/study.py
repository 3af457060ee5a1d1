"""Where does multi-task tuning happen? Control models, the experimental model and their base, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from probes.activations import ExtractionSettings
from probes.backbones import FrozenBackbone
from probes.callbacks import MatrixAnalysis
from probes.report import RunLogger, layer_table, learning_table, print_screen, write_results
from probes.studies.layer_by_layer.comparison import GAIN, Comparison, SimilarityMeasure
from probes.studies.layer_by_layer.figures import MapSettings, report_figures
from probes.studies.layer_by_layer.mixture import MixtureSettings, mark_unseen, watched_rows, with_answers
from probes.studies.layer_by_layer.models import ModelTuner, ReadModels, check_models, read_models, tune_models
from probes.studies.layer_by_layer.probes import RoleProbes, learning_results, probe_roles, score_matrices
from probes.studies.run_context import Provenance
from probes.studies.suite_activations import described, facts_of, labels_of_test_rows
from probes.tasks import Suite
from probes.training import ProbeSettings, TrainerFactory
from probes.tuning import TuningSettings
from probes.values import SPLITS, Result

BASE, EXPERIMENTAL = "base", "experimental"
STAGES = ("tune", "read")


def layer_by_layer_study(
    *,
    backbone: Callable[[], FrozenBackbone],
    suite: Callable[[], Suite],
    extraction: ExtractionSettings,
    probe: ProbeSettings,
    tuning: TuningSettings,
    trainer: TrainerFactory,
    callbacks: Callable[..., MatrixAnalysis],
    logger: RunLogger,
    seed: int,
    cache_dir: Path,
    output_dir: Path,
    config: Mapping[str, Any],
    name: str = "layer_by_layer",
    mixture: MixtureSettings | None = None,
    maps: MapSettings | None = None,
    similarity: Mapping[str, SimilarityMeasure] | None = None,
    similarity_rows: int = 400,
    similarity_every: int = 1,
    with_probes: bool = True,
    only_models: Sequence[str] | None = None,
    stop_after: str | None = None,
) -> float:
    """Tune a control model a task and one on the mixture, read all of them once, and compare them layer by layer.

    Every tuned model and every activation is kept by its content, so a stage whose result exists is passed over, an
    interrupted one goes on, and jobs of a sweep can share the tuning out (`only_models`).

    Args:
        backbone: Loads the base model.
        suite: Loads and checks tasks with answers in words.
        extraction: Poolings, sites, lengths; the same for all models.
        probe: Architecture and training of the probes on base and experimental model.
        tuning: How models are tuned.
        trainer: Makes Lightning trainers, of tuned models and of probes.
        callbacks: Makes the analysis of base and experimental model, which also reports everything.
        logger: Where numbers are logged besides files.
        seed: Decides tuning and probes; never the data.
        cache_dir: Weights and activations are kept under it.
        output_dir: Everything the run leaves.
        config: The whole config, for the record.
        name: Stands in `results.csv`.
        mixture: How the experimental model is made, and which controls are tuned again with other seeds; default
            `MixtureSettings()`.
        maps: Which layers are drawn in the plane; default `MapSettings()`.
        similarity: Other measures the tuning gain is also computed by.
        similarity_rows: Rows of a task that these see at most.
        similarity_every: They are computed at every so many layers.
        with_probes: Also probe base and experimental model on the tasks with labels.
        only_models: Tune only these models, by task name or `mixture`, and stop.
        stop_after: Stop after this stage, `tune` or `read`.

    Returns:
        Mean tuning gain over layers and seen tasks; NaN where the study stopped before.

    Raises:
        ValueError: A task has no answers or no training rows; or what the rooms raise on bad input.
    """
    _check_choices(stop_after)
    mixture = mixture or MixtureSettings()
    provenance = Provenance(output_dir / "provenance.json")
    with provenance.stage("tasks"):
        loaded = mark_unseen(with_answers(suite()), mixture.unseen)
        check_models(loaded, only_models)
    with logger.run(config, output_dir):
        with provenance.stage("backbone"):
            base = backbone()
        analysis = callbacks(live=watched_rows(base, loaded))
        tuner = ModelTuner(base, loaded, tuning, trainer, extraction, seed, cache_dir, watchers=[analysis])
        with provenance.stage("tune"):
            models = tune_models(tuner, mixture, only=only_models)
        common = Result(study=name, backbone=base.name, suite=loaded.name)
        describe = partial(described, common=common, suite=loaded)
        results = [describe(result) for result in learning_results(models, seed=seed)]
        write_results(results, output_dir / "results.csv")
        provenance.record({"tuned_models": models.facts()})
        print_screen(learning_table(results))
        if only_models is not None or stop_after == "tune":
            return math.nan
        with provenance.stage("read"):
            read = read_models(tuner, models, splits=SPLITS if with_probes else ("test",))
            provenance.record(facts_of(loaded, read.base) | read.passes())
        if stop_after == "read":
            return math.nan
        sides = {BASE: read.base, EXPERIMENTAL: read.experimental}
        comparisons = [
            Comparison(loaded, reading, layers, similarity or {}, similarity_rows, similarity_every)
            for reading, layers in read.base.layers.items()
        ]
        for comparison in comparisons:
            with provenance.stage("compare"):
                _compare(comparison, read, analysis)
                results += [describe(result) for result in comparison.agreement()]
        if with_probes:
            with provenance.stage("probes"):
                found = probe_roles(loaded, sides, probe, trainer, seed)
                results += map(describe, found.results)
                _add_probes(analysis, found)
        with provenance.stage("report"):
            matrices = score_matrices(results)
            report = analysis.finish(output_dir, logger=logger, results=results, matrices=matrices, describe=describe)
            pictures = report_figures(
                output_dir, comparisons[0], sides, analysis.table, maps or MapSettings(), logger=logger
            )
    print_screen(layer_table(report.results, GAIN), f"picture: {pictures[0]}", f"everything: {output_dir}")
    return _mean_gain(report.results, loaded)


def _check_choices(stop_after: str | None) -> None:
    if stop_after is not None and stop_after not in STAGES:
        raise ValueError(
            f"There is no stage '{stop_after}' to stop after. Set `study.stop_after` to {' or '.join(STAGES)}, or null."
        )


def _compare(comparison: Comparison, read: ReadModels, analysis: MatrixAnalysis) -> None:
    for task in comparison.suite.tasks:
        models = read.task(task, comparison.reading)
        comparison.add(task.name, models)
        labels = labels_of_test_rows(task)
        for role, rows in ((BASE, models.base), (EXPERIMENTAL, models.experimental)):
            same = rows.row_ids == read.base.rows(task, "test", comparison.reading).row_ids
            analysis.add_rows(task.name, rows, labels if same else None, role=role)
    for column in comparison.with_groups():
        analysis.table.add(column)


def _add_probes(analysis: MatrixAnalysis, found: RoleProbes) -> None:
    for column in found.scores:
        analysis.table.add(column, reported=False)
    for column in found.gains:
        analysis.table.add(column)


def _mean_gain(results: Sequence[Result], suite: Suite) -> float:
    seen = {task.name for task in suite.tasks if not task.unseen}
    gains = [result.value for result in results if result.metric == GAIN and result.task in seen]
    return float(np.nanmean(gains)) if np.isfinite(gains).any() else math.nan
