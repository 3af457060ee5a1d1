"""Locks between processes that share a cache: who waits is told for whom, and does not wait for ever."""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from probes.files import write_text

_log = logging.getLogger(__name__)

_NAME_HOLDER_AFTER = 5.0
_SECONDS_BETWEEN_REMINDERS = 300.0
SECONDS_BETWEEN_LOOKS = 0.2


@contextmanager
def process_lock(
    path: Path, *, what: str, timeout: float | None = None, progress: Callable[[], object] = lambda: None
) -> Iterator[bool]:
    """Hold a lock file within the context.

    After 5 seconds of waiting the holder is named in a warning, which is repeated every 5 minutes.

    Args:
        path: The lock file; its parents are made as needed.
        what: What the lock guards, for messages: "the activations of 'gpt2'".
        timeout: Seconds to wait at most; `None` waits for ever. The clock starts anew whenever `progress` changes.
        progress: A value that changes while the holder gets on, such as the time of its last file.

    Yields:
        Whether the lock is held; False on a file system without locks, after a warning.

    Raises:
        TimeoutError: The holder did not get on for `timeout` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        _acquire(lock, path, Patience(what, timeout, progress))
    except (NotImplementedError, OSError) as error:
        if not _tells_that_there_are_no_locks(error):
            raise
        _warn_of_missing_locks(path)
        yield False
        return
    note = _note(path)
    try:
        write_text(note, json.dumps(this_process()))
        yield True
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()


def holder_of(path: Path) -> str:
    """Who holds a lock file, as far as its note tells."""
    try:
        process = json.loads(_note(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return words_for({})
    return words_for(process)


def this_process() -> dict[str, object]:
    """What tells others of this process: its number, machine, start, and the folder it was started in."""
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "numbers": _numbers(),
        "started": _start_time(os.getpid()),
        "since": since,
        "folder": str(Path.cwd()),
    }


def words_for(process: object) -> str:
    """Words for a process that `this_process` describes, or for an unknown one."""
    try:
        host, pid, since, folder = (process[key] for key in ("host", "pid", "since", "folder"))  # pyright: ignore
    except (KeyError, TypeError):
        return "an unknown process"
    stopped = ", which is stopped" if host == platform.node() and _is_stopped(pid) else ""
    return f"process {pid} on {host}{stopped} (since {since}, started in '{folder}')"


def has_died(process: Mapping[str, object]) -> bool:
    """Whether a process that `this_process` describes is known to have ended; False for one of another machine."""
    numbers = _numbers()
    if not numbers or (process.get("host"), process.get("numbers")) != (platform.node(), numbers):
        return False
    return _start_time(process.get("pid")) != process.get("started")


class Patience:
    """Waiting for another process: it is named after 5 seconds and every 5 minutes, and may get on too slowly.

    Args:
        what: What is waited for.
        timeout: Seconds without progress after which `look` raises; `None`: never.
        progress: A value that changes while the other gets on.
    """

    def __init__(self, what: str, timeout: float | None, progress: Callable[[], object]) -> None:
        self._what, self._timeout, self._progress = what, timeout, progress
        self._start = self._waiting_since = time.monotonic()
        self._seen, self._remind_at = progress(), self._start + _NAME_HOLDER_AFTER

    def look(self, who: Callable[[], str]) -> None:
        """Go on waiting for `who`.

        Raises:
            TimeoutError: There was no progress for the timeout.
        """
        now = time.monotonic()
        if (current := self._progress()) != self._seen:
            self._seen, self._waiting_since = current, now
        if self._timeout is not None and now - self._waiting_since >= self._timeout and now > self._start:
            raise TimeoutError(
                f"Waited {now - self._start:.0f} s for {self._what}, which {who()} has locked and which did not change "
                f"for {self._timeout:g} s. End that process, or set `paths.lock_timeout` higher (null waits for ever)."
            )
        if now >= self._remind_at:
            _log.warning("Waiting for %s, which %s has locked.", self._what, who())
            self._remind_at = now + _SECONDS_BETWEEN_REMINDERS


def _acquire(lock: FileLock, path: Path, patience: Patience) -> None:
    while True:
        patience.look(lambda: holder_of(path))
        with suppress(Timeout):
            lock.acquire(timeout=SECONDS_BETWEEN_LOOKS, poll_interval=0.05)
            return


@cache
def _warn_of_missing_locks(path: Path) -> None:
    _log.warning("'%s' is on a file system without locks: two runs at once may do the same work twice.", path)


def _tells_that_there_are_no_locks(error: Exception) -> bool:
    """Whether an error means that the file system has no locks: filelock turns some of these into its own."""
    return isinstance(error, NotImplementedError) or getattr(error, "errno", None) in {errno.ENOLCK, errno.ENOSYS}


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.holder")


def _numbers() -> str:
    """Which processes count together: the same number means the same process; `""` where the system does not tell."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{Path('/proc/self/ns/pid').readlink()} {boot}"
    return ""


def _start_time(pid: object) -> str:
    """When a process of this machine began, in ticks since it was switched on; `""` if it has ended or is unknown."""
    fields = _status(pid)
    return "" if not fields or fields[0] in {"Z", "X"} else fields[19]


def _is_stopped(pid: object) -> bool:
    """Whether a process of this machine is stopped by a signal; False where the system does not tell."""
    fields = _status(pid)
    return bool(fields) and fields[0] in {"T", "t"}


def _status(pid: object) -> list[str]:
    """What Linux tells of a process, from its state on; empty if there is none."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return status.rpartition(")")[2].split()
