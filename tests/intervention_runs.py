"""Runs of the studies of interventions on the toy model."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from logged_objectives import with_logged_objective
from toy_language_model import toy_backbone, toy_suite

from probes.activations import ExtractionSettings
from probes.analysis import LayerAnalysis
from probes.report import FilesOnly
from probes.studies import RunContext
from probes.trainers import default_trainer
from probes.training import ProbeSettings
from probes.values import Result

PROBE = ProbeSettings(penalties=(0.01,), min_validation_rows=40, bootstrap_samples=50, permutations=20, training_sets=0)


def run_on_toy(study: Any, folder: Path, *, cache: Path | None = None, **parts: Any) -> float:
    context = RunContext.of(logger=FilesOnly(), seed=0, cache_dir=cache or folder / "cache", output_dir=folder / "out")
    given = {"backbone": toy_backbone, "suite": toy_suite, "extraction": ExtractionSettings(), "probe": PROBE}
    given |= {"trainer": default_trainer, "analysis": LayerAnalysis(), **parts}
    wanted = inspect.signature(study.run).parameters
    return with_logged_objective(
        lambda: study.run(context, **{name: part for name, part in given.items() if name in wanted})
    )


def cells(results: list[Result], metric: str, *, control: str = "") -> dict:
    """The test rows of a quantity by layer and task."""
    wanted = (metric, "test", control)
    return {(row.layer, row.task): row for row in results if (row.metric, row.split, row.control) == wanted}
