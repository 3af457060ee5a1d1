"""Files of the cache that prove they are whole and whose they are; a damaged one is named and set aside.

Every kept file carries, or is listed with, a digest of its content and a key: everything that decided that content. A
reader compares both with what it expects. A fast hash finds every accident (a flipped bit, a cut or exchanged file);
it does not protect against somebody who edits a file and computes its digest anew.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import xxhash

from probes.files import replaced_file, write_text

_log = logging.getLogger(__name__)

Verify = Literal["full", "quick"]
"""How much of a kept file is checked when it is read: all of it, or all but the bytes of tensors."""

MANIFEST = "manifest.json"
"""The file of a sealed folder that lists the digests of the others."""

_RESUME_POINT = b"probes resume point\n"


def check_cache_settings(verify: object, lock_timeout: object) -> None:
    """Check the two settings of every cache.

    Raises:
        ValueError: `verify` is neither `full` nor `quick`, or `lock_timeout` is no number of seconds.
    """
    if verify not in get_args(Verify):
        raise ValueError(f"Unknown way to verify the cache: {verify!r}. Set `paths.verify` to full or quick.")
    number = isinstance(lock_timeout, int | float) and not isinstance(lock_timeout, bool) and lock_timeout >= 0
    if lock_timeout is not None and not number:
        raise ValueError(
            f"A time to wait for another run is a number of seconds or null; got {lock_timeout!r}. Set "
            "`paths.lock_timeout`."
        )


def check_writable(folder: Path, reason: str) -> None:
    """Refuse a cache folder in which this process cannot write.

    Args:
        folder: The folder; if it does not exist, its nearest parent counts.
        reason: Why it should, as the end of a sentence.

    Raises:
        PermissionError: It is read-only, or belongs to somebody else.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not os.access(existing, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(
            f"'{existing}' cannot be written by this user, {reason}. Set `paths.cache_dir` to a folder that can."
        )


def fast_digest(*parts: bytes | memoryview | mmap.mmap) -> str:
    """32 hexadecimal digits of the XXH3 hash of some bytes, about 20 GB/s; not cryptographic.

    >>> fast_digest(b"ab", b"c") == fast_digest(b"abc") != fast_digest(b"abd")
    True
    """
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def fast_digest_of_file(path: Path, *, start: int = 0) -> str:
    """`fast_digest` of a file's bytes from a position on, without copying them."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size <= start:
            return fast_digest(b"")
        with (
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            memoryview(content) as whole,
            whole[start:] as part,
        ):
            return fast_digest(part)


def set_aside(path: Path, reason: str, *, remedy: str) -> None:
    """Warn about a damaged file or folder and rename it to `<name>.corrupt`, so that nothing reads it again.

    Args:
        path: The file or folder; on a read-only disk it stays where it is.
        reason: What is wrong with it, as the end of a sentence.
        remedy: What happens next, as a sentence.
    """
    target = path.with_name(f"{path.name}.corrupt")
    number = 1
    while target.exists():
        target, number = path.with_name(f"{path.name}.corrupt-{number}"), number + 1
    try:
        path.rename(target)
    except FileNotFoundError:
        return  # another process has set it aside
    except OSError as error:
        _log.warning("'%s' %s. It cannot be set aside (%s) and is ignored. %s", path, reason, error.strerror, remedy)
    else:
        _log.warning("'%s' %s. It is now '%s'. %s", path, reason, target.name, remedy)


def write_sealed_json(path: Path, content: Mapping[str, Any], *, key: str) -> Path:
    """Write a JSON file that `read_sealed_json` accepts under the same key; NaN is allowed."""
    return write_text(path, _sealed_text(content, key))


def read_sealed_json(path: Path, *, key: str, remedy: str) -> dict[str, Any] | None:
    """The content of a JSON file that was sealed under a key; `None` if there is no such file or it is damaged.

    A damaged file is set aside with a warning that ends in `remedy`.
    """
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        set_aside(path, "is a folder where a file belongs", remedy=remedy)
        return None
    content, fault = _unsealed(text, key)
    if fault is not None:
        set_aside(path, fault, remedy=remedy)
    return content


def sealed_fault(path: Path) -> str | None:
    """What is wrong with a sealed JSON file by itself, whatever its key; `None` if it is whole."""
    return _unsealed(path.read_bytes().decode("utf-8", errors="replace"), read_key(path) or "")[1]


def read_key(path: Path) -> str | None:
    """The key that a sealed JSON file states, without any check; `None` if it states none."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def seal_folder(folder: Path, *, key: str, apart_from: str | None = None) -> None:
    """Write a manifest: the digest of every file below a folder, bound to a key.

    Args:
        folder: The folder, complete.
        key: Everything that decided its content.
        apart_from: Pattern of file names that are left out, because these files are sealed by themselves.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    listed = [path for path in files if apart_from is None or not path.match(apart_from)]
    digests = {path.relative_to(folder).as_posix(): fast_digest_of_file(path) for path in listed}
    sizes = {name: (folder / name).stat().st_size for name in digests}
    write_sealed_json(folder / MANIFEST, {"digests": digests, "sizes": sizes}, key=key)


def folder_fault(folder: Path, *, key: str, verify: Verify = "full") -> str | None:
    """What is wrong with a sealed folder, as the end of a sentence that begins with its name; `None` if it is whole.

    Files that the manifest does not list are not checked.

    Args:
        folder: The folder.
        key: What it must have been sealed with.
        verify: `quick` compares the sizes of files above a megabyte instead of their digests.
    """
    try:
        text = (folder / MANIFEST).read_bytes().decode("utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return f"has no {MANIFEST}, so it is not complete"
    content, fault = _unsealed(text, key)
    if content is None:
        return f"has a {MANIFEST} that {fault}"
    for name, digest in content["digests"].items():
        file, size = folder / name, content["sizes"][name]
        if not file.is_file():
            return f"lacks its file {name}"
        if file.stat().st_size != size:
            return f"has a damaged {name}: {file.stat().st_size:,} bytes in place of {size:,}"
        if (verify == "full" or size < 1_000_000) and fast_digest_of_file(file) != digest:
            return f"has a damaged {name}: its bytes are not those that were written"
    return None


def manifest_digest(folder: Path) -> str:
    """A digest of a sealed folder's manifest: it changes with every file that the manifest lists."""
    return fast_digest_of_file(folder / MANIFEST)


def write_resume_point(path: Path, payload: bytes, *, key: str) -> None:
    """Write the state of unfinished work, bound to the key of its result, so that it is whole or absent."""
    with replaced_file(path) as temporary:
        temporary.write_bytes(b"".join(_resume_header(payload, key)) + payload)


def read_resume_point(path: Path, *, key: str, remedy: str) -> bytes | None:
    """The state written under a key; `None` if there is none, or if it is damaged, which sets it aside."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    payload = content[sum(map(len, _resume_header(b"", key))) :]
    if content.startswith(b"".join(_resume_header(payload, key))):
        return payload
    foreign = content.startswith(_RESUME_POINT) and key.encode() not in content[:200]
    set_aside(path, "belongs to another model" if foreign else "is damaged", remedy=remedy)
    return None


def resume_point_fault(path: Path) -> str | None:
    """What is wrong with a state by itself, kept in a file named `<key>.<suffix>`; `None` if it is whole."""
    content = path.read_bytes()
    payload = content[sum(map(len, _resume_header(b"", path.stem))) :]
    return None if content == b"".join(_resume_header(payload, path.stem)) + payload else "is damaged"


def _resume_header(payload: bytes, key: str) -> tuple[bytes, bytes]:
    return _RESUME_POINT, f"{key} {fast_digest(key.encode(), payload)}\n".encode()


def _sealed_text(content: Mapping[str, Any], key: str) -> str:
    body = json.dumps([key, content], sort_keys=True)
    return json.dumps({"key": key, "digest": fast_digest(body.encode()), "content": content}, indent=1) + "\n"


def _unsealed(text: str, key: str) -> tuple[dict[str, Any] | None, str | None]:
    """The content of a sealed text, or what is wrong with it."""
    try:
        read = json.loads(text)
        content, own_key = read["content"], read["key"]
        unchanged = _sealed_text(content, own_key) == text  # also a changed character that parses to an equal value
    except (ValueError, TypeError, KeyError, RecursionError):
        return None, "is damaged: it is not the JSON that was written" if text else "is empty"
    if not unchanged:
        return None, "is damaged: its content does not fit its digest"
    if own_key != key:
        return None, f"belongs to something else: its key is {own_key}, and {key} was wanted"
    return content, None
