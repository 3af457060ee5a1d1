"""From a suite and a backbone to the activations of every row: tokens, one forward pass, rows by id."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from probes.activations import (
    ActivationStore,
    Certificate,
    ExtractionSettings,
    PassReport,
    certified,
    depth_of,
    fill_stores,
    names_under,
    open_stores,
    row_ids,
)
from probes.backbones import ReadableBackbone, TokenizedTexts
from probes.studies.read_texts import (
    ReadTexts,
    read_texts,
    report_words,
    rows_with_vectors,
    token_activations,
    tokens_to_read,
    vectors_of_rows,
    with_kept_rows,
)
from probes.tasks import Suite, Task
from probes.tasks.groups import groups_of_rows, values_of_group
from probes.token_values import TokenActivations, token_mode
from probes.training import LabelledActivations, StreamedRows, TaskData
from probes.values import SPLITS, Activations, Layer, Reading, RunNames

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SuiteActivations:
    """The activations of a suite's rows in one backbone, read from the store when asked for.

    Attributes:
        backbone: The backbone's name.
        fingerprint: Its identity by content.
        layers: Names of the layers of each reading.
        depths: Number of blocks of each reading's stack.
        report: What the pass computed.
        num_cut: Rows whose beginning was cut off, by task.
        certificate: How well the backbone's passes agreed on a few of the texts; `None` if this was never checked.
    """

    backbone: str
    fingerprint: str
    layers: Mapping[Reading, tuple[Layer, ...]]
    depths: Mapping[Reading, int]
    report: PassReport
    num_cut: Mapping[str, int]
    certificate: Certificate | None
    _stores: Mapping[Reading, ActivationStore]
    _texts: Mapping[tuple[str, str], ReadTexts]

    def readings(self, task: Task, *, all_tokens: bool = False) -> tuple[Reading, ...]:
        """What a task's rows are read under: readings of words for tasks of words, pooled ones for others.

        Args:
            task: The task.
            all_tokens: Whether the probes of texts read all tokens, so that readings of tokens are theirs.
        """
        wanted = task.of_words or all_tokens
        return tuple(reading for reading in self.layers if (token_mode(reading) is not None) == wanted)

    def token_counts(self, task: Task, split: str) -> tuple[int, ...]:
        """Number of tokens of each row's text; of words, that of their sentence."""
        rows, ids = task.splits[split], self._texts[task.name, split].tokenized.ids
        texts = range(len(rows)) if rows.words is None else rows.words.sentence.tolist()
        return tuple(len(ids[text]) for text in texts)

    def rows(self, task: Task, split: str, reading: Reading) -> Activations:
        """Activations of one split of a task, rows in the task's order; their ids are the same for every backbone.

        Rows of words that have no vector, because the tokenizer gives them no token or the length limit cut them off,
        are left out, as they are from `readable`.
        """
        layers, rows, texts = self.layers[reading], task.splits[split], self._texts[task.name, split]
        if rows.words is None:
            if token_mode(reading) is not None:
                raise ValueError(
                    f"Task '{task.name}' is about whole texts, and under {reading} a text has a vector for each token. "
                    "Set `extraction.tokens=null`, or use a study that reads tokens."
                )
            values = self._stores[reading].read(texts.tokenized.text_ids, layers)
            names = row_ids(task.name, split, rows.prompts, rows.labels)
            return Activations(values, layers, names, reading, self.depths[reading])
        spans = map(tuple, rows.words.spans.reshape(len(rows), -1).tolist())
        prompts = [f"{prompt}\0{span}" for prompt, span in zip(rows.prompts, spans, strict=True)]
        names = row_ids(task.name, split, prompts, rows.labels)
        kept = rows_with_vectors(rows.words, texts)
        values = vectors_of_rows(rows.words.at(kept), texts, self._vectors(task.name, split, reading))
        return Activations(values, layers, tuple(names[row] for row in kept.tolist()), reading, self.depths[reading])

    def streamed_rows(self, task: Task, split: str, reading: Reading) -> Activations:
        """As `rows`, but the values stay in the store; only for tasks of whole texts.

        Rows are read from the shards again whenever they are needed, as `StreamedRows`.
        """
        rows, texts = task.splits[split], self._texts[task.name, split].tokenized.text_ids
        layers, names = self.layers[reading], row_ids(task.name, split, rows.prompts, rows.labels)
        values = StreamedRows(StoredRows(self._stores[reading], texts, layers))
        return Activations(cast(Tensor, values), layers, names, reading, self.depths[reading])

    def bytes_of(self, task: Task, split: str, reading: Reading) -> int:
        """Memory that `rows` would take, in bytes, without reading more than one of them."""
        texts = self._texts[task.name, split].tokenized.text_ids
        one = self._stores[reading].read(texts[:1], self.layers[reading])
        return len(texts) * one.nbytes

    def tokens(self, task: Task, split: str, reading: Reading) -> TokenActivations:
        """Vectors of all words, spans or tokens of each row's text under a reading of these.

        The rows of `trees` are sentences, of which those that lack the vector of a word are left out, as they are from
        `readable`; of other tasks of words, one text a sentence comes, also of sentences without a row.
        """
        whole = self._vectors(task.name, split, reading)
        rows = task.splits[split]
        if rows.words is None:
            names = row_ids(task.name, split, rows.prompts, rows.labels)
            return replace(whole, row_ids=names)
        if task.kind != "trees":
            return whole
        kept = rows_with_vectors(rows.words, self._texts[task.name, split])
        return whole.of_texts(rows.words.sentence[kept].tolist())

    def readable(self, suite: Suite) -> Suite:
        """The suite without the rows of words that have no vector in this backbone."""
        tasks = []
        for task in suite.tasks:
            words = {split: rows.words for split, rows in task.splits.items() if (task.name, split) in self._texts}
            kept = {
                split: rows_with_vectors(of_split, self._texts[task.name, split])
                for split, of_split in words.items()
                if of_split is not None
            }
            tasks.append(with_kept_rows(task, kept))
        return Suite(suite.name, tuple(tasks))

    def words_without_vectors(self) -> dict[str, int]:
        """How many words were read, and how many have no vector, by the reason; empty where none are read."""
        read = list({id(texts): texts for texts in self._texts.values() if texts.units}.values())
        if not read:
            return {}
        return {
            "words": sum(len(units) for texts in read for units in texts.units),
            "words_without_token": sum(texts.num_without for texts in read),
            "words_cut": sum(texts.num_cut for texts in read),
        }

    def _vectors(self, task: str, split: str, reading: Reading) -> TokenActivations:
        texts, store = self._texts[task, split], self._stores[reading]
        text_names = names_under(reading, texts.tokenized)
        values, offsets = store.read_tokens(text_names, self.layers[reading])
        names = {"row_ids": row_ids("", split, text_names, text_names), "reading": reading}
        units = texts if token_mode(reading) != "subwords" else ReadTexts(texts.tokenized)
        return token_activations(units, values, offsets, layers=self.layers[reading], **names)


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
    mode = tokens_to_read(suite, settings)
    pooled = settings.pooling is not None or not all(task.of_words for task in suite.tasks)
    stores = open_stores(backbone, settings, cache_dir / "activations", pooled=pooled, tokens=mode)
    read = read_texts(suite, backbone, settings, splits)
    tokenized = {key: texts.tokenized for key, texts in read.items()}
    num_cut = {
        task.name: sum(texts.num_cut for (name, _), texts in tokenized.items() if name == task.name)
        for task in suite.tasks
    }
    _report_cuts(num_cut, tokenized, settings.max_length or backbone.tokenizer.max_length)
    report_words(read)
    texts = _together({id(texts): texts for texts in tokenized.values()}.values())
    certificate = certified(backbone, texts, stores)
    report = fill_stores(backbone, texts, stores, settings)
    return SuiteActivations(
        backbone=backbone.name,
        fingerprint=next(iter(stores.values())).fingerprint,
        layers={reading: backbone.layers(reading.stack, site=reading.site) for reading in stores},
        depths={reading: depth_of(backbone, reading) for reading in stores},
        report=report,
        num_cut=num_cut,
        certificate=certificate,
        _stores=stores,
        _texts=read,
    )


@dataclass(frozen=True)
class StoredRows:
    """Rows in the files of a store, as `probes.training.RowSource` has them.

    Attributes:
        store: The store.
        texts: The text of each row, by its name in the store.
        layers: The layers.
    """

    store: ActivationStore
    texts: tuple[str, ...]
    layers: tuple[Layer, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Layers, rows and features."""
        return len(self.layers), len(self.texts), self._features

    @cached_property
    def _features(self) -> int:
        return self.store.read(self.texts[:1], self.layers).shape[-1]

    @cached_property
    def _files(self) -> list[Tensor]:
        return [torch.tensor(rows) for rows in self.store.files_of(self.texts, self.layers)]

    def files(self) -> Iterator[Tensor]:
        """The rows of each file."""
        yield from self._files

    def read(self, rows: Tensor) -> Tensor:
        """Some rows, float32 `(layers, rows, features)`."""
        return self.store.read([self.texts[row] for row in rows.tolist()], self.layers)


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


def task_data(
    task: Task, activations: SuiteActivations, reading: Reading, *, max_train_bytes: int | None = None
) -> TaskData:
    """A task's activations and labels of all splits, ready for probes; a vector for each token of texts if so read.

    Args:
        task: The task.
        activations: Those of its suite.
        reading: What is read.
        max_train_bytes: Memory that training rows of one vector a text may take; more stay in the store. `None`: any.
    """
    assert task.kind not in ("generation", "trees", "pairs")  # studies leave these out
    read = activations.tokens if token_mode(reading) is not None and not task.of_words else activations.rows
    reads = dict.fromkeys(SPLITS, read)
    of_texts = token_mode(reading) is None and not task.of_words
    if max_train_bytes is not None and of_texts:
        needed = activations.bytes_of(task, "train", reading)
        if needed > max_train_bytes:
            reads["train"] = activations.streamed_rows
            _log.warning(
                "Task '%s': its %d training rows take %.2f GB at %d layers, and `probe.max_train_bytes` allows %.2f. "
                "They are streamed from the store; training scores and probe measures are left out.",
                task.name,
                len(task.splits["train"]),
                needed / 1e9,
                len(activations.layers[reading]),
                max_train_bytes / 1e9,
            )
    splits = {
        split: LabelledActivations(reads[split](task, split, reading), torch.tensor(task.splits[split].labels))
        for split in SPLITS
    }
    words = {split: task.splits[split].words for split in splits}
    groups = {split: torch.from_numpy(rows.sentence) for split, rows in words.items() if rows is not None}
    types = {split: rows.types for split, rows in words.items() if rows is not None}
    together = groups_of(task)
    return TaskData(
        task=task.name,
        kind=task.kind,
        labels=task.labels,
        ordered=task.ordered,
        sentences=groups or None,
        word_types=types or None,
        groups=together["groups"],
        group_values=together["group_values"],
        **splits,
    )


def groups_of(task: Task) -> dict[str, dict[str, Tensor] | None]:
    """Which rows of a task belong together: the arguments `groups` and `group_values` of `TaskData`."""
    found = {"groups": groups_of_rows(task), "group_values": values_of_group(task)}
    return {
        name: {split: torch.from_numpy(own) for split, own in numbers.items()} or None
        for name, numbers in found.items()
    }


def labels_of_test_rows(task: Task) -> Tensor | None:
    """Labels of a task's test rows as measures expect them: int64 classes, else float; `None` without labels."""
    if not task.has_probes:
        return None
    labels = torch.tensor(task.splits["test"].labels)
    return labels if task.kind == "classification" else labels.float()


def refuse_words(suite: Suite, study: str) -> None:
    """Raise if a suite has tasks of words or of pairs, for a study whose rows are independent texts.

    Raises:
        ValueError: It has; the message names the first.
    """
    of_words = [task.name for task in suite.tasks if task.of_words]
    if of_words:
        raise ValueError(
            f"Task '{of_words[0]}' is about words, and `study={study}` compares texts. Set `study=probe`, with a "
            "reference backbone if two models are to be compared, or another `suite`."
        )
    if pairs := [task.name for task in suite.tasks if task.kind == "pairs"]:
        raise ValueError(
            f"Task '{pairs[0]}' has pairs of texts, and `study={study}` compares single texts. Set `study=probe`, or "
            "leave the task out of `suite.tasks`."
        )


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
        **activations.words_without_vectors(),
        "certificate": None if activations.certificate is None else asdict(activations.certificate),
    }


def _together(parts: Iterable[TokenizedTexts]) -> TokenizedTexts:
    parts = list(parts)
    return TokenizedTexts(
        ids=tuple(ids for part in parts for ids in part.ids),
        text_ids=tuple(text for part in parts for text in part.text_ids),
        num_cut=sum(part.num_cut for part in parts),
        num_tokens_cut=sum(part.num_tokens_cut for part in parts),
        spans=tuple(spans for part in parts for spans in part.spans),
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
