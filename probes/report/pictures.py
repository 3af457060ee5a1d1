"""Many pictures at once: this process draws, and where they are many, so do others beside it."""

from __future__ import annotations

import copyreg
import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from typing import IO, Any

from matplotlib import rcParams, rcParamsOrig
from matplotlib.figure import Figure

from probes.report.figures.axes import save_png

Drawing = Callable[[], Figure]
"""Draws a figure. To be drawn elsewhere it is pickled: a `partial` of a figure function and its values."""
PICTURES_A_HELPER = 16  # fewer are drawn before it has started
MOST_HELPERS = 3
_DONE = b"done\n"
_Job = tuple[Path, Drawing]


def save_pictures(drawings: Mapping[Path, Drawing], *, helpers: int | None = None) -> None:
    """Draw and save each picture; in what order, and by which process, is left open.

    A helper that fails hands its picture back, so that an error is raised here, as if there were no helpers.

    Args:
        drawings: Where each picture shall lie, and how it is drawn.
        helpers: Processes besides this one; `None`: one for every `PICTURES_A_HELPER` pictures, as far as there are
            cores, and `MOST_HELPERS` at most.
    """
    waiting: deque[_Job] = deque(drawings.items())
    if helpers is None:
        helpers = min(MOST_HELPERS, (os.cpu_count() or 1) - 1, len(waiting) // PICTURES_A_HELPER)
    returned: deque[_Job] = deque()
    threads = [Thread(target=_hand_over, args=(waiting, returned), daemon=True) for _ in range(helpers)]
    for thread in threads:
        thread.start()
    try:
        _draw_all(waiting)
    finally:
        waiting.clear()
        for thread in threads:
            thread.join()
    _draw_all(returned)


def _draw_all(waiting: deque[_Job]) -> None:
    while (job := _next(waiting)) is not None:
        path, draw = job
        save_png(draw(), path)


def _next(waiting: deque[_Job], *, last: bool = False) -> _Job | None:
    """Take one; several threads may, so that an empty queue shows only then."""
    try:
        return waiting.pop() if last else waiting.popleft()
    except IndexError:
        return None


def _hand_over(waiting: deque[_Job], returned: deque[_Job]) -> None:
    """Start a helper and give it one picture after another, from the other end of the queue."""
    command = [sys.executable, "-m", "probes.report.pictures"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as helper:
        assert helper.stdin is not None
        assert helper.stdout is not None
        pipes = helper.stdin, helper.stdout
        while (job := _next(waiting, last=True)) is not None:
            if not _drawn(job, *pipes):
                returned.append(job)
                return


def _drawn(job: _Job, requests: IO[bytes], answers: IO[bytes]) -> bool:
    """Have a helper draw one picture; false where that fails, for whatever reason."""
    try:
        requests.write(_pickled((_changed_style(), job)))
        requests.flush()
    except (OSError, pickle.PicklingError, AttributeError, TypeError):  # the last three: what cannot be pickled
        return False
    return answers.readline() == _DONE


def _changed_style() -> dict[str, Any]:
    """Settings of matplotlib that were changed after its start."""
    return {key: value for key, value in rcParams.items() if key != "backend" and value != rcParamsOrig[key]}


def _pickled(request: object) -> bytes:
    buffer = BytesIO()
    pickler = pickle.Pickler(buffer)
    pickler.dispatch_table = copyreg.dispatch_table | {MappingProxyType: lambda proxy: (dict, (dict(proxy),))}
    pickler.dump(request)
    return buffer.getvalue()


def _help() -> None:
    """Draw what is asked for on the standard input, until there is no more."""
    while True:
        try:
            style, (path, draw) = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        rcParams.update(style)
        save_png(draw(), path)
        sys.stdout.buffer.write(_DONE)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _help()
