"""The shards of one store in an object store, and the local folder that is their read cache."""

from __future__ import annotations

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from probes.activations.remote.objects import Objects
from probes.activations.remote.shard_log import Entry, ShardLog
from probes.activations.shards import DamagedShardError, ShardHeader, check_values, read_header
from probes.files import replaced_file

_log = logging.getLogger(__name__)

_SHARDS_AT_ONCE = 8
_SHARE_TO_FREE = 0.1
"""Where the local cache is full, so much of it is freed at once."""


class RemoteShards:
    """Write-once shards in an object store, each under a name of its own, found by a log.

    Two processes that write the same texts leave two objects, of which either serves. An object whose bytes are not
    those that were written is never served: the log notes that it is damaged, and its texts are computed again.

    Args:
        objects: The object store.
        folder: The local folder of the store; its name is the store's name in the object store, too.
        identity: What every shard of the store states.
        limit: Bytes that shards in the local folders beside this one may take together, as far as they are in the
            object store too; `None` for no limit.
    """

    def __init__(self, objects: Objects, folder: Path, identity: str, *, limit: int | None = None) -> None:
        self.url = objects.url
        self._objects, self._folder, self._identity, self._limit = objects, folder, identity, limit
        self._prefix = f"activations/{folder.name}"
        self._log_folder = folder / f"log-{hashlib.sha256(objects.url.encode()).hexdigest()[:8]}"
        self._log = ShardLog(objects, self._prefix, self._log_folder)
        self._entries: dict[str, list[Entry]] = {}  # shard → the objects that hold it
        self._found: dict[str, ShardHeader] = {}  # shards of others that were found while an entry was appended
        self._checked: set[str] = set()  # shards whose object this process has written, or read and compared
        self._new_bytes = 0 if limit is None else limit  # the first check of the limit comes with the first file

    def __contains__(self, shard: str) -> bool:
        return bool(self._entries.get(shard))

    def has_checked(self, shard: str) -> bool:
        """Whether this process knows that the object store holds a shard as it was written."""
        return shard in self and shard in self._checked

    def new_shards(self) -> dict[str, ShardHeader]:
        """The headers of shards that were added since the last call, by this process or another."""
        found, self._found = self._found, {}
        return found | self._taken(self._log.new_entries())

    def fetch(self, shards: Iterable[str]) -> None:
        """Copy shards to the local folder, several at once; afterwards it lacks those that are damaged.

        Those that were copied first are deleted again where all of them exceed the limit.

        Raises:
            ConnectionError: The object store does not answer.
        """
        wanted = [shard for shard in shards if shard in self and not (self._folder / shard).exists()]
        with ThreadPoolExecutor(max_workers=_SHARDS_AT_ONCE) as threads:
            for first in range(0, len(wanted), _SHARDS_AT_ONCE):
                copied = threads.map(self._fetch, wanted[first : first + _SHARDS_AT_ONCE])
                for entry in [entry for damaged in copied for entry in damaged]:
                    self._note_damaged(entry)
                self._keep_to_limit()

    def keep_local(self, shard: str) -> None:
        """Note that a shard is about to be read from the local folder, and copy it there if it is not.

        Raises:
            ConnectionError: The object store does not answer.
        """
        try:
            path = self._folder / shard
            # The time of access tells which shards were not used for long; that of the last change stays as it is.
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        except FileNotFoundError:
            self.fetch([shard])
        except OSError:
            pass  # a read-only folder

    def push(self, shard: str) -> None:
        """Copy a shard of the local folder to the object store, unless it is there.

        Raises:
            ConnectionError: The object store does not answer.
            PermissionError: It cannot be written.
        """
        path = self._folder / shard
        if shard in self:
            return
        header = read_header(path, identity=self._identity)
        if not self._entries:
            self._objects.write(f"{self._prefix}/identity.json", self._identity.encode())
        name = f"{self._prefix}/shards/{path.stem}-{uuid.uuid4().hex[:12]}{path.suffix}"
        content = path.read_bytes()
        self._objects.write(name, content)
        self._found |= self._taken(self._log.append(Entry(shard, name, header)))
        self._checked.add(shard)
        self._new_bytes += len(content)
        self._keep_to_limit()

    def _note_damaged(self, entry: Entry) -> None:
        """Note in the log that an object is damaged; where the log cannot be written, for this process alone."""
        self._checked.discard(entry.shard)
        damaged = Entry(entry.shard, entry.object, None)
        try:
            found = self._log.append(damaged)
        except PermissionError as error:
            _log.warning("%s. Others will find the damage by themselves.", error)
            found = [damaged]
        self._found |= self._taken(found)

    def _fetch(self, shard: str) -> list[Entry]:
        """Copy one shard; returns the objects that turned out to be damaged."""
        damaged = []
        for entry in self._entries[shard]:
            for attempt in (1, 2):  # the second shows whether the object is damaged, or only the answer was
                try:
                    content = self._objects.read(entry.object)
                    with replaced_file(self._folder / shard) as temporary:
                        temporary.write_bytes(content)
                        found = read_header(temporary, identity=self._identity)
                        if found != entry.header:
                            raise DamagedShardError("is not the shard that the log describes")
                        check_values(temporary, found)
                except FileNotFoundError:
                    damaged.append(entry)
                    _log.warning("'%s/%s' is gone; its texts are computed again.", self.url, entry.object)
                    break
                except DamagedShardError as error:
                    if attempt == 2:
                        damaged.append(entry)
                        _log.warning("'%s/%s' %s. Its texts are computed again.", self.url, entry.object, error)
                else:
                    self._new_bytes += len(content)
                    self._checked.add(shard)
                    return damaged
        return damaged

    def _taken(self, entries: Iterable[Entry]) -> dict[str, ShardHeader]:
        headers = {}
        for entry in entries:
            known = self._entries.setdefault(entry.shard, [])
            if entry.header is None:
                known[:] = [other for other in known if other.object != entry.object]
            else:
                known.append(entry)
                headers[entry.shard] = entry.header
        return headers

    def _keep_to_limit(self) -> None:
        """Delete the least recently used of the shards that are in the object store, while they take too much."""
        if self._limit is None or self._new_bytes < _SHARE_TO_FREE * self._limit / 2:
            return
        self._new_bytes = 0
        found = []
        for log in self._folder.parent.glob(f"*/{self._log_folder.name}"):
            for name in {file.stem.partition("-")[2] for file in log.glob("*.json")}:
                with suppress(FileNotFoundError):
                    status = (path := log.parent / name).stat()
                    found.append((status.st_atime, status.st_size, path))
        size = sum(size for _, size, _ in found)
        if size <= self._limit:
            return
        for _, of_file, path in sorted(found):
            if size <= (1 - _SHARE_TO_FREE) * self._limit:
                break
            path.unlink(missing_ok=True)
            size -= of_file
