"""A real S3 server, and a proxy before it that breaks things, for the tests of stores in a bucket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from object_servers import FaultyProxy, environment, s3_server

from probes.activations.remote import objects


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a server on loopback; the tests that use it need moto and obstore."""
    with s3_server() as url:
        yield url


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy before the server, to which the environment points; what failed is tried again at once."""
    proxy = FaultyProxy(server)
    for key, value in environment(proxy.url).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(objects, "_FIRST_PAUSE", 0.01)
    yield proxy
    proxy.close()
