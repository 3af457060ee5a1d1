"""The log of one store's shards in an object store: numbered objects, each created once and never changed.

Entry k is the object `log/0000000k.json`. Who writes a shard creates the entry after the last one; if another process
was faster, it reads that entry and tries the next number. A reader asks for the entries after those that it knows until
there is none: nothing is ever listed, and an entry that was read is kept on the local disk. An entry is written after
its shard, so that whatever the log names has been written completely.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from probes.activations.remote.numbered_log import contents_from, entry_name, sealed, unsealed
from probes.activations.remote.objects import Objects
from probes.activations.shards import ShardHeader
from probes.files import write_text

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One line of the log: a shard that was written, or one that turned out to be damaged.

    Attributes:
        shard: The shard's name in a local store.
        object: The name of the object that holds it.
        header: What the shard states about itself; `None` in an entry that says that the object is damaged.
    """

    shard: str
    object: str
    header: ShardHeader | None

    def to_bytes(self) -> bytes:
        """JSON with a digest."""
        return sealed(asdict(self))

    @classmethod
    def from_bytes(cls, content: bytes) -> Entry | None:
        """The entry; `None` if it is damaged."""
        try:
            fields = unsealed(content)
            header = fields["header"]
            if header is not None:
                plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in header.items()}
                header = ShardHeader(**plain)
            return cls(fields["shard"], fields["object"], header)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


class ShardLog:
    """Reads and appends to the log of one store.

    Args:
        objects: The object store.
        prefix: Name of the store in it.
        kept: Local folder in which entries that were read are kept, one file each, whose names end in the shard's.
    """

    def __init__(self, objects: Objects, prefix: str, kept: Path) -> None:
        self._objects, self._prefix, self._kept = objects, f"{prefix}/log", kept
        self._next = 0
        self._files = {int(file.name[:8]): file for file in kept.glob("[0-9]*-*")}

    def new_entries(self) -> Iterator[Entry]:
        """The entries after those that were read so far, the oldest first; damaged ones are left out with a warning."""
        while (content := self._kept_content(self._next)) is not None:
            if (entry := self._taken(content)) is not None:
                yield entry
        for content in contents_from(self._objects, self._prefix, self._next):
            if (entry := self._taken(content)) is not None:
                yield entry

    def append(self, entry: Entry) -> list[Entry]:
        """Add an entry.

        Returns:
            The entries of others that were found on the way, and this one.
        """
        found = list(self.new_entries())
        content = entry.to_bytes()
        while True:
            try:
                self._objects.create(entry_name(self._prefix, self._next), content)
            except FileExistsError:
                # Another process took the number, or this one did and the answer was lost.
                found += self.new_entries()
                if entry in found:
                    return found
            else:
                self._taken(content)
                return [*found, entry]

    def _taken(self, content: bytes) -> Entry | None:
        """The entry of the next number, which is kept; `None` if it is damaged."""
        number = self._next
        self._next += 1
        entry = Entry.from_bytes(content)
        if entry is None:
            name = entry_name(self._prefix, number)
            _log.warning("'%s/%s' is damaged; the texts that it names are computed again.", self._objects.url, name)
            return None
        if number not in self._files:
            self._files[number] = write_text(self._kept / f"{number:08d}-{entry.shard}.json", content.decode())
        return entry

    def _kept_content(self, number: int) -> bytes | None:
        """The bytes of an entry that is on the local disk; `None` if it is not, or is damaged there."""
        if (file := self._files.get(number)) is not None:
            content = file.read_bytes() if file.exists() else b""
            if Entry.from_bytes(content) is not None:
                return content
            self._files.pop(number)
        return None
