"""Which texts are being computed, by whom: processes that fill one cache claim them, so that none is computed twice.

A claim is a file that names its process and its texts. The process touches it every few seconds while it computes, and
deletes it when the texts are stored. The claim of a process that has died, or that has not touched its claim for a
minute, is void: its texts are taken over.

Machines that share an object store have claims there as well (`remote.ClaimLog`).
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from probes.activations.remote import ClaimLog
from probes.activations.remote import claim_log as remote_claims
from probes.files import remove_litter, write_text
from probes.locks import SECONDS_BETWEEN_LOOKS, has_died, this_process, words_for

_log = logging.getLogger(__name__)

SECONDS_BETWEEN_BEATS = 5.0
SECONDS_UNTIL_VOID = 60.0
"""Without a beat for so long by the reader's own clock, a claim is void; clocks of machines are never compared."""


@dataclass
class Claims:
    """The claims on texts of one backbone.

    Claims are read and made while a lock is held, so that two processes never claim one text.

    Attributes:
        lock_file: The lock; claims are files beside it whose names begin as its name does.
        log: The claims of all machines on one object store; `None` without one.
    """

    lock_file: Path
    log: ClaimLog | None = None
    _beats: dict[str, tuple[int, float]] = field(default_factory=dict)  # claim → its last beat, and when it was seen
    _own: set[str] = field(default_factory=set)

    @property
    def seconds_between_looks(self) -> float:
        """How long who waits for another process pauses before it looks again."""
        return SECONDS_BETWEEN_LOOKS if self.log is None else remote_claims.SECONDS_BETWEEN_LOOKS

    def of_others(self) -> dict[str, frozenset[str]]:
        """The texts of each valid claim of another process, by words that name the process; void claims are deleted."""
        found = {} if self.log is None else self.log.of_others()
        for path in sorted(self.lock_file.parent.glob(f"{self.lock_file.stem}.*.claim")):
            if path.name in self._own:
                continue
            with suppress(FileNotFoundError):  # the texts have just been stored
                process, texts = _read(path)
                if self._is_void(path, process):
                    _log.warning(
                        "%s has stopped computing; its %d texts are taken over.", words_for(process), len(texts)
                    )
                    path.unlink()
                    continue
                who = words_for(process)
                found[who] = found.get(who, frozenset()) | texts
        return found

    @contextmanager
    def beating(self, claim: Path) -> Iterator[None]:
        """Within the context a claim stays valid; afterwards it is deleted."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(SECONDS_BETWEEN_BEATS):
                with suppress(OSError):  # another process took this one for dead
                    os.utime(claim)

        thread = threading.Thread(target=beat, daemon=True, name="claim")
        thread.start()
        try:
            with nullcontext() if self.log is None else self.log.beating():
                yield
        finally:
            stop.set()
            thread.join()
            claim.unlink(missing_ok=True)
            self._own.discard(claim.name)

    def claim(self, texts: Sequence[str]) -> Path | None:
        """Claim some texts; only for who holds the lock and has looked at the claims of others, and then at the stores.

        Returns:
            The claim; `None` if another machine has claimed or released texts meanwhile, so that all must be looked at
            again.
        """
        if self.log is not None and not self.log.claim(texts):
            return None
        path = self.lock_file.with_suffix(f".{uuid.uuid4().hex}.claim")
        self._own.add(path.name)
        return write_text(path, json.dumps({"process": this_process(), "texts": list(texts)}))

    def remove_litter(self) -> None:
        """Delete half-written claims, and notes on the lock, of killed processes; only for who holds the lock."""
        remove_litter(self.lock_file.parent, f"{self.lock_file.stem}.*")

    def _is_void(self, path: Path, process: dict[str, object]) -> bool:
        if has_died(process):
            return True
        beat, now = path.stat().st_mtime_ns, time.monotonic()
        last, seen = self._beats.get(path.name, (0, now))
        if beat != last:
            self._beats[path.name] = (beat, now)
            return False
        return now - seen > SECONDS_UNTIL_VOID


def _read(path: Path) -> tuple[dict[str, object], frozenset[str]]:
    """The process and the texts of a claim; nobody and nothing if it cannot be read."""
    try:
        content = json.loads(path.read_bytes())
        return dict(content["process"]), frozenset(content["texts"])
    except (ValueError, KeyError, TypeError):
        return {}, frozenset()
