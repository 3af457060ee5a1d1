"""Files that are either whole or absent, and digests of content: the one module that writes to disk atomically."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PLAIN_NAME = re.compile(r"[a-z0-9_][a-z0-9_.\-]{0,79}")
_LETTERS_KEPT = 60
_DIGEST_END = re.compile(r"-[0-9a-f]{12}$")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
"""Names that Windows keeps for devices, whatever their ending."""


def file_name(name: str) -> str:
    """A file name for any name, such as that of a task: short, portable, and different for different names.

    A plain name stays as it is: at most 80 lower-case letters, digits, `_`, `.` and `-`. From any other, what is not
    plain is left out, and a digest of the name is added, so that it can be no path, and two names that differ only in
    case, which is the same to some file systems, have different files.

    Example:
        >>> file_name("rte"), file_name("../../Escaped")
        ('rte', 'Escaped-c36420a3f140')
    """
    plain = _PLAIN_NAME.fullmatch(name) and not name.endswith(".")
    if plain and not _DIGEST_END.search(name) and not _RESERVED.fullmatch(name):
        return name
    kept = re.sub(r"[^A-Za-z0-9_\-]+", "_", name).strip("._-")[:_LETTERS_KEPT].rstrip("._-")
    digest = hashlib.sha256(name.encode("utf-8", errors="surrogatepass")).hexdigest()[:12]
    return f"{kept}-{digest}" if kept else f"name-{digest}"


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Write to the yielded path; it becomes `path` when the block ends, and is removed if the block raises.

    A reader of `path` sees the old content or the new one, never a part of it, even after a power failure: the content
    is on disk before the name is. Missing parent folders are made. The file's permissions follow the user's umask, so
    that a group can share a folder.

    Args:
        path: The file to write. The temporary file lies beside it and has the same suffix.
    """
    with _temporary(path) as temporary:
        permissions = temporary.stat().st_mode
        yield temporary
        temporary.chmod(permissions)  # safetensors puts a file in its place that only its owner can read
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Write to the yielded path; it becomes `path` when the block ends, unless there is a file of this name already.

    Otherwise as `replaced_file`. Of several processes that make one file at the same time, one succeeds.

    Raises:
        FileExistsError: There is.
    """
    with _temporary(path) as temporary:
        permissions = temporary.stat().st_mode
        yield temporary
        temporary.chmod(permissions)
        _flush(temporary)
        os.link(temporary, path)
        _flush(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill the yielded folder; it becomes `path` when the block ends, and is removed if the block raises.

    If another process has made `path` meanwhile, that folder stays and this one is discarded: folders written this way
    are named by their content, so either serves.

    Args:
        path: The folder to make; its parents are made as needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[-80:]}-{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _flush(file)
        _flush(temporary)
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
        _flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 text file as a whole, and return its path."""
    with replaced_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON file as a whole; numbers that are not finite become null, what JSON does not know its `str`.

    Returns:
        The path.
    """
    return write_text(path, json.dumps(_finite_only(content), indent=1, default=str, allow_nan=False) + "\n")


def digest_of_json(content: Any, *, digits: int = 24) -> str:
    """Hexadecimal digits of the SHA-256 of what JSON can hold; the order of keys does not matter.

    >>> digest_of_json({"a": 1, "b": 2}) == digest_of_json({"b": 2, "a": 1})
    True
    """
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def digest_of_file(path: Path, *, digits: int = 24) -> str:
    """Hexadecimal digits of the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:digits]


def remove_litter(folder: Path, name: str = "*") -> None:
    """Delete what processes that were killed left half written in a folder: hidden files and folders of this module.

    Only who holds the lock under which such files are written may call this: those of a process that is still writing
    look the same.

    Args:
        folder: Where the files were to appear.
        name: The name, or a pattern of the names, under which they were to appear.
    """
    stem = name if name == "*" else name[-80:]
    for path in folder.glob(f".{stem}-????????*"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A hidden file beside `path`, which is gone when the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[-80:]}-{secrets.token_hex(4)}{path.suffix}")
    temporary.touch(exist_ok=False)  # not `mkstemp`, which leaves files that only their owner can read
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have the operating system write a file, or a folder's list of names, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _finite_only(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite_only(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_only(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
