"""Which layers hold the trees of sentences, decoded by probes or without labels?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from probes.activations import ExtractionSettings
from probes.analysis import LayerAnalysis
from probes.backbones import FrozenBackbone
from probes.metrics.tree_scores import spanning_trees
from probes.metrics.trees import Tree
from probes.report import (
    DrawnTree,
    layer_table,
    path_lines,
    print_screen,
    report_findings,
    report_trees,
    write_report,
)
from probes.studies.run_context import RunContext
from probes.studies.suite_activations import SuiteActivations, facts_of, names_of, read_suite
from probes.studies.trees.induced import AttentionTrees, activation_profiles, attention_profiles
from probes.tasks import Suite, Task
from probes.tasks.words.sentence import Sentence
from probes.token_values import token_mode
from probes.trainers import TrainerFactory
from probes.training import RaggedRows, with_unit_size
from probes.training.tree_probes.fit_trees import TreeFit, TreeProbeSettings, fit_tree_probe
from probes.training.tree_probes.tree_data import ParsedSentences, TreeData
from probes.training.tree_probes.tree_profiles import TreeScorer, probe_profiles
from probes.values import SPLITS, BestLayers, Layer, LayerProfile, Reading

_MAIN = ("trees/uuas", "trees/root_accuracy", "trees/span_f1")
"""The score by which the best layer of a method is chosen: the first of these that it has."""
_DISTANCE = "distance probe"
_MOST_WORDS_DRAWN = 16


@dataclass(frozen=True, kw_only=True)
class TreesStudy:
    """Structural probes of every layer, beside trees from activations and attention without labels, and baselines.

    Attributes:
        name: Names the study in `results.csv`.
        probes: How probes are trained and scored.
        normalise: Whether each word's vector is divided by its root mean square, as blocks do before they read the
            residual stream. Without it, the huge first words of many decoders decide how features are standardised.
        attention: Whether trees are also found from attention, which takes a second pass over validation and test
            sentences.
        sentences_drawn: Number of test sentences whose gold and predicted trees are drawn; 0: none.
    """

    name: str = "trees"
    probes: TreeProbeSettings = field(default_factory=TreeProbeSettings)
    normalise: bool = True
    attention: bool = True
    sentences_drawn: int = 4

    def run(
        self,
        context: RunContext,
        *,
        backbone: Callable[[], FrozenBackbone],
        suite: Callable[[], Suite],
        extraction: ExtractionSettings,
        trainer: TrainerFactory,
        analysis: LayerAnalysis,
    ) -> float:
        """Read every word once, find the trees in every way, and leave tables, figures and provenance.

        Args:
            context: Logger, seed, folders, config.
            backbone: Loads the backbone.
            suite: Loads the treebank.
            extraction: How words become vectors.
            trainer: Makes the Lightning trainer of each kind and rank of probes.
            analysis: Holds all findings; its measures are not taken, which compare rows of one vector.

        Returns:
            Attachment of the distance probe (or the main score of the first kind of probe) on validation sentences at
            its best layer there.

        Raises:
            ValueError: The suite has no trees, or a split no sentence all of whose words have a vector.
        """
        with context.stage("tasks"):
            loaded_suite = with_trees(suite())
        with context.logged():
            with context.stage("backbone"):
                loaded = backbone()
            with context.stage("activations"):
                settings = replace(extraction, tokens="words", pooling=None)
                activations = read_suite(loaded_suite, loaded, settings, context.cache_dir)
                readable = activations.readable(loaded_suite)
            context.provenance.record(facts_of(loaded_suite, activations))
            names = names_of(self.name, loaded_suite, activations.backbone)
            (task,) = readable.tasks
            readings = activations.readings(task)
            best: dict[str, BestLayers] = {}
            drawn: list[DrawnTree] = []
            for reading in readings:
                with context.stage("probes"):
                    data = tree_data(task, activations, reading, normalise=self.normalise)
                    fits = [self._fit(kind, data, trainer, context.seed) for kind in self.probes.kinds]
                with context.stage("scores"):
                    found = [*self._profiles(data, fits, loaded, task, extraction, context.seed)]
                    analysis.table.add(found)
                if reading == readings[0]:
                    best = best_layers(found, sentences=len(data.validation))
                    drawn = self._drawn(task, data, fits, best)
            del loaded
            with context.stage("report"):
                report = report_findings(
                    context.output_dir, analysis.finish(), names=names, logger=context.logger, best_layers=best
                )
                if drawn:
                    title = f"Distance probe of layer {best[_DISTANCE].layer}, chosen on validation sentences"
                    report_trees(context.output_dir, drawn, title=title, logger=context.logger)
                objective = context.log_objective(next(iter(best.values())).score if best else math.nan)
        page = write_report(context.output_dir)
        lines = path_lines(report=page, picture=report.heatmaps[0], everything=context.output_dir)
        rows = [row for row in report.results if row.split == "test" and not row.control]
        shown = [metric for metric in _MAIN if any(row.metric == metric for row in rows)]
        print_screen(*(layer_table(rows, metric) for metric in shown), *lines)
        return objective

    def _fit(self, kind: str, data: TreeData, trainer: TrainerFactory, seed: int) -> TreeFit:
        return fit_tree_probe(kind, data, self.probes, trainer, seed)

    def _profiles(
        self,
        data: TreeData,
        fits: Sequence[TreeFit],
        backbone: FrozenBackbone,
        task: Task,
        extraction: ExtractionSettings,
        seed: int,
    ) -> Iterator[LayerProfile]:
        """Scores on test sentences, and on validation sentences those by which layers are chosen."""
        test = TreeScorer(data.layers, data.reading, self.probes.bootstrap_samples, self.probes.permutations, seed)
        validation = replace(test, samples=0, permutations=0, split="validation")
        for scorer in (test, validation):
            for fit in fits:
                yield from probe_profiles(fit, scorer)
            yield from activation_profiles(data, scorer)
            yield from scorer.baselines(getattr(data, scorer.split).trees)
        if self.attention:
            maps = {
                split: AttentionTrees.of(backbone, sentences_of(task, split), extraction.max_length)
                for split in ("validation", "test")
            }
            for scorer in (test, validation):
                yield from attention_profiles(
                    maps["validation"], maps[scorer.split], validation_trees=data.validation.trees,
                    test_trees=getattr(data, scorer.split).trees, scorer=scorer,
                )  # fmt: skip

    def _drawn(
        self, task: Task, data: TreeData, fits: Sequence[TreeFit], best: Mapping[str, BestLayers]
    ) -> list[DrawnTree]:
        """Trees of the first test sentences that are not long, predicted at the distance probe's best layer."""
        if _DISTANCE not in best:
            return []
        fit = next(fit for fit in fits if fit.kind == "distance")
        place = fit.live.index(data.layers.index(best[_DISTANCE].layer))
        sentences = sentences_of(task, "test")
        short = [i for i, sentence in enumerate(sentences) if 3 < len(sentence) <= _MOST_WORDS_DRAWN]
        drawn = []
        for i in short[: self.sentences_drawn]:
            tree = data.test.trees[i]
            (joined,) = spanning_trees([fit.predicted["test"][i][[place], 0]], [tree])
            drawn.append(_drawn_tree(sentences[i], tree, joined[0]))
        return drawn


def with_trees(suite: Suite) -> Suite:
    """The suite's task of trees alone.

    Raises:
        ValueError: It has none.
    """
    tasks = tuple(task for task in suite.tasks if task.kind == "trees")
    if not tasks:
        raise ValueError(
            f"Suite '{suite.name}' has no trees: its tasks are {', '.join(task.name for task in suite.tasks)}. Set "
            "`suite` to treebank or conllu, and `suite.tasks` to null or [trees]."
        )
    return Suite(suite.name, tasks)


def sentences_of(task: Task, split: str) -> list[Sentence]:
    """The sentences of a task of trees, row by row."""
    words = task.splits[split].words
    assert words is not None
    return [words.sentences[i] for i in words.sentence.tolist()]


def tree_of(sentence: Sentence) -> Tree:
    """The dependency tree of a sentence; punctuation does not count.

    Raises:
        ValueError: The heads form no tree; the message has the sentence.
    """
    counted = tuple(tag != "PUNCT" for tag in sentence.upos) if sentence.upos else (True,) * len(sentence)
    try:
        return Tree(tuple(head - 1 for head in sentence.heads), counted)
    except ValueError as error:
        raise ValueError(f"Sentence {sentence.name or sentence.text!r}: {error}") from error


def tree_data(task: Task, activations: SuiteActivations, reading: Reading, *, normalise: bool) -> TreeData:
    """Vectors and trees of all splits.

    Args:
        task: The task of trees, without sentences of which a word has no vector.
        activations: The suite's.
        reading: A reading of words.
        normalise: Whether each vector is divided by its root mean square; a vector of zeros stays as it is.
    """
    assert token_mode(reading) == "words"
    splits = {}
    for split in SPLITS:
        tokens = activations.tokens(task, split, reading)
        trees = tuple(tree_of(sentence) for sentence in sentences_of(task, split))
        values = with_unit_size(tokens.values) if normalise else tokens.values
        splits[split] = ParsedSentences(RaggedRows(values, tokens.lengths), trees)
    return TreeData(activations.layers[reading], reading, **splits)


def best_layers(profiles: Sequence[LayerProfile], *, sentences: int) -> dict[str, BestLayers]:
    """The layer of each method with the best main score on validation sentences."""
    best: dict[str, BestLayers] = {}
    for quantity in _MAIN:
        for profile in profiles:
            chosen = (profile.quantity, profile.split, profile.control) == (quantity, "validation", "")
            if not chosen or profile.task in best or not np.isfinite(profile.estimates.values).any():
                continue
            place = int(np.nanargmax(profile.estimates.values))
            layer: Layer | None = profile.layers[place]
            assert layer is not None
            score = float(profile.estimates.values[place])
            best[profile.task] = BestLayers(profile.task, layer, None, profile.metric, score, sentences)
    return best


def _drawn_tree(sentence: Sentence, tree: Tree, joined: np.ndarray) -> DrawnTree:
    """A sentence with the edges between the words that count."""
    places = tree.places
    predicted = [(int(places[i]), int(places[j])) for i, j in np.argwhere(np.triu(joined))]
    gold = [(int(places[i]), int(places[j])) for i, j in tree.edges]
    return DrawnTree(sentence.words, tuple(gold), tuple(predicted), root=tree.root)
