"""Object stores behind one small protocol: read a whole object, write one, create one that must not exist yet.

S3, GCS and Azure are reached through obstore, which has their conditional puts; a mounted disk (`file://`) as a folder;
whatever else fsspec knows (HDFS, SFTP, …) through fsspec. Objects are written once and never changed, so that a reader
never sees two versions of one.
"""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

from probes.files import new_file, replaced_file

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

_OBSTORE_SCHEMES = ("s3", "gs", "az")
_ATTEMPTS = 4
_FIRST_PAUSE = 0.5
"""Seconds before a call that failed is tried again; the pause doubles each time, and is drawn around that."""

_SECONDS_WITHOUT_DATA = 30
"""A connection that delivers nothing for so long is given up, and the call is tried again."""


class Objects(Protocol):
    """An object store below one URL. Names are relative paths with `/`."""

    url: str

    def read(self, name: str) -> bytes:
        """The whole object.

        Raises:
            FileNotFoundError: There is none of this name.
        """
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write an object, whole or not at all where the store has this property (S3, GCS, Azure and folders have)."""
        ...

    def create(self, name: str, content: bytes) -> None:
        """Write an object of a name that is not taken.

        Raises:
            FileExistsError: It is taken.
        """
        ...


def is_url(place: str | os.PathLike[str]) -> bool:
    """Whether a place is a URL and no path.

    >>> is_url("s3://bucket/probes"), is_url("~/.cache/probes")
    (True, False)
    """
    return "://" in str(place)


def open_objects(url: str) -> Objects:
    """The object store at a URL; nothing is asked of it yet.

    Credentials and end points are those of the environment, such as `AWS_ACCESS_KEY_ID`, `AWS_REGION` and
    `AWS_ENDPOINT_URL`, or `GOOGLE_APPLICATION_CREDENTIALS`.

    Raises:
        ValueError: fsspec knows no store of this kind.
        ModuleNotFoundError: The package that reaches it is not installed.
    """
    scheme, _, path = url.partition("://")
    if scheme == "file":
        return _Folder(url, Path(path))
    if scheme not in _OBSTORE_SCHEMES:
        return _Patient(_Fsspec(url))
    if importlib.util.find_spec("obstore") is None:
        raise ModuleNotFoundError(f"`paths.cache_dir={url}` needs the package obstore: `pip install -e '.[remote]'`.")
    return _Patient(_Obstore(url))


class _Folder:
    """A folder, such as a mounted network disk."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self._folder = url, folder

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        with _refusals(self.url, name), replaced_file(self._folder / name) as temporary:
            temporary.write_bytes(content)

    def create(self, name: str, content: bytes) -> None:
        with _refusals(self.url, name), new_file(self._folder / name) as temporary:
            temporary.write_bytes(content)


@contextmanager
def _refusals(url: str, name: str) -> Iterator[None]:
    """Turns the error of a file system that is mounted read-only into a `PermissionError`."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        raise PermissionError(f"'{url}' is read-only; refuses writing '{name}'") from error


class _Obstore:
    """S3, GCS or Azure, with conditional puts."""

    def __init__(self, url: str) -> None:
        from obstore.store import from_url

        self.url = url
        retries: Any = {
            "max_retries": 6,
            "retry_timeout": timedelta(seconds=90),
        }  # of 5xx answers, such as 503 SlowDown
        client: Any = {
            "timeout": timedelta(seconds=10 * _SECONDS_WITHOUT_DATA),
            "read_timeout": timedelta(seconds=_SECONDS_WITHOUT_DATA),
            "connect_timeout": timedelta(seconds=10),
            "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in {"true", "1"},  # given options replace it
        }
        self._store: Any = from_url(url, client_options=client, retry_config=retries)

    def read(self, name: str) -> bytes:
        import obstore

        return bytes(obstore.get(self._store, name).bytes())

    def write(self, name: str, content: bytes) -> None:
        import obstore

        obstore.put(self._store, name, content)

    def create(self, name: str, content: bytes) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            obstore.put(self._store, name, content, mode="create", use_multipart=False)
        except (AlreadyExistsError, PreconditionError) as error:
            raise FileExistsError(f"'{self.url}/{name}' exists.") from error


class _Fsspec:
    """Whatever fsspec knows. Most of it has no conditional put: two that create one name at once may both succeed."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        self._system, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")

    def read(self, name: str) -> bytes:
        return self._system.cat_file(f"{self._root}/{name}")

    def write(self, name: str, content: bytes) -> None:
        path = f"{self._root}/{name}"
        self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._system.pipe_file(path, content)

    def create(self, name: str, content: bytes) -> None:
        if self._system.exists(f"{self._root}/{name}"):
            raise FileExistsError(f"'{self.url}/{name}' exists.")
        self.write(name, content)
        if self.read(name) != content:  # another process wrote it at the same moment
            raise FileExistsError(f"'{self.url}/{name}' exists.")


class _Patient:
    """Tries again what a network failed to do: a lost connection, an answer that was cut, a server that is busy."""

    def __init__(self, objects: Objects) -> None:
        self.url, self._objects = objects.url, objects

    def read(self, name: str) -> bytes:
        return self._patiently(lambda: self._objects.read(name), f"reading '{name}'")

    def write(self, name: str, content: bytes) -> None:
        self._patiently(lambda: self._objects.write(name, content), f"writing '{name}'")

    def create(self, name: str, content: bytes) -> None:
        self._patiently(lambda: self._objects.create(name, content), f"creating '{name}'")

    def _patiently(self, call: Callable[[], _T], what: str) -> _T:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return call()
            except (FileNotFoundError, FileExistsError):
                raise
            except Exception as error:
                if type(error).__name__ in {"PermissionDeniedError", "UnauthenticatedError", "PermissionError"}:
                    raise PermissionError(f"'{self.url}' refuses {what}: {_first_line(error)}") from error
                if attempt == _ATTEMPTS:
                    raise ConnectionError(
                        f"'{self.url}' failed {attempt} times at {what}: {_first_line(error)}. Nothing is lost: repeat "
                        "the command, which goes on from `paths.local_cache`, or set `paths.cache_dir`."
                    ) from error
                _log.info("'%s' failed at %s, attempt %d: %s", self.url, what, attempt, _first_line(error))
                time.sleep(_FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        raise AssertionError


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
