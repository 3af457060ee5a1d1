"""Progress of a loop: a bar with the time left where standard error is a terminal, else at most a line a minute."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_log = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 60.0

T = TypeVar("T")


def tracked(items: Iterable[T], what: str, *, total: int, console: Console | None = None) -> Iterator[T]:
    """Yield the items one by one, and show how many are done and how long the others will take.

    The bar is gone when the loop ends. A loop that takes less than a minute leaves no line.

    Args:
        items: What is looped over.
        what: Their name in the plural, such as `tasks`.
        total: Their number.
        console: Where a bar is shown if it is a terminal; by default standard error.

    Example:
        >>> from io import StringIO
        >>> list(tracked("ab", "letters", total=2, console=Console(file=StringIO())))
        ['a', 'b']
    """
    with counted(what, total=total, console=console) as count:
        for item in items:
            yield item
            count()


@contextmanager
def counted(what: str, *, total: int, done: int = 0, console: Console | None = None) -> Iterator[Callable[[], None]]:
    """Within the context, show how many are done and how long the others will take.

    Args:
        what: As in `tracked`, as are `total` and `console`.
        total: All, those that were done before included.
        done: Number of those that were done before.
        console: Where a bar is shown.

    Yields:
        A function to call for each one that is done.
    """
    console = Console(stderr=True) if console is None else console
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
            task = progress.add_task(what, total=total, completed=done)
            yield lambda: progress.advance(task)
        return
    start = last_line = time.monotonic()
    so_far = 0

    def count() -> None:
        nonlocal so_far, last_line
        so_far += 1
        now = time.monotonic()
        if now - last_line >= _SECONDS_BETWEEN_LINES:
            last_line = now
            left = (now - start) / so_far * (total - done - so_far)
            _log.info("%d of %d %s, about %.0f s left", done + so_far, total, what, left)

    yield count


class MinuteLines:
    """Says in the log, at most once a minute, how much of one long computation is done; several threads may share it.

    Unlike `tracked` it draws no bar, so that it may run inside a loop that has one.

    Args:
        what: Name of the parts in the plural, such as `parts of the probes`.
        total: Their number.

    Example:
        >>> lines = MinuteLines("letters", 2)
        >>> lines.advance()
        >>> lines.done
        1
    """

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self._lock, self._start = threading.Lock(), time.monotonic()
        self._last_line = self._start

    def advance(self) -> None:
        """One more part is done."""
        with self._lock:
            self.done += 1
            now = time.monotonic()
            if now - self._last_line < _SECONDS_BETWEEN_LINES or self.done >= self.total:
                return
            self._last_line = now
            left = (now - self._start) / self.done * (self.total - self.done)
        _log.info("%d of %d %s, about %.0f s left", self.done, self.total, self.what, left)
