"""Does it help to read all tokens of a text? Probes of tokens beside probes of pooled vectors, layer by layer."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.activations import ExtractionSettings
from probes.analysis import LayerAnalysis, result_rows
from probes.architectures import AttentionProbe, MultiMaxProbe, reads_tokens
from probes.backbones import FrozenBackbone
from probes.files import file_name
from probes.metrics import LARGER_IS_BETTER, MAIN_METRIC
from probes.progress import tracked
from probes.report import (
    WeighedText,
    layer_table,
    path_lines,
    print_screen,
    report_findings,
    report_token_weights,
    write_report,
    write_results,
)
from probes.studies.probe import with_labels
from probes.studies.run_context import RunContext
from probes.studies.suite_activations import facts_of, groups_of, names_of, read_suite
from probes.tasks import Suite, Task
from probes.token_values import TokenActivations, token_mode
from probes.trainers import TrainerFactory
from probes.training import LabelledActivations, ProbeSettings, TaskData, TaskProbes, fit_task
from probes.values import POOLINGS, SPLITS, Activations, Estimates, LayerProfile, Reading

_log = logging.getLogger(__name__)

GAIN = "gain_over_pooled"
AT_BEST = "at_best_layer"


def _attentive() -> dict[str, ProbeSettings]:
    options: dict[str, Any] = {"penalties": (0.0, 0.001, 0.01, 0.1, 1.0), "learning_rate": 0.003, "batch_size": 32}
    return {
        "attention": ProbeSettings(name="attention", architecture=AttentionProbe, **options),
        "multi_max": ProbeSettings(name="multi_max", architecture=MultiMaxProbe, **options),
    }


@dataclass(frozen=True, kw_only=True)
class ReadersStudy:
    """Probes that read all tokens, compared with probes of pooled vectors on the same rows.

    Attributes:
        name: Names the study in `results.csv`.
        attentive: Probes that read all tokens, by the name of their reader.
        poolings: What the probes of `probe` read: `last`, `first`, `mean`, `max`, or several joined by `+`, whose
            vectors are concatenated.
        texts_drawn: Number of test texts of each task whose attention weights are drawn.

    Raises:
        ValueError: A pooling is unknown, there is none, or a probe of `attentive` reads one vector.
    """

    name: str = "readers"
    attentive: Mapping[str, ProbeSettings] = field(default_factory=_attentive)
    poolings: Sequence[str] = ("last", "mean", "last+mean")
    texts_drawn: int = 3

    def __post_init__(self) -> None:
        unknown = [part for pooling in self.poolings for part in pooling.split("+") if part not in POOLINGS]
        if unknown or not self.poolings:
            raise ValueError(
                f"`study.poolings` must be some of {', '.join(POOLINGS)}, or several joined by +; got "
                f"{list(self.poolings)}."
            )
        pooled = [name for name, settings in self.attentive.items() if not reads_tokens(settings.architecture)]
        if pooled:
            raise ValueError(f"`study.attentive.{pooled[0]}` must be a probe that reads tokens, such as `attention`.")

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
        """Read every token once, train all probes of each task, and compare them.

        Args:
            context: Logger, seed, folders, config.
            backbone: Loads the backbone.
            suite: Loads and checks the tasks.
            extraction: Sites and lengths; all tokens are read. Attention weights are drawn at the first site.
            probe: Probes of pooled vectors.
            trainer: Makes the Lightning trainer of each fit.
            analysis: Holds all findings; its measures are not taken.

        Returns:
            Mean over tasks of the first attentive probe's gain over the best pooled one at the first site, both at the
            layers that validation rows chose.

        Raises:
            ValueError: No task has labels, or the tasks are about words.
        """
        with context.stage("tasks"):
            loaded_suite = of_texts(with_labels(suite()))
        with context.logged():
            with context.stage("backbone"):
                loaded = backbone()
            with context.stage("activations"):
                settings = replace(extraction, tokens=extraction.tokens or "subwords", pooling="last")
                activations = read_suite(loaded_suite, loaded, settings, context.cache_dir)
            context.provenance.record(facts_of(loaded_suite, activations))
            names = names_of(self.name, loaded_suite, activations.backbone)
            readings = [reading for reading in activations.layers if token_mode(reading) is not None]
            places = [(reading, task) for reading in readings for task in loaded_suite.tasks]
            gains = []
            for reading, task in tracked(places, "tasks read", total=len(places)):
                with context.stage("probes"):
                    tokens = {split: activations.tokens(task, split, reading) for split in SPLITS}
                    fits = self._fits(task, tokens, probe, trainer, context.seed)
                found = list(reader_profiles(fits, pooled=self.poolings))
                analysis.table.add(found)
                if reading == readings[0]:
                    gains += [p.estimates.values[0] for p in found if p.quantity == f"{AT_BEST}/{GAIN}"][:1]
                    self._draw(task, tokens["test"], fits, loaded, context)
                write_results(result_rows(analysis.table.profiles, names), context.output_dir / "results.csv")
            del loaded
            with context.stage("report"):
                report = report_findings(context.output_dir, analysis.finish(), names=names, logger=context.logger)
                objective = context.log_objective(float(np.mean(gains)) if gains else math.nan)
        page = write_report(context.output_dir)
        rows = [row for row in report.results if row.split == "test" and not row.control and row.role in self.attentive]
        lines = path_lines(report=page, picture=report.heatmaps[0], everything=context.output_dir)
        print_screen(layer_table([row for row in rows if row.role == next(iter(self.attentive))], GAIN), *lines)
        return objective

    def _fits(
        self,
        task: Task,
        tokens: Mapping[str, TokenActivations],
        probe: ProbeSettings,
        trainer: TrainerFactory,
        seed: int,
    ) -> dict[str, TaskProbes]:
        """The probes of every reader; all refit on no halves of the training rows, so that their errors are paired."""
        fits = {}
        for pooling in self.poolings:
            pooled = {split: pooled_tokens(of_split, pooling) for split, of_split in tokens.items()}
            fits[pooling] = fit_task(_data(task, pooled), replace(probe, training_sets=0), trainer, seed)
        for name, settings in self.attentive.items():
            fits[name] = fit_task(_data(task, tokens), replace(settings, training_sets=0), trainer, seed)
        return fits

    def _draw(
        self,
        task: Task,
        tokens: TokenActivations,
        fits: Mapping[str, TaskProbes],
        backbone: FrozenBackbone,
        context: RunContext,
    ) -> None:
        """Weights of the first test texts, by the first attentive probe that has any, at its best layer."""
        for name in self.attentive:
            best = fits[name].best_layers
            if best is None or self.texts_drawn == 0 or not hasattr(_architecture(fits[name]), "weights"):
                continue
            texts = list(weighed_texts(task, tokens, fits[name], backbone, count=self.texts_drawn))
            title = f"{name}, task {task.name}, layer {best.layer} (chosen on validation)"
            report_token_weights(
                context.output_dir, texts, name=file_name(task.name), title=title, logger=context.logger
            )
            return


def of_texts(suite: Suite) -> Suite:
    """The tasks whose rows are texts.

    Raises:
        ValueError: There is none.
    """
    tasks = tuple(task for task in suite.tasks if not task.of_words)
    if not tasks:
        raise ValueError(f"All tasks of suite '{suite.name}' are about words; `study=readers` needs tasks of texts.")
    return Suite(suite.name, tasks)


def pooled_tokens(tokens: TokenActivations, pooling: str) -> Activations:
    """One vector for each text: of its last or first token, the mean or the maximum of all, or several end to end.

    Args:
        tokens: Vectors of all tokens.
        pooling: Such as `mean` or `last+mean`.
    """
    values = torch.cat([_pooled(tokens, part) for part in pooling.split("+")], dim=-1)
    return Activations(values, tokens.layers, tokens.row_ids, replace(tokens.reading, pooling=pooling))


def _pooled(tokens: TokenActivations, pooling: str) -> Tensor:
    if pooling == "last":
        return tokens.values[:, tokens.offsets[1:] - 1]
    if pooling == "first":
        return tokens.values[:, tokens.offsets[:-1]]
    texts = tokens.values.split(tokens.lengths.tolist(), dim=1)
    return torch.stack([text.mean(1) if pooling == "mean" else text.amax(1) for text in texts], dim=1)


def reader_profiles(fits: Mapping[str, TaskProbes], *, pooled: Sequence[str]) -> Iterator[LayerProfile]:
    """Main scores of every reader, and the gain of each attentive one over the best pooled one.

    At each layer, the best pooled reader is the one with the best validation score there. `at_best_layer/…` are single
    numbers: of each reader the test score at the layer that its validation score chose, and for gains the best pooled
    reader at its best layer. Gains are paired over test rows.

    Args:
        fits: Reader → its probes; all trained, chosen and scored on the same rows.
        pooled: The readers of pooled vectors.
    """
    first = next(iter(fits.values()))
    metric = MAIN_METRIC[first.probes.kind]
    for reader, fit in fits.items():
        for profile in fit.profiles:
            if profile.metric == metric and (profile.control != "majority" or reader == pooled[0]):
                yield _of_reader(profile, reader, first.probes.reading)
    test = {reader: fit.profile(metric) for reader, fit in fits.items()}
    validation = {reader: _validation(fit, metric) for reader, fit in fits.items()}
    best_pooled = np.array(pooled)[np.stack([np.nan_to_num(validation[r], nan=-np.inf) for r in pooled]).argmax(0)]
    layers = np.arange(len(best_pooled))
    best = {reader: int(np.argmax(np.nan_to_num(validation[reader], nan=-np.inf))) for reader in fits}
    chosen = max(pooled, key=lambda reader: np.nan_to_num(validation[reader][best[reader]], nan=-np.inf))
    for reader in fits:
        yield _single(test[reader], reader, test[reader].quantity, _at(test[reader].estimates, best[reader]), first)
    for reader in [reader for reader in fits if reader not in pooled]:
        others = [test[str(name)].estimates for name in best_pooled]
        baseline = replace(
            others[0],
            values=np.array([other.values[i] for i, other in zip(layers, others, strict=True)]),
            errors=_stacked([other.errors for other in others]),
        )
        remarks = tuple(f"over {name}" for name in best_pooled)
        gain = _gain(test[reader].estimates, baseline, remarks)
        yield replace(_of_reader(test[reader], reader, first.probes.reading), quantity=GAIN, estimates=gain, probe="",
                      unit=f"difference of {metric}", penalties=())  # fmt: skip
        at_best = _gain(
            _at(test[reader].estimates, best[reader]), _at(test[chosen].estimates, best[chosen]), (f"over {chosen}",)
        )
        yield _single(test[reader], reader, GAIN, at_best, first)


def _validation(fit: TaskProbes, metric: str) -> np.ndarray:
    values = fit.profile(metric, split="validation").estimates.values
    return values if LARGER_IS_BETTER[metric] else -values


def _of_reader(profile: LayerProfile, reader: str, reading: Reading) -> LayerProfile:
    """A profile under the reader's name, all under one reading, so that readers stand side by side."""
    return replace(profile, role=reader, reading=replace(reading, pooling="tokens"))


def _single(like: LayerProfile, reader: str, quantity: str, estimates: Estimates, first: TaskProbes) -> LayerProfile:
    profile = _of_reader(like, reader, first.probes.reading)
    return replace(
        profile,
        quantity=f"{AT_BEST}/{quantity.removeprefix('probe/')}",
        layers=(None,),
        estimates=estimates,
        penalties=(),
        unit=like.unit if quantity != GAIN else f"difference of {like.metric}",
    )


def _at(estimates: Estimates, place: int) -> Estimates:
    """The estimate at one layer, as one number."""
    here = [place]
    return Estimates(
        estimates.values[here],
        estimates.n,
        errors=None if estimates.errors is None else estimates.errors[:, here],
        interval=None if estimates.interval is None else estimates.interval[:, here],
        interval_over=estimates.interval_over,
        note=estimates.note,
        freedom=estimates.freedom,
    )


def _gain(ours: Estimates, theirs: Estimates, remarks: tuple[str, ...]) -> Estimates:
    values, errors = ours.values - theirs.values, None
    if ours.errors is not None and theirs.errors is not None and ours.errors.shape == theirs.errors.shape:
        errors = ours.errors - theirs.errors
    null = None if errors is None else np.zeros((1, len(values)))
    return Estimates(
        values, ours.n, errors=errors, null=null, alternative="two-sided", interval_over="rows", remarks=remarks,
        note="constant layer: no probe to compare", freedom=ours.freedom,
    )  # fmt: skip


def _stacked(errors: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Column i of the i-th errors; `None` where any is missing or they have different numbers of resamples."""
    known = [of_reader for of_reader in errors if of_reader is not None]
    if len(known) < len(errors) or len({len(of_reader) for of_reader in known}) != 1:
        return None
    return np.stack([of_reader[:, i] for i, of_reader in enumerate(known)], axis=1)


def _data(task: Task, of_splits: Mapping[str, Activations] | Mapping[str, TokenActivations]) -> TaskData:
    assert task.kind not in {"generation", "trees"}  # `with_labels` leaves these out
    splits = {
        split: LabelledActivations(of_split, torch.tensor(task.splits[split].labels))
        for split, of_split in of_splits.items()
    }
    data = TaskData(task=task.name, kind=task.kind, labels=task.labels, ordered=task.ordered, **splits)  # pyright: ignore[reportArgumentType]
    return replace(data, **groups_of(task))


def weighed_texts(
    task: Task, tokens: TokenActivations, fit: TaskProbes, backbone: FrozenBackbone, *, count: int
) -> Iterator[WeighedText]:
    """The first test texts with the weights of their tokens at the layer that validation chose."""
    best, probes = fit.best_layers, fit.probes
    assert best is not None
    assert probes.bank is not None
    assert probes.standardiser is not None
    place = probes.probed_layers.index(best.layer)
    probe: Any = probes.bank.probe_at(place)
    standardiser = probes.standardiser[torch.tensor([place])]
    split = task.splits["test"]
    prompts = split.prompts[:count]
    pieces = [_pieces(tokens, row, prompt, backbone) for row, prompt in enumerate(prompts)]
    for row, text in enumerate(pieces):
        values = tokens.of_text(row)[[probes.layers.index(best.layer)]]
        with torch.no_grad():
            x = standardiser(values)
            mask = torch.ones(1, x.shape[1], dtype=torch.bool)
            weights, logits = probe.weights(x, mask)[0].numpy(), probe(x, mask)[0]
        title = f"label: {split.targets[row]}"
        if fit.probes.kind == "classification":
            title += f", predicted: {task.labels[int(logits.argmax())]}"
        yield WeighedText(text, weights, title)


def _pieces(tokens: TokenActivations, row: int, prompt: str, backbone: FrozenBackbone) -> tuple[str, ...]:
    """What each vector of a text stands for; numbers where that is not known."""
    count = int(tokens.lengths[row])
    if token_mode(tokens.reading) == "subwords":
        ids = backbone.tokenize([prompt], max_length=None).ids[0][-count:]
        return tuple(backbone.tokenizer.wrapped.decode([int(i)]) for i in ids)
    positions = tokens.positions[int(tokens.offsets[row]) : int(tokens.offsets[row + 1])].tolist()
    return tuple(str(position + 1) for position in positions)


def _architecture(fit: TaskProbes) -> object:
    """The class of a fit's probes."""
    architecture = fit.probes.architecture
    return getattr(architecture, "func", architecture)
