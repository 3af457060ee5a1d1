"""Locks between processes that share a cache: who waits is told for whom, and does not wait for ever."""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from probes.files import write_text

_log = logging.getLogger(__name__)

_NAME_HOLDER_AFTER = 5.0
_SECONDS_BETWEEN_REMINDERS = 300.0
_SECONDS_BETWEEN_LOOKS = 0.2


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
        _acquire(lock, path, what, timeout, progress)
    except (NotImplementedError, OSError) as error:
        if not _tells_that_there_are_no_locks(error):
            raise
        _log.warning("'%s' is on a file system without locks: two runs at once may do the same work twice.", path)
        yield False
        return
    note = _note(path)
    try:
        write_text(note, json.dumps(_this_process()))
        yield True
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()


def holder_of(path: Path) -> str:
    """Who holds a lock file, as far as its note tells."""
    try:
        read = json.loads(_note(path).read_text(encoding="utf-8"))
        host, pid, since, folder = (read[key] for key in ("host", "pid", "since", "folder"))
    except (OSError, ValueError, KeyError, TypeError):
        return "an unknown process"
    stopped = ", which is stopped" if host == platform.node() and _is_stopped(pid) else ""
    return f"process {pid} on {host}{stopped} (since {since}, started in '{folder}')"


def _acquire(lock: FileLock, path: Path, what: str, timeout: float | None, progress: Callable[[], object]) -> None:
    start = waiting_since = time.monotonic()
    seen, remind_at = progress(), start + _NAME_HOLDER_AFTER
    while True:
        now = time.monotonic()
        if (current := progress()) != seen:
            seen, waiting_since = current, now
        if timeout is not None and now - waiting_since >= timeout and now > start:
            raise TimeoutError(
                f"Waited {now - start:.0f} s for {what}, which {holder_of(path)} has locked and which did not change "
                f"for {timeout:g} s. End that process, or set `paths.lock_timeout` higher (null waits for ever)."
            )
        if now >= remind_at:
            _log.warning("Waiting for %s, which %s is computing.", what, holder_of(path))
            remind_at = now + _SECONDS_BETWEEN_REMINDERS
        with suppress(Timeout):
            lock.acquire(timeout=_SECONDS_BETWEEN_LOOKS, poll_interval=0.05)
            return


def _tells_that_there_are_no_locks(error: Exception) -> bool:
    """Whether an error means that the file system has no locks: filelock turns some of these into its own."""
    return isinstance(error, NotImplementedError) or getattr(error, "errno", None) in {errno.ENOLCK, errno.ENOSYS}


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.holder")


def _this_process() -> dict[str, object]:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": platform.node(), "since": since, "folder": str(Path.cwd())}


def _is_stopped(pid: int) -> bool:
    """Whether a process of this machine is stopped by a signal; False where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] in {"T", "t"}
