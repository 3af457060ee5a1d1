"""The forward passes over some texts: batch by batch, planned again with a smaller budget when memory runs out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from typing import TypeVar, cast

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from probes.activations.batches import plan_batches
from probes.backbones import LayerSpec, ReadableBackbone, pad_right
from probes.token_values import token_mode
from probes.values import Reading

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

Text = tuple[str, np.ndarray]
"""A text's name and token ids, int32 of shape `(tokens,)`."""

_SECONDS_BETWEEN_LINES = 60.0
"""Least time between two log lines where no progress bar is shown."""
_SECONDS_UNTIL_ESTIMATE = 5.0
"""Time until the first of them, which says how long the passes will take."""


_PASSES_TOGETHER = 256
"""Most passes that share one reading of the weights; each has a thread."""


@dataclass(frozen=True)
class _Launched:
    """A pass whose results are being copied to host memory; on a CPU they are there already."""

    texts: Sequence[Text]
    values: dict[Reading, Tensor]  # (texts, layers, features), or words in place of texts
    finite: dict[Reading, Tensor]  # (texts, layers), likewise
    copied: torch.cuda.Event | None  # occurs when the copies are complete; None on a CPU


@dataclass
class ForwardPasses:
    """Runs a backbone over texts, batch by batch.

    On a GPU the next pass is launched before the results of the previous one are handed out, so the GPU computes while
    they are written.

    Attributes:
        backbone: The backbone that is run.
        layers: Which layers; default the backbone's `layers`.
        tokens_per_batch: Most tokens of one pass; halved whenever a pass runs out of memory.
        spans: Name of a text → the tokens of its words, for readings of words.
        done: Number of passes so far.
    """

    backbone: ReadableBackbone
    layers: LayerSpec | None
    tokens_per_batch: int
    spans: Mapping[str, np.ndarray] | None = None
    done: int = 0

    def over(
        self, texts: Sequence[Text], readings: Sequence[Reading], progress: PassProgress
    ) -> Iterator[tuple[list[str], dict[Reading, Tensor]]]:
        """Yield names and activations batch by batch, each tensor of shape `(texts, layers, features)`.

        Those of a reading of words have the words of all texts of the batch, one text after another, in place of texts.

        Texts come in descending order of their padded length, whatever `tokens_per_batch` is.

        Args:
            texts: What is read.
            readings: What is read of it.
            progress: Is told of each batch.

        Raises:
            ValueError: An activation is NaN or infinite.
            MemoryError: A text does not fit into a GPU's memory by itself.
        """
        launched = self._launched(texts, readings)
        for batch in one_ahead(launched) if self.backbone.device.type == "cuda" else launched:
            if batch.copied is not None:
                batch.copied.synchronize()
            names = [name for name, _ in batch.texts]
            for reading, finite in batch.finite.items():
                self._check_finite(finite, _names_of_rows(batch.texts, reading, self.spans), reading)
            progress.advance(texts=len(names), tokens=sum(len(ids) for _, ids in batch.texts))
            yield names, batch.values

    def _launched(self, texts: Sequence[Text], readings: Sequence[Reading]) -> Iterator[_Launched]:
        limit = self.backbone.tokenizer.max_length
        batches = plan_batches([len(ids) for _, ids in texts], tokens_per_batch=self.tokens_per_batch, limit=limit)
        if self.backbone.streamed:
            yield from self._together(
                [partial(self._launch, [texts[i] for i in batch.texts], readings, batch.length) for batch in batches]
            )
            return
        for index, batch in enumerate(batches):
            launched = self._launch([texts[i] for i in batch.texts], readings, batch.length)
            if launched is None:
                self._halve(len(batch.texts), batch.length)
                left = [texts[i] for remaining in batches[index:] for i in remaining.texts]
                yield from self._launched(left, readings)
                return
            self.done += 1
            yield launched

    def _together(self, calls: Sequence[Callable[[], _Launched | None]]) -> Iterator[_Launched]:
        """Run passes that share one reading of each block from disk, up to a number at a time."""
        for first in range(0, len(calls), _PASSES_TOGETHER):
            for launched in self.backbone.run_together(calls[first : first + _PASSES_TOGETHER]):
                assert launched is not None  # only a GPU runs out of its memory
                self.done += 1
                yield launched

    def _launch(self, texts: Sequence[Text], readings: Sequence[Reading], length: int) -> _Launched | None:
        """Launch one pass; `None` if it runs out of memory."""
        device = self.backbone.device
        on_gpu = device.type == "cuda"
        try:
            inputs = pad_right([ids for _, ids in texts], length=length, pad_id=self.backbone.pad_id)
            if on_gpu:
                inputs = tuple(tensor.pin_memory().to(device, non_blocking=True) for tensor in inputs)
            spans = None if self.spans is None else [self.spans[name] for name, _ in texts]
            read = self.backbone(*inputs, readings=readings, layers=self.layers, spans=spans)
            by_text = {reading: values.transpose(0, 1) for reading, values in read.items()}  # (texts, layers, features)
            finite = {r: values.isfinite().all(dim=2).to("cpu", non_blocking=on_gpu) for r, values in by_text.items()}
            values = {r: values.to("cpu", non_blocking=on_gpu) for r, values in by_text.items()}
        except torch.OutOfMemoryError:
            return None
        return _Launched(texts, values, finite, _event_after_launched(device) if on_gpu else None)

    def _halve(self, texts: int, length: int) -> None:
        """Halve the token budget after a batch of `texts` texts, each padded to `length`, ran out of memory."""
        if texts == 1:
            raise MemoryError(
                f"One text of {length} tokens does not fit into the free memory of {self.backbone.device}, whatever "
                f"`extraction.tokens_per_batch`. Set `extraction.max_length` below {length}, or a smaller backbone "
                "or `backbone.dtype`."
            )
        self.tokens_per_batch = min(self.tokens_per_batch, texts * length) // 2
        torch.cuda.empty_cache()
        _log.warning(
            "A batch of %d tokens ran out of GPU memory; from now on `extraction.tokens_per_batch=%d`.",
            texts * length,
            self.tokens_per_batch,
        )

    def _check_finite(self, finite: Tensor, names: Sequence[str], reading: Reading) -> None:
        if finite.all():
            return
        layers = self.backbone.layers(reading.stack, site=reading.site, spec=self.layers)
        bad_layers = [layer for layer, ok in zip(layers, finite.all(dim=0).tolist(), strict=True) if not ok]
        rows = zip(names, finite.all(dim=1).tolist(), strict=True)
        bad_texts = list(dict.fromkeys(name for name, ok in rows if not ok))
        raise ValueError(
            f"Backbone '{self.backbone.name}' computes NaN or infinite activations at layers {bad_layers} ({reading}) "
            f"for texts {bad_texts[:5]}. In float16 this is an overflow: set `backbone.dtype` to bfloat16 or float32."
        )


def vectors_of(reading: Reading, ids: np.ndarray, spans: np.ndarray | None) -> int:
    """How many vectors a text has under a reading: one, or one for each of its tokens or words."""
    mode = token_mode(reading)
    if mode is None:
        return 1
    return len(ids) if mode == "subwords" or spans is None else len(spans)


def _names_of_rows(texts: Sequence[Text], reading: Reading, spans: Mapping[str, np.ndarray] | None) -> list[str]:
    """The text of each row of a batch's activations."""
    of_text = spans or {}
    return [name for name, ids in texts for _ in range(vectors_of(reading, ids, of_text.get(name)))]


def one_ahead(items: Iterable[_T]) -> Iterator[_T]:
    """Yield each item after the next one has been computed.

    >>> begun = []
    >>> [(item, begun[-1]) for item in one_ahead(begun.append(i) or i for i in range(3))]
    [(0, 1), (1, 2), (2, 2)]
    """
    for item, _ in pairwise(chain(items, [None])):
        yield cast(_T, item)


def _event_after_launched(device: torch.device) -> torch.cuda.Event:
    """An event that occurs once all work launched on a GPU so far is complete."""
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


class PassProgress:
    """Progress of extraction: a bar if there is one, else a log line after five seconds and then each minute.

    The time left is estimated from tokens, not texts, since the longest texts come first.

    Args:
        bar: A running progress bar; `None` writes log lines.
        texts: Number of texts in total.
        tokens: Number of tokens in total, without padding.
    """

    def __init__(self, bar: Progress | None, *, texts: int, tokens: int) -> None:
        self._bar = bar
        self._texts, self._tokens = texts, tokens
        self._done_texts = self._done_tokens = 0
        self._start = self._last_line = time.monotonic()
        self._until_next_line = _SECONDS_UNTIL_ESTIMATE
        self._task = None if bar is None else bar.add_task("forward pass", total=tokens, texts=f"0/{texts:,}", speed="")

    def leave(self, *, texts: int, tokens: int) -> None:
        """Count everything but these texts and tokens as done, by this process or by others that share the work."""
        self.advance(texts=self._texts - texts - self._done_texts, tokens=self._tokens - tokens - self._done_tokens)

    def advance(self, *, texts: int, tokens: int) -> None:
        """Count the texts and tokens of one batch."""
        if tokens <= 0:
            return
        self._done_texts += texts
        self._done_tokens += tokens
        now = time.monotonic()
        speed = self._done_tokens / max(now - self._start, 1e-9)
        if self._bar is not None and self._task is not None:
            progress = f"{self._done_texts:,}/{self._texts:,}"
            self._bar.update(self._task, advance=tokens, texts=progress, speed=f"{speed:,.0f} tokens/s")
        elif now - self._last_line >= self._until_next_line:
            self._until_next_line = _SECONDS_BETWEEN_LINES
            self._last_line = now
            seconds = (self._tokens - self._done_tokens) / speed
            _log.info("%d of %d texts, %.0f tokens/s, about %.0f s left", self._done_texts, self._texts, speed, seconds)


@contextmanager
def pass_progress(*, texts: int, tokens: int) -> Iterator[PassProgress]:
    """Within the context, show a bar if standard error is a terminal; arguments as in `PassProgress`."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PassProgress(None, texts=texts, tokens=tokens)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[texts]} texts"),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        yield PassProgress(bar, texts=texts, tokens=tokens)
