"""Which texts are being computed by which machine, in an object store that all of them share.

The claims on texts of one backbone are a log (`numbered_log`): an entry names a process and the texts that it computes
from now on, none when it has stored them. An entry takes the place of the process's entry before. A process that wants
to claim texts reads the log to its end, then looks at what the stores lack, and creates the entry after the last one:
if it succeeds, no claim was made meanwhile, and what others released before had been stored before.

While it computes, a process overwrites a small object of its own, its beat. A process whose beat does not change is
dead: who takes over its texts says so in its own entry, so that nobody who comes later waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from probes.activations.remote.numbered_log import content_of, contents_from, entry_name, sealed, unsealed
from probes.activations.remote.objects import Objects
from probes.locks import has_died, this_process, words_for

_log = logging.getLogger(__name__)

SECONDS_BETWEEN_BEATS = 15.0
"""240 requests an hour and process; a beat is looked at no more often either."""

SECONDS_UNTIL_VOID = 90.0
"""A beat that does not change for so long by the reader's own clock is that of a dead process: six were missed."""

SECONDS_BETWEEN_LOOKS = 1.0
"""Who waits for another machine asks for the next entry so often."""

_ENTRIES_BETWEEN_STARTS = 64
_SECONDS_FOR_LAST_BEAT = 1.0


@dataclass(frozen=True, eq=False)
class _Claim:
    """A process's last entry: its number, who made it, and the texts."""

    number: int
    member: str
    process: dict[str, Any]
    texts: frozenset[str]


class ClaimLog:
    """The claims of one process, and those of others.

    Where the store must not be written, claims of others are honoured, and nothing is claimed. In a store without
    conditional puts an entry may be lost, so that two processes compute the same texts; either copy serves.

    Args:
        objects: The object store.
        fingerprint: Names the backbone.
    """

    def __init__(self, objects: Objects, fingerprint: str) -> None:
        self._objects, self._prefix = objects, f"claims/{fingerprint[:32]}"
        self._member = uuid.uuid4().hex
        self._next: int | None = None  # the number after the last entry that was read
        self._claims: dict[str, _Claim] = {}  # process → its claim, as far as it holds by the log alone
        self._beats: dict[_Claim, tuple[bytes, float, float]] = {}  # the last beat, when it changed, when it was asked
        self._void: set[_Claim] = set()  # those whose process has died, which no entry says yet
        self._may_write = True
        self._beat = 0

    def of_others(self) -> dict[str, frozenset[str]]:
        """The texts that other processes compute, by words that name the process.

        Raises:
            ConnectionError: The object store does not answer.
        """
        self._read()
        found: dict[str, frozenset[str]] = {}
        for claim in list(self._claims.values()):
            if claim.member == self._member or claim in self._void:
                continue
            who = words_for(claim.process)
            if self._has_died(claim):
                _log.warning("%s has stopped computing; its %d texts are taken over.", who, len(claim.texts))
                self._void.add(claim)
                continue
            found[who] = found.get(who, frozenset()) | claim.texts
        return found

    def claim(self, texts: Sequence[str]) -> bool:
        """Claim texts, unless the log has grown since `of_others`: then False, and all must be looked at again.

        Raises:
            ConnectionError: The object store does not answer.
        """
        return self._append(texts)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Within the context this process's claim stays valid; afterwards it is released.

        A beat that fails is no reason to stop computing, nor is a release: the claim then lapses without beats.
        """
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(SECONDS_BETWEEN_BEATS):
                self._send_beat()

        thread = threading.Thread(target=beat, daemon=True, name="remote claim")
        if self._may_write:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            if self._may_write:
                thread.join(timeout=_SECONDS_FOR_LAST_BEAT)  # a beat that comes later does no harm
                self._release()

    def _send_beat(self) -> None:
        self._beat += 1
        try:
            self._objects.write(f"{self._prefix}/beats/{self._member}", str(self._beat).encode())
        except Exception as error:  # the next beat may come through
            _log.info("A beat of this process's claim did not come through: %s", error)

    def _release(self) -> None:
        try:
            while self._member in self._claims and not self._append([]):
                self._read()
        except ConnectionError as error:
            _log.warning("Others will wait %.0f s for a claim of this process: %s", SECONDS_UNTIL_VOID, error)

    def _read(self) -> None:
        """Read the entries that were added."""
        if self._next is None:
            self._next = self._start()
        for content in contents_from(self._objects, self._prefix, self._next):
            self._take(content)

    def _append(self, texts: Sequence[str]) -> bool:
        """Create the next entry; False if it exists."""
        if not self._may_write:
            return True
        assert self._next is not None, "claims are read before one is made"
        number, ended = self._next, [(claim.member, claim.number) for claim in self._void]
        content = sealed(
            {
                "entry": uuid.uuid4().hex,
                "member": self._member,
                "process": this_process(),
                "texts": list(texts),
                "ended": ended,
            }
        )
        try:
            self._objects.create(entry_name(self._prefix, number), content)
        except FileExistsError:
            if content_of(self._objects, self._prefix, number) != content:
                return False  # otherwise the entry is this one, and only the answer was lost
        except PermissionError as error:
            _log.warning("%s. Other machines may compute the same texts.", error)
            self._may_write = False
            return True
        self._take(content)
        if number % _ENTRIES_BETWEEN_STARTS == _ENTRIES_BETWEEN_STARTS - 1:
            self._write_start()
        return True

    def _take(self, content: bytes) -> None:
        """Take note of the entry of the next number; a damaged one claims nothing."""
        assert self._next is not None
        number = self._next
        self._next += 1
        with suppress(TypeError, KeyError, ValueError):
            fields = unsealed(content)
            claim = _Claim(number, fields["member"], dict(fields["process"]), frozenset(fields["texts"]))
            ended = {tuple(one) for one in fields["ended"]}
            for other in list(self._claims.values()):
                if (other.member, other.number) in ended or other.member == claim.member:
                    self._forget(other)
            if claim.texts:
                self._claims[claim.member] = claim

    def _forget(self, claim: _Claim) -> None:
        del self._claims[claim.member]
        self._void.discard(claim)
        self._beats.pop(claim, None)

    def _has_died(self, claim: _Claim) -> bool:
        if has_died(claim.process):
            return True
        now = time.monotonic()
        last, changed, asked = self._beats.get(claim, (None, now, float("-inf")))
        if now - asked < SECONDS_BETWEEN_BEATS:
            return False
        try:
            beat = self._objects.read(f"{self._prefix}/beats/{claim.member}")
        except FileNotFoundError:
            beat = b""
        changed = now if beat != last else changed
        self._beats[claim] = (beat, changed, now)
        return now - changed > SECONDS_UNTIL_VOID

    def _start(self) -> int:
        """A number before which no claim holds any more: whoever comes new reads the log from there."""
        with suppress(FileNotFoundError, TypeError, KeyError, ValueError):
            return int(unsealed(self._objects.read(f"{self._prefix}/start.json"))["entry"])
        return 0

    def _write_start(self) -> None:
        """Claims that ended never come back, so that a number that was true stays true whoever writes it last."""
        assert self._next is not None
        first = min([claim.number for claim in self._claims.values()], default=self._next)
        with suppress(ConnectionError, PermissionError):
            self._objects.write(f"{self._prefix}/start.json", sealed({"entry": first}))
