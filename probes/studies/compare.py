"""How similar are two backbones, layer by layer, on the texts of each task? No probe, no training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch import Tensor

from probes.activations import ExtractionSettings
from probes.analysis import LayerAnalysis, cka_pairs, join_rows
from probes.analysis.streaming import streamed_cka_pairs
from probes.backbones import FrozenBackbone
from probes.progress import tracked
from probes.report import layer_table, path_lines, print_screen, report_findings, report_layer_by_layer, write_report
from probes.studies.run_context import RunContext
from probes.studies.suite_activations import (
    SuiteActivations,
    facts_of,
    labels_of_test_rows,
    matching_test_rows,
    names_of,
    read_suite,
    refuse_words,
)
from probes.tasks import Suite, Task
from probes.training import StreamedRows
from probes.values import Activations, LayerByLayer, Reading


@dataclass(frozen=True, kw_only=True)
class CompareStudy:
    """CKA of all pairs of layers of two backbones, and profiles of matched layers, on the test rows of every task.

    Attributes:
        name: Names the study in `results.csv`.
        training_rows: Whether CKA of all pairs of layers is also computed from all training rows, which stay on disk
            and are read block by block.
        max_bytes: Memory for the sums behind the latter, see `streamed_cka_pairs`.

    Raises:
        ValueError: `max_bytes` is below 1.
    """

    name: str = "compare"
    training_rows: bool = False
    max_bytes: int = 2**30

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(f"`study.max_bytes` must be at least 1; got {self.max_bytes}.")

    def run(
        self,
        context: RunContext,
        *,
        backbone: Callable[[], FrozenBackbone],
        reference_backbone: Callable[[], FrozenBackbone] | None,
        suite: Callable[[], Suite],
        extraction: ExtractionSettings,
        analysis: LayerAnalysis,
    ) -> float:
        """Read the test rows with both backbones, one after the other, and compare them.

        Args:
            context: Logger, folders, config.
            backbone: Loads the backbone whose layers are the rows.
            reference_backbone: Loads the one whose layers are the columns.
            suite: Loads and checks the tasks; labels are not needed.
            extraction: Poolings, sites, lengths, for both.
            analysis: Measures each layer against the matched layer.

        Returns:
            Mean debiased CKA of matched layers over layers and tasks; NaN if it was not among the measures.

        Raises:
            ValueError: There is no reference backbone; or bad input, as the packages it passes through say.
        """
        if reference_backbone is None:
            raise ValueError(
                "`study=compare` needs a second model: set `reference_backbone` to an option of `backbone`."
            )
        with context.stage("tasks"):
            loaded = suite()
            refuse_words(loaded, "compare")
        with context.logged():
            sides = []
            for load in (backbone, reference_backbone):
                with context.stage("backbones"):
                    model = load()
                with context.stage("activations"):
                    splits = ("train", "test") if self.training_rows else ("test",)
                    sides.append(read_suite(loaded, model, extraction, context.cache_dir, splits=splits))
                del model
            x, y = sides
            context.provenance.record({**facts_of(loaded, x), "reference": facts_of(loaded, y)})
            reference = matching_test_rows(y, loaded, like=x)
            pairs: list[LayerByLayer] = []
            places = [(reading, task) for reading in x.layers for task in loaded.tasks]
            for reading, task in tracked(places, "tasks compared", total=len(places)):
                with context.stage("analysis"):
                    rows, other = x.rows(task, "test", reading), reference(task.name, reading)
                    pairs.append(_all_pairs(task, rows, other, names=(x.backbone, y.backbone)))
                    if self.training_rows:
                        pairs.append(_of_training_rows(task, x, y, reading, other.reading, max_bytes=self.max_bytes))
                    analysis.add(task.name, rows, labels_of_test_rows(task), reference=other)
            with context.stage("report"):
                names = names_of(self.name, loaded, x.backbone, y.backbone)
                report = report_findings(context.output_dir, analysis.finish(), names=names, logger=context.logger)
                primary = next(iter(x.layers))
                pictures = report_layer_by_layer(context.output_dir, pairs, logger=context.logger, primary=primary)
                values = [result.value for result in report.results if result.metric == "reference_cka"]
                objective = context.log_objective(float(np.nanmean(values)) if np.isfinite(values).any() else math.nan)
        page = write_report(context.output_dir)
        lines = path_lines(report=page, picture=pictures[0], everything=context.output_dir)
        print_screen(layer_table(report.results, "reference_cka"), *lines)
        return objective


def _all_pairs(task: Task, x: Activations, y: Activations, *, names: tuple[str, str]) -> LayerByLayer:
    joined = join_rows(x, y)
    return LayerByLayer(
        quantity="cka",
        unit="CKA",
        task=task.name,
        x_name=names[0],
        y_name=names[1],
        x_layers=x.layers,
        y_layers=y.layers,
        values=cka_pairs(joined.x.values, joined.y.values).numpy(force=True),
        reading=x.reading,
        n=len(joined.x.row_ids),
    )


def _of_training_rows(
    task: Task, x: SuiteActivations, y: SuiteActivations, x_reading: Reading, y_reading: Reading, *, max_bytes: int
) -> LayerByLayer:
    """CKA of all pairs of layers on all training rows, of which a block is held at a time."""
    own, other = x.streamed_rows(task, "train", x_reading), y.streamed_rows(task, "train", y_reading)
    ours, theirs = (cast(StreamedRows, side.values) for side in (own, other))

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        return ((values, theirs.source.read(rows).float()) for rows, values in ours.blocks())

    return LayerByLayer(
        quantity="cka_train",
        unit="CKA",
        task=task.name,
        x_name=x.backbone,
        y_name=y.backbone,
        x_layers=own.layers,
        y_layers=other.layers,
        values=streamed_cka_pairs(blocks, max_bytes=max_bytes).numpy(),
        reading=x_reading,
        n=len(own.row_ids),
    )
