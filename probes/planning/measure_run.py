"""The rates of this machine for one run: its own model, texts, probes and tuning in small."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from probes.activations import ExtractionSettings
from probes.analysis import LayerAnalysis
from probes.backbones import FrozenBackbone
from probes.planning.measured import Clock, measure_passes, measure_probes, measure_tuning
from probes.planning.model_shape import ModelShape
from probes.planning.rates import Rates
from probes.planning.texts import TaskTexts
from probes.tasks import Suite
from probes.trainers import TrainerFactory
from probes.training import ProbeSettings
from probes.tuning import TuningExamples, TuningSettings

SECONDS_OF_THE_END = 5.0
"""Tables, figures and page of a small run, and the end of its process."""
SECONDS_OF_A_TASK = 0.8
"""More of these for each task."""
_STORED = 0.5e9
_NEVER = float("inf")


@dataclass(frozen=True, kw_only=True)
class RunParts:
    """What a run is made of.

    Attributes:
        backbone: The model.
        suite: Its tasks; `None` where they are not at hand.
        extraction: How texts are read.
        probe: How probes are trained; `None` where none are.
        trainer: Makes Lightning trainers.
        analysis: Measures rows without probes.
        tuning: How models are tuned; `None` where none are.
    """

    backbone: FrozenBackbone
    suite: Suite | None
    extraction: ExtractionSettings
    probe: ProbeSettings | None
    trainer: TrainerFactory
    analysis: LayerAnalysis
    tuning: TuningSettings | None


def measured_rates(
    parts: RunParts,
    shape: ModelShape,
    tasks: Sequence[TaskTexts],
    *,
    features: int,
    start: float,
    load: float,
    clock: Clock = time.perf_counter,
) -> Rates:
    """Measure the rates of a run, in seconds to a minute.

    Args:
        parts: Of the run.
        shape: Of its model, in whose operations passes are counted.
        tasks: In numbers.
        features: Of the activations that are probed.
        start: Seconds from the start of a process to the first task, as this one took.
        load: Seconds to load the model, likewise.
        clock: Tells seconds: of the wall by default; `time.process_time` where other processes disturb.
    """
    texts = _texts(parts.suite)
    forward = measure_passes(parts.backbone, shape, texts, parts.extraction, clock)
    tuning, generated = _NEVER, _NEVER
    if parts.tuning is not None and not parts.tuning.trains_nothing:
        tuning, generated, head = measure_tuning(
            parts.backbone, shape, _examples(parts.suite, texts), parts.tuning, parts.trainer, clock
        )
        load = (load + head) / 2
    fit: dict[int, float] = {}
    compare = 0.0
    with_labels = [task for task in tasks if task.classes]
    if parts.probe is not None and with_labels:
        rows = {
            split: max(1, round(median(task.prompts[split].number for task in with_labels if split in task.prompts)))
            for split in ("train", "validation", "test")
        }
        counts = sorted({max(2, task.classes) for task in with_labels})
        for classes in dict.fromkeys((counts[0], counts[len(counts) // 2], counts[-1])):
            fit[classes], compare = measure_probes(
                features, rows, classes, parts.probe, parts.trainer, parts.analysis, clock
            )
    return Rates(
        forward_flop=forward,
        tuning_flop=tuning,
        generated=generated,
        start=start,
        load=load,
        fit=fit or {2: 0.0},
        compare=compare,
        end=SECONDS_OF_THE_END + SECONDS_OF_A_TASK * len(tasks),
        stored=_STORED,
    )


def _texts(suite: Suite | None) -> list[str]:
    """All different texts of a suite; some words where it is not at hand."""
    if suite is None:
        return [f"{number} " + "words of a text " * (number % 12) for number in range(96)]
    return list(dict.fromkeys(text for task in suite.tasks for split in task.splits.values() for text in split.prompts))


def _examples(suite: Suite | None, texts: Sequence[str]) -> TuningExamples:
    """Training rows of all tasks."""
    if suite is None:
        return TuningExamples(tuple(texts), tuple("yes" for _ in texts))
    splits = [task.splits["train"] for task in suite.tasks if "train" in task.splits]
    rows = [row for split in splits for row in zip(split.prompts, split.targets, strict=True) if row[1].strip()]
    return TuningExamples(tuple(prompt for prompt, _ in rows), tuple(target for _, target in rows))
