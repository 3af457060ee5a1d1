"""How a command ends: its last line on the screen, and its exit code."""

from __future__ import annotations

import atexit
import importlib.metadata
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from probes.commands.errors import explanation, unwrapped
from probes.commands.hydra_jobs import Command, is_first_process, override
from probes.runs.job_records import read_records
from probes.runs.masking import mask_text
from probes.runs.run_folder import read_state
from probes.runs.signals import Interrupted, come_too_late, ended_by_signals, follow

_PACKAGES = ("torch", "transformers", "lightning")
_STARTED_BY = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
"""The words in front of the arguments; `probes submit` changes those later."""
_NO_BARS = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "TQDM_DISABLE")


@contextmanager
def ended_in_words() -> Iterator[None]:
    """Run a command within the context; it ends with exit code 0, or with an explanation.

    An error that explains itself ends in its message alone. One that nobody foresaw is shown with its traceback, as all
    are under `debug=true`. A signal ends in one line that says how to go on. After a sweep, its jobs are listed.

    Raises:
        SystemExit: With code 1 after an error or where a job has failed, with 128 + its number after a signal.
    """
    all_errors = os.environ.setdefault("HYDRA_FULL_ERROR", "0") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on, in place of printing them in its own way
    failed, unforeseen = False, None
    if not is_first_process():
        follow(os.getppid())
    try:
        with ended_by_signals() if is_first_process() else nullcontext():
            try:
                yield
                if Command.error is not None:
                    raise Command.error
            finally:
                failed = _end_of_sweep()
                atexit.register(come_too_late)  # Python takes a second or two to end
    except Interrupted as interrupt:
        _flush()
        sys.stderr.write(mask_text(f"{interrupt}. {_how_to_go_on()}\n"))
        sys.exit(interrupt.exit_code)
    except Exception as error:
        message = None if Command.debug or all_errors else explanation(error)
        if message is not None:
            _flush()
            sys.exit(mask_text(message))
        unforeseen = unwrapped(error)
    if unforeseen is not None:
        raise unforeseen  # here, so that Python does not show what Hydra has wrapped around it
    if failed:
        sys.exit(1)


def without_bars() -> None:
    """Where standard error is no terminal, have libraries draw no progress bars, which would fill a log file.

    They read these environment variables when they are imported; a value that the user has set is kept.
    """
    if not sys.stderr.isatty():
        for name in _NO_BARS:
            os.environ.setdefault(name, "1")


def versions() -> str:
    """Our version and those of the packages that decide numbers, a line each."""
    return "".join(f"{package} {_version(package)}\n" for package in ("probes", *_PACKAGES))


def _end_of_sweep() -> bool:
    """Write and print the jobs of a sweep; whether one has failed."""
    if Command.key != "hydra.sweep.dir" or not is_first_process():
        return False
    records = read_records(Path(Command.folder))
    if not records:
        return False
    from probes.report import report_jobs

    report_jobs(Path(Command.folder), records)
    return any(record.state == "failed" for record in records)


def _how_to_go_on() -> str:
    if not Command.key:
        return "No run had begun: give the command again."
    state = read_state(Path(Command.folder))
    if state is not None and state.state == "finished":
        return f"The run had finished: everything is in '{Command.folder}'."
    words = [*_command(), *(word for word in sys.argv[1:] if not word.startswith(f"{Command.key}="))]
    command = shlex.join([*words, override(Command.key, Command.folder)])
    return f"What is finished is kept, in '{Command.folder}' and in the cache. Go on with: {command}"


def _command() -> list[str]:
    """The words that started this program, as they can be typed again."""
    name = Path(sys.argv[0]).name
    if shutil.which(name) == sys.argv[0]:
        return [name]
    return _STARTED_BY


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
