"""The forward passes over some texts: planned by tokens, one launched ahead, planned anew when memory runs out."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TypeVar, cast

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from probes.activations.batches import plan_batches
from probes.backbones import LayerSpec, ReadableBackbone, pad_right
from probes.values import Reading

_log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 60.0


class PassProgress:
    """Counts tokens; the time left is judged by tokens, since the longest texts come first."""

    def __init__(self, bar: Progress | None, *, texts: int, tokens: int) -> None:
        self._bar = bar
        self._texts, self._tokens = texts, tokens
        self._done_texts = self._done_tokens = 0
        self._start = self._last_line = time.monotonic()
        self._task = bar.add_task("forward pass", total=tokens, texts=f"0/{texts:,}", speed="") if bar else None

    def advance(self, *, texts: int, tokens: int) -> None:
        """Count one batch."""
        self._done_texts += texts
        self._done_tokens += tokens
        now = time.monotonic()
        speed = self._done_tokens / max(now - self._start, 1e-9)
        if self._bar is not None and self._task is not None:
            counted = f"{self._done_texts:,}/{self._texts:,}"
            self._bar.update(self._task, advance=tokens, texts=counted, speed=f"{speed:,.0f} tokens/s")
        elif now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (self._tokens - self._done_tokens) / speed
            _log.info("%d of %d texts, %.0f tokens/s, about %.0f s left", self._done_texts, self._texts, speed, left)


@contextmanager
def pass_progress(*, texts: int, tokens: int) -> Iterator[PassProgress]:
    """Show a bar while the context lasts, if standard error is a terminal."""
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


_T = TypeVar("_T")
Text = tuple[str, np.ndarray]
"""A text's name and token ids."""


@dataclass(frozen=True)
class _Launched:
    """A pass whose results are under way to host memory; on a CPU they are there."""

    texts: Sequence[Text]
    values: dict[Reading, Tensor]  # (texts, layers, features)
    finite: dict[Reading, Tensor]  # (texts, layers)
    arrival: torch.cuda.Event | None


@dataclass
class ForwardPasses:
    """Runs a backbone over texts.

    While one pass's results are written, a GPU is busy with the next.

    Attributes:
        backbone: What computes.
        readings: What is read off.
        layers: Which layers; default the backbone's own.
        tokens_per_batch: Most tokens of one pass; halved when one runs out of memory.
        done: Passes that were run.
    """

    backbone: ReadableBackbone
    readings: Sequence[Reading]
    layers: LayerSpec | None
    tokens_per_batch: int
    done: int = 0

    def over(self, texts: Sequence[Text]) -> Iterator[tuple[list[str], dict[Reading, Tensor]]]:
        """Names and activations of one batch after another, each tensor of shape `(texts, layers, features)`.

        The order of texts is their own, whatever the budget: by padded length, the longest first.

        Raises:
            ValueError: An activation is NaN or infinite.
            MemoryError: A text does not fit into a GPU's memory by itself.
        """
        with pass_progress(texts=len(texts), tokens=sum(len(ids) for _, ids in texts)) as progress:
            launched = self._launched(texts)
            for batch in one_ahead(launched) if self.backbone.device.type == "cuda" else launched:
                if batch.arrival is not None:
                    batch.arrival.synchronize()
                names = [name for name, _ in batch.texts]
                for reading, finite in batch.finite.items():
                    self._check_finite(finite, names, reading)
                progress.advance(texts=len(names), tokens=sum(len(ids) for _, ids in batch.texts))
                yield names, batch.values

    def _launched(self, texts: Sequence[Text]) -> Iterator[_Launched]:
        limit = self.backbone.tokenizer.max_length
        batches = plan_batches([len(ids) for _, ids in texts], tokens_per_batch=self.tokens_per_batch, limit=limit)
        for done, batch in enumerate(batches):
            launched = self._launch([texts[i] for i in batch.texts], batch.length)
            if launched is None:
                self._halve(len(batch.texts), batch.length)
                yield from self._launched([texts[i] for left in batches[done:] for i in left.texts])
                return
            self.done += 1
            yield launched

    def _launch(self, texts: Sequence[Text], length: int) -> _Launched | None:
        """One pass; None if it runs out of memory."""
        device = self.backbone.device
        on_gpu = device.type == "cuda"
        try:
            inputs = pad_right([ids for _, ids in texts], length=length, pad_id=self.backbone.pad_id)
            if on_gpu:
                inputs = tuple(tensor.pin_memory().to(device, non_blocking=True) for tensor in inputs)
            read = self.backbone(*inputs, readings=self.readings, layers=self.layers)
            by_text = {reading: values.transpose(0, 1) for reading, values in read.items()}
            finite = {r: values.isfinite().all(dim=2).to("cpu", non_blocking=on_gpu) for r, values in by_text.items()}
            values = {r: values.to("cpu", non_blocking=on_gpu) for r, values in by_text.items()}
        except torch.OutOfMemoryError:
            return None
        return _Launched(texts, values, finite, _arrival(device) if on_gpu else None)

    def _halve(self, texts: int, length: int) -> None:
        """Make room after a batch of so many texts of this padded length ran out of memory."""
        if texts == 1:
            raise MemoryError(
                f"One text of {length} tokens does not fit into the free memory of {self.backbone.device}, whatever "
                f"`extraction.tokens_per_batch`. Set `extraction.max_length` below {length}, or a smaller backbone "
                "or `backbone.dtype`."
            )
        self.tokens_per_batch = min(self.tokens_per_batch, texts * length) // 2
        torch.cuda.empty_cache()
        _log.warning(
            "A batch of %d tokens ran out of GPU memory; from here on `extraction.tokens_per_batch=%d`.",
            texts * length,
            self.tokens_per_batch,
        )

    def _check_finite(self, finite: Tensor, names: Sequence[str], reading: Reading) -> None:
        if finite.all():
            return
        layers = self.backbone.layers(reading.stack, site=reading.site, spec=self.layers)
        bad_layers = [layer for layer, ok in zip(layers, finite.all(dim=0).tolist(), strict=True) if not ok]
        bad_texts = [name for name, ok in zip(names, finite.all(dim=1).tolist(), strict=True) if not ok]
        raise ValueError(
            f"Backbone '{self.backbone.name}' gives NaN or infinite activations at layers {bad_layers} ({reading}) for "
            f"texts {bad_texts[:5]}. In float16 this is an overflow: set `backbone.dtype` to bfloat16 or float32."
        )


def one_ahead(items: Iterable[_T]) -> Iterator[_T]:
    """The items, each given out after the next was begun.

    >>> begun = []
    >>> [(item, begun[-1]) for item in one_ahead(begun.append(i) or i for i in range(3))]
    [(0, 1), (1, 2), (2, 2)]
    """
    for item, _ in pairwise(chain(items, [None])):
        yield cast(_T, item)


def _arrival(device: torch.device) -> torch.cuda.Event:
    """What happens once all that was launched on a GPU until now is done."""
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event
