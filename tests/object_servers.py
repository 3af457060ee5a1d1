"""A real S3 server on loopback, and a proxy in front of it that loses, cuts, delays, damages and refuses answers."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = Callable[[str, str], str | None]
"""Method and path of a request → what happens to it: `lose`, `cut`, `slow`, `busy`, `flip`, `forbid`, or nothing."""


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of moto's server, with a bucket called `bucket`; it ends with the context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"), timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=20)


def environment(url: str) -> dict[str, str]:
    """What a client needs to know of a server."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "name",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }


class FaultyProxy:
    """Passes requests on to a server, apart from those that `fault` chooses; `requests` has all of them.

    Conditional puts are passed on one at a time: moto looks whether an object exists and then writes it, in two steps,
    where real stores take one.
    """

    def __init__(self, server: str) -> None:
        self.fault: Fault = lambda _method, _path: None
        self.requests: list[tuple[str, str, str | None]] = []
        self.delay = 0.0
        one_condition = threading.Lock()
        host = server.removeprefix("http://")
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                kind = proxy.fault(self.command, self.path)
                proxy.requests.append((self.command, self.path, kind))
                if kind in {"busy", "forbid"}:
                    code, name = (503, "SlowDown") if kind == "busy" else (403, "AccessDenied")
                    content = f"<Error><Code>{name}</Code><Message>{name}</Message></Error>".encode()
                    return self.send(code, {"Content-Type": "application/xml"}, content)
                if kind == "lose":
                    return self.hang_up()
                with one_condition if "If-None-Match" in self.headers else nullcontext():
                    connection = http.client.HTTPConnection(host, timeout=20)
                    connection.request(self.command, self.path, body, dict(self.headers))
                    answer = connection.getresponse()
                    content, headers = answer.read(), dict(answer.getheaders())
                    connection.close()
                if kind == "lose the answer":
                    return self.hang_up()
                if kind == "slow":
                    time.sleep(proxy.delay)
                if kind == "flip" and content:
                    content = content[:-20] + bytes([content[-20] ^ 4]) + content[-19:]
                return self.send(answer.status, headers, content, cut=kind == "cut")

            def send(self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in {"content-length", "connection", "transfer-encoding", "server", "date"}:
                        self.send_header(name, value)
                length = headers.get("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", length or str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if cut else content)
                if cut:
                    self.hang_up()

            def hang_up(self) -> None:
                self.close_connection = True
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address) -> None:
                pass  # a client that has gone

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def first(number: int, kind: str, *, of: str = "", method: str = "GET") -> Fault:
    """The first requests of one method whose path contains `of` fail in one way."""
    left = [number]
    lock = threading.Lock()

    def fault(command: str, path: str) -> str | None:
        with lock:
            if command != method or of not in path or left[0] == 0:
                return None
            left[0] -= 1
            return kind

    return fault


def without_proxies() -> dict[str, str]:
    """The environment of this process, which must ask nobody for a server on loopback."""
    return {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
