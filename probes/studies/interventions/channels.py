"""Which heads read what earlier heads write, by their weights alone, and what is lost without such channels?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from probes.analysis import LayerAnalysis, result_rows
from probes.answers import recall_lists, recall_questions
from probes.backbones import FrozenBackbone
from probes.backbones.heads import attention_heads
from probes.files import file_name
from probes.report import (
    layer_table,
    path_lines,
    print_screen,
    report_channel_removal,
    report_findings,
    report_layer_by_layer,
    write_report,
    write_results,
    write_task_table,
)
from probes.studies.interventions.answered import kept_arrays, loaded_language_model
from probes.studies.interventions.channel_removal import Removal, recall_profiles
from probes.studies.interventions.composing import (
    SCORES,
    channel_table,
    composed,
    composition_matrices,
    composition_profiles,
    distinct_components,
)
from probes.studies.run_context import RunContext
from probes.values import Reading, RunNames


@dataclass(frozen=True, kw_only=True)
class ChannelsStudy:
    """Composition scores of all pairs of heads from weights, and the recall of lists without the strongest channels.

    Attributes:
        name: Names the study in `results.csv`.
        top: Channels of each sort that are listed.
        remove: Strongest channels, of different components, that are removed; 0 for none.
        other_components: Random other components of the same head that each is compared with.
        recall_lists: Generated lists from which the model recalls the missing item.
        recall_items: Items of each list.
        tokens_per_batch: Tokens of one pass at most.

    Raises:
        ValueError: A field is out of its range.
    """

    name: str = "channels"
    top: int = 40
    remove: int = 5
    other_components: int = 6
    recall_lists: int = 60
    recall_items: int = 3
    tokens_per_batch: int = 1024

    def __post_init__(self) -> None:
        for key, least in {"top": 1, "remove": 0, "other_components": 2, "tokens_per_batch": 1}.items():
            if getattr(self, key) < least:
                raise ValueError(f"`study.{key}` must be at least {least}; got {getattr(self, key)}.")
        if self.remove > self.top:
            raise ValueError(
                f"`study.remove` takes channels from the `study.top` ({self.top}) that are listed; got {self.remove}. "
                "Set the one lower or the other higher."
            )
        if self.remove:
            recall_lists(self.recall_lists, items=self.recall_items, seed=0)  # refuses numbers that do not fit

    def run(self, context: RunContext, *, backbone: Callable[[], FrozenBackbone], analysis: LayerAnalysis) -> float:
        """Score all pairs of heads, list the strongest channels, and remove some of them.

        Args:
            context: Logger, seed, folders, config.
            backbone: Loads a causal language model.
            analysis: Holds all findings.

        Returns:
            Largest drop of the log-odds of the missing item beyond other components, nats; without removal, the largest
            composition score of a component.

        Raises:
            ValueError: The heads of the model's family are not known, or it has one block or no language-model head.
        """
        with context.logged():
            with context.stage("backbone"):
                lm = loaded_language_model(backbone)
                blocks = attention_heads(lm.backbone.main_stack, lm.backbone.name)
            names = RunNames(study=self.name, backbone=lm.backbone.name, suite="generated lists")
            reading = Reading(lm.backbone.stacks[0], "attention", "weights")
            with context.stage("composition"):
                found = composed(blocks, keep=self.top)
            analysis.table.add(composition_profiles(found, reading))
            for sort in SCORES:
                table = channel_table(found, sort, reading)
                write_task_table(table, context.output_dir / "tables", stem=file_name(table.task))
            write_results(result_rows(analysis.table.profiles, names), context.output_dir / "results.csv")
            removed = distinct_components(found.top["component"], self.remove)
            if removed:
                with context.stage("removal"):
                    lists = recall_lists(self.recall_lists, items=self.recall_items, seed=context.seed)
                    batches: dict[str, Any] = {"tokens_per_batch": self.tokens_per_batch}
                    questions, missing = recall_questions(lm.backbone, lists, **batches)
                    kept = kept_arrays(lm, context.cache_dir)
                    removal = Removal(
                        lm, blocks, found.written, questions, missing, kept, self.other_components, context.seed
                    )
                    analysis.table.add(recall_profiles(removal))
                    analysis.table.add(removal.profiles(removed))
            with context.stage("report"):
                report = report_findings(context.output_dir, analysis.finish(), names=names, logger=context.logger)
                matrices = composition_matrices(found, reading)
                pictures = report_layer_by_layer(context.output_dir, matrices, logger=context.logger, primary=reading)
                if removed:
                    pictures.append(report_channel_removal(context.output_dir, report.results, logger=context.logger))
                beyond = [row.value for row in report.results if row.metric == "channel_removal/beyond_others"]
                objective = float(np.nanmax(beyond)) if beyond else found.top["component"][0].score
                context.log_objective(objective)
        page = write_report(context.output_dir)
        lines = path_lines(report=page, picture=pictures[-1], everything=context.output_dir)
        print_screen(layer_table(report.results, "composition/largest_component"), *lines)
        return objective
