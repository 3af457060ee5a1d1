"""At which layer would the model answer already? The logit lens and the tuned lens over layers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from probes.analysis import LayerAnalysis, result_rows
from probes.backbones import FrozenBackbone
from probes.interventions.tuned_lens import TunedLensSettings
from probes.progress import tracked
from probes.report import (
    layer_table,
    path_lines,
    print_screen,
    report_findings,
    report_lenses,
    write_report,
    write_results,
)
from probes.seeds import derive_seed
from probes.studies.interventions.answered import (
    AnsweredTask,
    answered_suite,
    edited_layers,
    kept_arrays,
    loaded_language_model,
)
from probes.studies.interventions.lensing import Lenses, held_out_profiles, lens_profiles
from probes.studies.run_context import RunContext
from probes.studies.suite_activations import names_of
from probes.tasks import Suite
from probes.values import Reading, Result

_FEWEST_TEXTS = 10
"""Of training texts."""


@dataclass(frozen=True, kw_only=True)
class LensStudy:
    """Rank and log-probability of the right answer at every layer, through the logit lens and a tuned lens.

    Attributes:
        name: Names the study in `results.csv`.
        tuned: How the tuned lens is trained; `None` for the logit lens alone.
        text_file: A file of texts, one a line, to train the tuned lens on; by default the suite's training prompts.
        every: The last layer and every so many layers before it are looked at.
        tokens_per_batch: Tokens of one pass at most.

    Raises:
        ValueError: A number is out of its range, or there is no such file.
    """

    name: str = "lens"
    tuned: TunedLensSettings | None = field(default_factory=TunedLensSettings)
    text_file: str | None = None
    every: int = 1
    tokens_per_batch: int = 1024

    def __post_init__(self) -> None:
        for key in ("every", "tokens_per_batch"):
            if getattr(self, key) < 1:
                raise ValueError(f"`study.{key}` must be at least 1; got {getattr(self, key)}.")
        if self.text_file is not None and not Path(self.text_file).expanduser().is_file():
            raise ValueError(
                f"There is no file '{self.text_file}'. Set `study.text_file` to a file of texts, one a line, or to "
                "null for the suite's training prompts."
            )

    def run(
        self,
        context: RunContext,
        *,
        backbone: Callable[[], FrozenBackbone],
        suite: Callable[[], Suite],
        analysis: LayerAnalysis,
    ) -> float:
        """Train the tuned lens, and look at the test prompts of every task through both lenses.

        Args:
            context: Logger, seed, folders, config.
            backbone: Loads a causal language model.
            suite: Loads and checks the tasks, whose labels are the answers to their prompts.
            analysis: Holds all findings.

        Returns:
            Mean over tasks of the depth, from 0 to 1, of the first layer from which on the log-odds of the right
            answer, through the last lens, are above 0 at every layer (p < 0.05); NaN if there is no such task.

        Raises:
            ValueError: No task has classes, the model has no language-model head, or it can have no tuned lens.
        """
        with context.stage("tasks"):
            whole = suite()
            loaded = answered_suite(whole)
        with context.logged():
            with context.stage("backbone"):
                lm = loaded_language_model(backbone)
            layers = edited_layers(lm, self.every)
            train, held_out = self._texts(whole, context.seed)
            kept = kept_arrays(lm, context.cache_dir)
            lenses = Lenses(lm, layers, kept, context.seed, self.tuned, train, held_out)
            names = names_of(self.name, loaded, lm.backbone.name)
            reading = Reading(lm.backbone.stacks[0], "residual", "last")
            with context.stage("tuned lens"):
                lenses.translators()
            for task in tracked(loaded.tasks, "tasks looked at", total=len(loaded.tasks)):
                with context.stage("lenses"):
                    answered = AnsweredTask.of(task, lm.backbone, tokens_per_batch=self.tokens_per_batch)
                    analysis.table.add(lens_profiles(lenses, answered, reading))
                write_results(result_rows(analysis.table.profiles, names), context.output_dir / "results.csv")
            if self.tuned is not None:
                with context.stage("held-out texts"):
                    analysis.table.add(held_out_profiles(lenses, reading))
            with context.stage("report"):
                report = report_findings(context.output_dir, analysis.finish(), names=names, logger=context.logger)
                picture = report_lenses(context.output_dir, report.results, logger=context.logger)
                quantity = f"{lenses.names[-1]}/log_odds"
                depths = _settled_depths(report.results, quantity, layers)
                objective = context.log_objective(float(np.mean(depths)) if depths else math.nan)
        page = write_report(context.output_dir)
        lines = path_lines(report=page, picture=picture, everything=context.output_dir)
        print_screen(layer_table(report.results, quantity), *lines)
        return objective

    def _texts(self, suite: Suite, seed: int) -> tuple[Sequence[str], Sequence[str]]:
        """Texts to train on and held-out ones, none in both, each in random order.

        Raises:
            ValueError: There are too few.
        """
        if self.tuned is None:
            return (), ()
        held_out = list(dict.fromkeys(text for task in suite.tasks for text in task.splits["test"].prompts))
        if self.text_file is None:
            train = [text for task in suite.tasks for text in task.splits["train"].prompts]
        else:
            train = Path(self.text_file).expanduser().read_text("utf-8").splitlines()
        measured = set(held_out)
        train = [text for text in dict.fromkeys(filter(str.strip, train)) if text not in measured]
        if len(train) < _FEWEST_TEXTS:
            raise ValueError(
                f"A tuned lens needs at least {_FEWEST_TEXTS} training texts that are no test prompts; got "
                f"{len(train)}. Set `study.text_file`, or `study.tuned=null`."
            )
        random.Random(derive_seed(seed, "training texts")).shuffle(train)
        random.Random(derive_seed(seed, "held-out texts")).shuffle(held_out)
        return train[: self.tuned.texts], held_out


def _settled_depths(results: Sequence[Result], quantity: str, layers: Sequence[int]) -> list[float]:
    """Depth, from 0 to 1, of the first layer from which on all p are below 0.05, of each task that has one."""
    by_task: dict[str, list[float | None]] = {}
    for row in results:
        if row.metric == quantity:
            by_task.setdefault(row.task, []).append(row.p)
    depths = []
    for p in by_task.values():
        settled = [place for place in range(len(p)) if all(own is not None and own < 0.05 for own in p[place:])]
        if settled:
            depths.append(layers[settled[0]] / layers[-1])
    return depths
