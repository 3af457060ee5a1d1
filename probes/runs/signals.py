"""SIGTERM and SIGINT end a run at the next line of Python: as an exception, so that everything is closed on the way."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import FrameType
from typing import Any

SECONDS_TO_END = 15.0
"""How long a run may take to close everything after a signal; SLURM sends SIGKILL 30 s after SIGTERM."""

_SECONDS_BETWEEN_LOOKS = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to end.

    It is a `KeyboardInterrupt` because libraries (Lightning, joblib) close what they have open on one.

    Attributes:
        name: Of the signal: `SIGTERM` or `SIGINT`.
        exit_code: 128 + number of the signal, as shells report it.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"Interrupted by {signal.Signals(signum).name}")
        self.name = signal.Signals(signum).name
        self.exit_code = 128 + signum


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the context, the first SIGTERM or SIGINT raises `Interrupted` in the main thread; later ones do nothing.

    The context ends with `Interrupted` even if a library has turned it into something else, as Lightning does. If it is
    not left `SECONDS_TO_END` after the signal (a call of C code hangs, a server does not answer), the process ends at
    once; what is registered with `at_hard_exit` is done before. Contexts may be nested. In a thread other than the main
    one, which cannot handle signals, nothing is changed.

    Raises:
        Interrupted: A signal came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outermost = _Watch.active is None
    watch = _Watch() if _Watch.active is None else _Watch.active
    if outermost:
        watch.start()
    try:
        yield
    except Interrupted:
        raise
    except BaseException as error:
        if watch.received is not None:
            raise Interrupted(watch.received) from error
        raise
    finally:
        if outermost:
            watch.stop()


def come_too_late() -> None:
    """From now on signals do nothing: everything is written, and the exit code is decided."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def at_hard_exit(action: Callable[[Interrupted], object]) -> Iterator[None]:
    """Within the context, do something before the process ends because a signal was not answered in time.

    Args:
        action: Is called in another thread; its errors are ignored.
    """
    _actions.append(action)
    try:
        yield
    finally:
        _actions.remove(action)


@cache
def follow(leader: int) -> None:
    """Leave signals to the process that started this helper, and end when that one has ended, even by SIGKILL.

    Args:
        leader: Its process id.
    """

    def watch() -> None:
        while os.getppid() == leader:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)
    threading.Thread(target=watch, daemon=True, name="leader").start()


_actions: list[Callable[[Interrupted], object]] = []


class _Watch:
    """The handlers of the signals, and a thread that sees to it that they are obeyed."""

    active: _Watch | None = None

    def __init__(self) -> None:
        self.received: int | None = None
        self._left = threading.Event()
        self._previous: dict[signal.Signals, Any] = {}
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    def start(self) -> None:
        """Install the handlers."""
        _Watch.active = self
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, self._raise)
        # Python handlers wait for the main thread's next line; the byte that is written here does not.
        self._previous_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._see_to_the_end, daemon=True, name="signals").start()

    def stop(self) -> None:
        """Restore the handlers that were there before."""
        self._left.set()
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.write(self._write, b"\0")  # ends the thread, which closes the pipe
        _Watch.active = None

    def forget(self) -> None:
        """In a forked child: signals to it are none of the parent's business."""
        signal.set_wakeup_fd(-1)
        for number in self._previous:
            signal.signal(number, signal.SIG_DFL)
        _Watch.active = None

    def _raise(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.received is None:
            self.received = signum
            raise Interrupted(signum)

    def _see_to_the_end(self) -> None:
        while (byte := os.read(self._read, 1)) != b"\0":
            if byte[0] in self._previous and not self._left.wait(SECONDS_TO_END):
                _exit_hard(Interrupted(byte[0]))
        os.close(self._read)
        os.close(self._write)


def _exit_hard(reason: Interrupted) -> None:
    for action in reversed(_actions):
        with suppress(Exception):
            action(reason)
    with suppress(Exception):
        sys.stderr.write(f"{reason}: the run did not end within {SECONDS_TO_END:g} s and was stopped.\n")
        sys.stderr.flush()
    os._exit(reason.exit_code)


def _forget_in_child() -> None:
    if _Watch.active is not None:
        _Watch.active.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
