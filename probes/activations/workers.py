"""Further processes of this machine that load a backbone and fill the same stores: `extraction.workers`.

They share the work through the claims of `probes.activations.fill`, as runs that were started apart do, and so leave
the same stores. A worker that is killed is taken over; an error of a worker is raised here.
"""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from probes.activations.settings import ExtractionSettings
from probes.backbones import LayerSpec, ReadableBackbone, TokenizedTexts
from probes.files import replaced_file

if TYPE_CHECKING:
    from probes.activations.fill import PassReport, Stores

_log = logging.getLogger(__name__)

_SECONDS_TO_END = 5.0
"""How long a worker may take to notice that nothing is left to compute, before it is ended."""

_START = "from probes.runs.signals import follow; follow({leader}); " + (
    "from probes.activations.workers import work; work({folder!r})"
)
_JOB, _READY, _REPORT, _ERROR = "job", "ready", "report", "error"
"""Files in the folder of a worker."""


@dataclass(frozen=True)
class Extraction:
    """What the processes of one extraction share; the arguments of `fill_stores` without the backbone.

    Attributes:
        texts: Tokenized texts.
        stores: By reading.
        settings: Of the extraction.
        layers: Which layers.
    """

    texts: TokenizedTexts
    stores: Stores
    settings: ExtractionSettings
    layers: LayerSpec | None


class Helpers:
    """The further processes of an extraction."""

    def __init__(self, processes: Mapping[Path, subprocess.Popen[bytes]]) -> None:
        self._processes = processes
        self._warned: set[Path] = set()

    def check(self) -> None:
        """Raise the error that ended a worker, if one has; a worker that was killed is named in a warning.

        Raises:
            Exception: As the worker raised it.
        """
        for folder, process in self._processes.items():
            if (folder / _ERROR).exists():
                raise _error_of(folder, process.pid)
            if process.poll() not in {None, 0} and folder not in self._warned:
                self._warned.add(folder)
                _log.warning("Worker %d of the extraction was killed; its texts are taken over.", process.pid)

    def reports(self) -> list[PassReport]:
        """What the workers have computed, once nothing is left; those that have not begun are ended."""
        for folder, process in self._processes.items():
            if process.poll() is None and (folder / _READY).exists():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_SECONDS_TO_END)
        self.check()
        paths = [folder / _REPORT for folder in self._processes]
        return [pickle.loads(path.read_bytes()) for path in paths if path.exists()]

    def end(self) -> None:
        """End all workers at once; what they were computing counts as never begun."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()


@contextmanager
def helped(backbone: ReadableBackbone, extraction: Extraction) -> Iterator[Helpers]:
    """Within the context, `extraction.settings.workers` less one further processes fill the stores, too.

    On a CPU, torch's threads are divided among all processes, this one included; on GPUs each process has its own.

    Raises:
        ValueError: There are fewer GPUs than processes, or this process is one of several ranks.
    """
    number = extraction.settings.workers
    load: Callable[[], ReadableBackbone] | None = getattr(backbone, "reload", None)
    if number > 1 and load is None:
        _log.warning(
            "No further process can load '%s' (it is streamed, recorded, or was made from a model in memory): this "
            "process reads it alone, as with `extraction.workers=1`.", backbone.name,
        )  # fmt: skip
    if number == 1 or load is None:
        yield Helpers({})
        return
    places = _places(backbone.device, number)
    before, threads = torch.get_num_threads(), _threads(number)
    with tempfile.TemporaryDirectory(prefix="probes-workers-") as scratch:
        job = Path(scratch, _JOB)
        alone = replace(extraction, settings=replace(extraction.settings, workers=1))
        job.write_bytes(pickle.dumps((load, alone)))
        processes: dict[Path, subprocess.Popen[bytes]] = {}
        helpers = Helpers(processes)
        try:
            for place, share in zip(places[1:], threads[1:], strict=True):
                folder = Path(scratch, str(len(processes) + 1))
                folder.mkdir()
                (folder / _JOB).symlink_to(job)
                processes[folder] = _start(folder, threads=share, environment=place)
            torch.set_num_threads(threads[0])
            yield helpers
        finally:
            torch.set_num_threads(before)
            helpers.end()


def work(folder: str) -> None:
    """Fill the stores of a job, as one of several processes; what was computed, or an error, is left in the folder."""
    from probes.activations.fill import fill_stores

    place = Path(folder)
    try:
        load, extraction = pickle.loads((place / _JOB).read_bytes())
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        backbone: ReadableBackbone = load()
        _check_same(backbone, extraction)
        (place / _READY).touch()
        report = fill_stores(
            backbone, extraction.texts, extraction.stores, extraction.settings, layers=extraction.layers
        )
        with replaced_file(place / _REPORT) as temporary:
            temporary.write_bytes(pickle.dumps(report))
    except Exception as error:  # it is raised in the main process
        with replaced_file(place / _ERROR) as temporary:
            temporary.write_bytes(_pickled(error, traceback.format_exc()))
        sys.exit(1)


def _check_same(backbone: ReadableBackbone, extraction: Extraction) -> None:
    expected = next(iter(extraction.stores.values())).fingerprint
    if (found := backbone.fingerprint()) != expected:
        raise ValueError(
            f"Backbone '{backbone.name}' has other weights when it is loaded again ({found} in place of {expected}). "
            "Set `extraction.workers=1`, or `backbone.revision` to a commit."
        )


def _places(device: torch.device, number: int) -> list[dict[str, str]]:
    """Environment variables that give each process its own GPU; nothing to give on a CPU.

    Raises:
        ValueError: There are fewer GPUs than processes, or this process is one of several ranks.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        raise ValueError(
            f"`extraction.workers={number}` in a job of {ranks} ranks, each of which takes part in the extraction "
            "already. Set `extraction.workers=1`."
        )
    if device.type == "cpu":
        return [{}] * number
    gpus = torch.cuda.device_count() if device.type == "cuda" else 1
    if gpus < number:
        raise ValueError(
            f"`extraction.workers={number}` needs a GPU for each process, and there {'is' if gpus == 1 else 'are'} "
            f"{gpus} ({device.type}): two processes on one GPU are no faster than one. Set `extraction.workers` to at "
            f"most {gpus}, or `backbone.device=cpu`."
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
    if (device.index or 0) != 0:
        raise ValueError(
            f"`extraction.workers={number}` numbers GPUs from 0, and `backbone.device={device}` is another one. Set "
            "`backbone.device=cuda`, and CUDA_VISIBLE_DEVICES to the GPUs that may be used."
        )
    return [{"CUDA_VISIBLE_DEVICES": visible[process]} for process in range(number)]


def _threads(number: int) -> list[int]:
    """How many of torch's threads each process has, the main one first; one at least."""
    every, more = divmod(torch.get_num_threads(), number)
    return [max(1, every + (process < more)) for process in range(number)]


def _start(folder: Path, *, threads: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a worker; what it prints is of no interest, since an error is handed over by itself."""
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    own = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return subprocess.Popen(
        [sys.executable, "-c", _START.format(leader=os.getpid(), folder=str(folder))],
        env=os.environ | {"PYTHONPATH": paths} | own | dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _pickled(error: Exception, trace: str) -> bytes:
    """An error and its traceback; one that cannot be sent as it is, as a `RuntimeError` of its words."""
    try:
        content = pickle.dumps((error, trace))
        pickle.loads(content)
    except Exception:  # whatever its constructor does
        return pickle.dumps((RuntimeError(f"{type(error).__name__}: {error}"), trace))
    return content


def _error_of(folder: Path, pid: int) -> Exception:
    """The error that a worker has left, with a note of where it was raised."""
    error: Any
    error, trace = pickle.loads((folder / _ERROR).read_bytes())
    error.add_note(f"Raised in worker {pid} of the extraction:\n{trace}")
    return error
