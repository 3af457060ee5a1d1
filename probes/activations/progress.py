"""How far a pass has come: a bar in a terminal, a line a minute in a log file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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
