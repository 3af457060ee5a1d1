"""From a suite and a backbone to the activations of every row: tokens, one forward pass, rows by id."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probes.activations import (
    ActivationStore,
    Certificate,
    ExtractionSettings,
    PassReport,
    certified,
    fill_stores,
    open_stores,
    row_ids,
)
from probes.backbones import ReadableBackbone, TokenizedTexts
from probes.tasks import Suite, Task
from probes.training import LabelledActivations, TaskData
from probes.values import SPLITS, Activations, Layer, Reading, RunNames

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SuiteActivations:
    """The activations of a suite's rows in one backbone, read from the store when asked for.

    Attributes:
        backbone: The backbone's name.
        fingerprint: Its identity by content.
        layers: Names of the layers of each reading.
        report: What the pass computed.
        num_cut: Rows whose beginning was cut off, by task.
        certificate: How well the backbone's passes agreed on a few of the texts; `None` if this was never checked.
        token_counts: Number of tokens of each row, by task and split.
    """

    backbone: str
    fingerprint: str
    layers: Mapping[Reading, tuple[Layer, ...]]
    report: PassReport
    num_cut: Mapping[str, int]
    certificate: Certificate | None
    token_counts: Mapping[tuple[str, str], Sequence[int]]
    _stores: Mapping[Reading, ActivationStore]
    _text_ids: Mapping[tuple[str, str], Sequence[str]]

    def rows(self, task: Task, split: str, reading: Reading) -> Activations:
        """Activations of one split of a task, rows in the task's order; their ids are the same for every backbone."""
        values = self._stores[reading].read(self._text_ids[task.name, split], self.layers[reading])
        rows = task.splits[split]
        names = row_ids(task.name, split, rows.prompts, rows.labels)
        return Activations(values, self.layers[reading], names, reading)


def read_suite(
    suite: Suite,
    backbone: ReadableBackbone,
    settings: ExtractionSettings,
    cache_dir: Path,
    *,
    splits: Sequence[str] = SPLITS,
) -> SuiteActivations:
    """Tokenize every row of a suite and run the backbone on the texts that are not in the store yet.

    Args:
        suite: The tasks.
        backbone: What reads them.
        settings: Poolings, sites, lengths.
        cache_dir: Activations are kept under it.
        splits: Which splits are read.

    Raises:
        ValueError: A text has no tokens, an unknown pooling or site, NaN activations, or passes of the backbone
            disagree on a few of the texts.
        OSError: The disk is full.
    """
    stores = open_stores(backbone, settings, cache_dir / "activations")
    tokenized: dict[tuple[str, str], TokenizedTexts] = {}
    for task in suite.tasks:
        for name, split in task.splits.items():
            if name not in splits:
                continue
            try:
                tokenized[task.name, name] = backbone.tokenize(split.prompts, max_length=settings.max_length)
            except ValueError as error:
                raise ValueError(f"Task '{task.name}', split '{name}': {error}") from error
    num_cut = {
        task.name: sum(texts.num_cut for (name, _), texts in tokenized.items() if name == task.name)
        for task in suite.tasks
    }
    _report_cuts(num_cut, tokenized, settings.max_length or backbone.tokenizer.max_length)
    texts = _together(tokenized.values())
    certificate = certified(backbone, texts, stores)
    report = fill_stores(backbone, texts, stores, settings)
    return SuiteActivations(
        backbone=backbone.name,
        fingerprint=next(iter(stores.values())).fingerprint,
        layers={reading: backbone.layers(reading.stack, site=reading.site) for reading in stores},
        report=report,
        num_cut=num_cut,
        certificate=certificate,
        token_counts={key: tuple(map(len, texts.ids)) for key, texts in tokenized.items()},
        _stores=stores,
        _text_ids={key: texts.text_ids for key, texts in tokenized.items()},
    )


def matching_test_rows(
    read: SuiteActivations, suite: Suite, *, like: SuiteActivations
) -> Callable[[str, Reading], Activations]:
    """How to find a task's test rows in another backbone: by the reading in the same position.

    Two backbones read with the same settings may have different stacks and default poolings, but they have the same
    number of readings.
    """
    tasks = {task.name: task for task in suite.tasks}
    readings = dict(zip(like.layers, read.layers, strict=True))
    return lambda task, reading: read.rows(tasks[task], "test", readings[reading])


def task_data(task: Task, activations: SuiteActivations, reading: Reading) -> TaskData:
    """A task's activations and labels of all splits, ready for probes."""
    assert task.kind != "generation"  # studies leave these out
    splits = {
        split: LabelledActivations(activations.rows(task, split, reading), torch.tensor(task.splits[split].labels))
        for split in ("train", "validation", "test")
    }
    return TaskData(task=task.name, kind=task.kind, labels=task.labels, ordered=task.ordered, **splits)


def labels_of_test_rows(task: Task) -> Tensor | None:
    """Labels of a task's test rows as measures expect them: int64 classes, else float; `None` without labels."""
    if task.kind == "generation":
        return None
    labels = torch.tensor(task.splits["test"].labels)
    return labels if task.kind == "classification" else labels.float()


def names_of(study: str, suite: Suite, backbone: str, reference: str = "") -> RunNames:
    """What all rows of a study's results share."""
    clusters = {task.name: task.cluster for task in suite.tasks}
    return RunNames(study=study, backbone=backbone, reference=reference, suite=suite.name, clusters=clusters)


def facts_of(suite: Suite, activations: SuiteActivations) -> dict[str, Any]:
    """What `provenance.json` records of a suite read by a backbone."""
    report = activations.report
    return {
        "backbone": activations.backbone,
        "backbone_fingerprint": activations.fingerprint,
        "suite": suite.name,
        "tasks": {task.name: {split: len(rows) for split, rows in task.splits.items()} for task in suite.tasks},
        "rows_cut": {task.name: activations.num_cut[task.name] for task in suite.tasks},
        "texts": report.texts,
        "texts_computed": report.texts_computed,
        "tokens_computed": report.tokens_computed,
        "forward_passes": report.forward_passes,
        "certificate": None if activations.certificate is None else asdict(activations.certificate),
    }


def _together(parts: Iterable[TokenizedTexts]) -> TokenizedTexts:
    parts = list(parts)
    return TokenizedTexts(
        ids=tuple(ids for part in parts for ids in part.ids),
        text_ids=tuple(text for part in parts for text in part.text_ids),
        num_cut=sum(part.num_cut for part in parts),
        num_tokens_cut=sum(part.num_tokens_cut for part in parts),
    )


def _report_cuts(num_cut: Mapping[str, int], tokenized: Mapping[tuple[str, str], TokenizedTexts], limit: int) -> None:
    for task, cut in num_cut.items():
        if cut:
            lost = sum(texts.num_tokens_cut for (name, _), texts in tokenized.items() if name == task)
            _log.warning(
                "Task '%s': %d rows are longer than %d tokens and lost their beginning, %d tokens together.",
                task,
                cut,
                limit,
                lost,
            )
