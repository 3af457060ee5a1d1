"""Saving figures as PNG files: one, or many of them in several processes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from joblib import Parallel, cpu_count, delayed
from matplotlib import rc_context, rcParams, rcParamsOrig
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from probes.files import replaced_file
from probes.progress import tracked
from probes.runs.signals import follow

Drawing = Callable[[], Figure]
"""Draws a figure: a `partial` of a figure function and its values, which joblib can send to another process."""

PICTURES_PER_WORKER = 16  # drawing them takes several times as long as starting a process
MOST_WORKERS = 4  # each loads matplotlib and its fonts into memory

_PNG_OPTIONS = {"compress_level": 3}  # of 9; PIL's default, 6, takes three times as long to save a tenth of the bytes


def save_png(figure: Figure, path: Path) -> Path:
    """Save a figure; the file appears as a whole or not at all.

    `Figure.savefig` would render the figure twice, the first time only to lay it out; the layout engine alone suffices.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # names may hold any character
        _print(figure, path)
    return path


def _print(figure: Figure, path: Path) -> None:
    if (layout := figure.get_layout_engine()) is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")
    with replaced_file(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary, pil_kwargs=_PNG_OPTIONS)


def save_pictures(drawings: Mapping[Path, Drawing], *, workers: int | None = None) -> None:
    """Draw and save each picture, in no particular order, in the matplotlib style that is set here.

    An error in a drawing is raised here as it is, whichever process met it.

    Args:
        drawings: The file of each picture, and how it is drawn.
        workers: Number of processes; 1 draws in this one. `None`: one more for every `PICTURES_PER_WORKER` pictures,
            up to the number of cores and `MOST_WORKERS`.
    """
    if workers is None:
        workers = min(MOST_WORKERS, cpu_count(), 1 + len(drawings) // PICTURES_PER_WORKER)
    # joblib's processes are neither forks of this one, whose threads (torch, W&B) would not survive, nor do they import
    # the main script as those of `multiprocessing` do: a script without `if __name__ == "__main__"` would run again.
    style = _changed_style()
    parallel = Parallel(n_jobs=workers, backend="loky", return_as="generator_unordered")
    jobs = (delayed(_save_picture)(path, draw, style, os.getpid()) for path, draw in drawings.items())
    for _ in tracked(parallel(jobs), "figures", total=len(drawings)):
        pass


def _save_picture(path: Path, draw: Drawing, style: dict[Any, Any], main_process: int) -> None:
    if os.getpid() != main_process:
        follow(main_process)
    with rc_context(style):
        save_png(draw(), path)


def _changed_style() -> dict[Any, Any]:
    """Settings of matplotlib that were changed after its import."""
    settings = rcParams.copy()  # reading "backend" from the original would import pyplot
    return {name: value for name, value in settings.items() if name != "backend" and value != rcParamsOrig[name]}
