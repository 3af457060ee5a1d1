from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from wandb_log import offline_run_dirs

from probes.report.loggers import servers, wandb_mode
from probes.report.loggers.servers import server_responds
from probes.report.loggers.wandb_mode import choose_mode

ROOT = Path(__file__).parents[3]
KEY = "k" * 40


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine without credentials whose server responds; tests change its settings."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    settings = wandb.Settings(mode="online", base_url="https://api.forge.coreweave.com")
    monkeypatch.setattr(wandb, "setup", lambda: SimpleNamespace(settings=settings))
    monkeypatch.setattr(wandb_mode, "server_responds", lambda url, seconds: True)
    return settings


class TestChooseMode:
    def test_without_a_key_it_is_offline(self, machine):
        mode, reason = choose_mode("auto")
        assert mode == "offline"
        assert "no API key" in reason

    @pytest.mark.parametrize(
        "place", ["WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "settings", "api.forge.coreweave.com", "api.wandb.ai"]
    )
    def test_with_credentials_anywhere_it_is_online(self, machine, monkeypatch, tmp_path, place):
        if place.startswith("WANDB"):
            monkeypatch.setenv(place, KEY)
        elif place == "settings":
            machine.api_key = KEY
        else:  # a host in the netrc file; W&B's service has two names
            (tmp_path / "netrc").write_text(f"machine {place}\n login user\n password {KEY}\n")
        assert choose_mode("auto") == ("online", "")

    def test_a_key_for_another_server_is_no_key(self, machine, tmp_path):
        (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n login user\n password {KEY}\n")
        machine.base_url = "https://wandb.example.org"
        assert choose_mode("auto")[0] == "offline"

    def test_a_key_of_the_wrong_form_is_left_to_wandb_to_refuse(self, machine, tmp_path):
        (tmp_path / "netrc").write_text("machine api.wandb.ai\n login user\n password short\n")
        assert choose_mode("auto") == ("online", "")

    def test_without_a_response_it_is_offline(self, machine, monkeypatch):
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setattr(wandb_mode, "server_responds", lambda url, seconds: False)
        assert choose_mode("auto") == ("offline", "https://api.forge.coreweave.com does not respond")

    @pytest.mark.parametrize(
        ("value", "mode"),
        [("offline", "offline"), ("dryrun", "offline"), ("disabled", "disabled"), ("online", "online")],
    )
    def test_the_environment_decides(self, machine, monkeypatch, value, mode):
        monkeypatch.setenv("WANDB_MODE", value)
        assert choose_mode("auto") == (mode, "")

    def test_the_settings_file_decides(self, machine):
        machine.mode = "offline"
        assert choose_mode("auto") == ("offline", "")

    def test_the_config_takes_precedence(self, machine, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "disabled")
        assert choose_mode("offline") == ("offline", "")

    def test_a_mode_that_wandb_does_not_have_is_refused(self, machine, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "off")
        with pytest.raises(ValueError, match="WANDB_MODE must be one of online, offline and disabled; got 'off'"):
            choose_mode("auto")


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(401)
        self.end_headers()

    def do_POST(self):
        self.do_GET()

    def log_message(self, format, *args):
        pass


@pytest.fixture
def refusing_server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class TestServerResponds:
    def test_a_refusal_is_a_response(self, refusing_server):
        assert server_responds(refusing_server, 5)

    def test_a_closed_port_is_no_response(self):
        assert not server_responds("http://127.0.0.1:1", 5)

    def test_a_lookup_that_hangs_takes_no_longer_than_the_limit(self, monkeypatch):
        released = threading.Event()

        def hang(url, timeout):
            released.wait(30)
            raise OSError

        monkeypatch.setattr(servers.urllib.request, "urlopen", hang)
        start = time.monotonic()
        assert not server_responds("http://example.org", 0.1)
        assert time.monotonic() - start < 5
        released.set()


TWO_RUNS = """
import logging, pathlib
from probes.report import WandbRunLogger
logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
for job in "01":
    with WandbRunLogger(group="g").run({}, pathlib.Path(job)):
        pass
"""


def in_a_fresh_process(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code as on a machine where nobody has logged in and nobody can answer a prompt."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    fresh = {"HOME": str(folder), "NETRC": str(folder / "netrc"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=inherited | fresh | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


@pytest.mark.slow
class TestFreshProcess:
    def test_without_a_key_it_is_offline_and_logs_how_to_upload(self, tmp_path):
        done = in_a_fresh_process(TWO_RUNS, tmp_path)
        lines = (done.stdout + done.stderr).splitlines()
        assert len(lines) == 2  # one per run, and none by W&B itself
        for line, run_dir in zip(lines, offline_run_dirs(tmp_path), strict=True):
            assert line.startswith("WARNING W&B keeps this run offline because there is no API key")
            assert line.endswith(f"wandb sync {run_dir}")

    def test_with_a_key_that_the_server_refuses_it_is_offline(self, tmp_path, refusing_server):
        done = in_a_fresh_process(TWO_RUNS, tmp_path, WANDB_BASE_URL=refusing_server, WANDB_API_KEY=KEY)
        assert "offline because W&B refused" in done.stderr
        assert len(offline_run_dirs(tmp_path)) == 2
