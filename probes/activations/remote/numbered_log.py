"""What logs in an object store have in common: numbered entries, each created once, with a digest, read without a list.

Entry k is the object `0000000k.json`. Who adds an entry creates the one after the last that it has read; if another
process was faster, it reads that entry first. So all readers see one history, and whoever creates entry k knows all
entries before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from probes.activations.remote.objects import Objects
from probes.kept_files import fast_digest

_MOST_AT_ONCE = 64
"""Entries that are asked for at the same time; the number grows while there are more."""


def entry_name(prefix: str, number: int) -> str:
    """The object of an entry.

    >>> entry_name("claims", 12)
    'claims/00000012.json'
    """
    return f"{prefix}/{number:08d}.json"


def contents_from(objects: Objects, prefix: str, first: int) -> Iterator[bytes]:
    """The entries from a number on until there is none, several at once; a damaged one comes as it is."""
    at_once = 1
    with ThreadPoolExecutor(max_workers=16) as threads:
        while True:
            numbers = range(first, first + at_once)
            for content in threads.map(lambda number: content_of(objects, prefix, number), numbers):
                if content is None:
                    return
                yield content
            first += at_once
            at_once = min(2 * at_once, _MOST_AT_ONCE)


def content_of(objects: Objects, prefix: str, number: int) -> bytes | None:
    """The bytes of an entry; `None` if there is no such entry."""
    try:
        content = objects.read(entry_name(prefix, number))
        if unsealed(content) is None:  # a damaged answer, or a damaged object
            content = objects.read(entry_name(prefix, number))
    except FileNotFoundError:
        return None
    return content


def sealed(entry: Any) -> bytes:
    """An entry as JSON with a digest."""
    text = json.dumps(entry, sort_keys=True)
    return json.dumps({"entry": text, "digest": fast_digest(text.encode())}).encode()


def unsealed(content: bytes) -> Any:
    """What `sealed` was given; `None` if it is damaged."""
    try:
        seal = json.loads(content)
        if fast_digest(seal["entry"].encode()) != seal["digest"]:
            return None
        return json.loads(seal["entry"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
