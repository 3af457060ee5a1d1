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

from probes.report import wandb_mode
from probes.report.wandb_mode import answers, choose_mode

ROOT = Path(__file__).parents[3]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine without key or settings whose server answers; tests change it."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    settings = SimpleNamespace(mode="online", base_url="https://api.wandb.ai", api_key=None)
    monkeypatch.setattr(wandb, "setup", lambda: SimpleNamespace(settings=settings))
    monkeypatch.setattr(wandb_mode, "answers", lambda url, seconds: True)
    return settings


class TestChooseMode:
    def test_without_a_key_it_is_offline(self, machine):
        mode, reason = choose_mode("auto")
        assert mode == "offline"
        assert "no API key" in reason

    @pytest.mark.parametrize("place", ["environment", "settings", "netrc", "netrc of the other name"])
    def test_with_a_key_anywhere_it_is_online(self, machine, monkeypatch, tmp_path, place):
        if place == "environment":
            monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        elif place == "settings":
            machine.api_key = "k" * 40
        else:
            host = "api.wandb.ai" if place == "netrc" else "api.forge.coreweave.com"
            (tmp_path / "netrc").write_text(f"machine {host}\n login user\n password {'k' * 40}\n")
        assert choose_mode("auto") == ("online", "")

    def test_a_key_for_another_server_is_no_key(self, machine, tmp_path):
        (tmp_path / "netrc").write_text("machine api.wandb.ai\n login user\n password kkkk\n")
        machine.base_url = "https://wandb.example.org"
        assert choose_mode("auto")[0] == "offline"

    def test_without_an_answer_it_is_offline(self, machine, monkeypatch):
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setattr(wandb_mode, "answers", lambda url, seconds: False)
        assert choose_mode("auto") == ("offline", "https://api.wandb.ai does not answer")

    @pytest.mark.parametrize(
        ("said", "mode"),
        [("offline", "offline"), ("dryrun", "offline"), ("disabled", "disabled"), ("online", "online")],
    )
    def test_what_the_environment_says_is_done(self, machine, monkeypatch, said, mode):
        monkeypatch.setenv("WANDB_MODE", said)
        assert choose_mode("auto") == (mode, "")

    def test_what_the_settings_file_says_is_done(self, machine):
        machine.mode = "offline"
        assert choose_mode("auto") == ("offline", "")

    def test_what_the_config_says_wins(self, machine, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "disabled")
        assert choose_mode("offline") == ("offline", "")

    def test_a_mode_unknown_to_wandb_is_refused(self, machine, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "off")
        with pytest.raises(ValueError, match="WANDB_MODE expects one of online, offline, disabled; got 'off'"):
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


class TestAnswers:
    def test_a_refusal_is_an_answer(self, refusing_server):
        assert answers(refusing_server, 5)

    def test_a_closed_port_is_none(self):
        assert not answers("http://127.0.0.1:1", 5)

    def test_a_lookup_that_hangs_costs_no_more_than_the_limit(self, monkeypatch):
        let_go = threading.Event()

        def hang(url, timeout):
            let_go.wait(30)
            raise OSError

        monkeypatch.setattr(wandb_mode.urllib.request, "urlopen", hang)
        start = time.monotonic()
        assert not answers("http://example.org", 0.1)
        assert time.monotonic() - start < 5
        let_go.set()


TRACK = """
import logging, pathlib
from probes.report import WandbRunLogger
logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
for job in "01":
    with WandbRunLogger(group="g").run({}, pathlib.Path(job)):
        pass
"""


def in_a_fresh_process(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code as on a machine where nobody has logged in, with no one to answer prompts."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    known = {"HOME": str(folder), "NETRC": str(folder / "netrc"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=inherited | known | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


class TestFreshProcess:
    def test_without_a_key_it_goes_offline_and_says_how_to_upload(self, tmp_path):
        done = in_a_fresh_process(TRACK, tmp_path)
        lines = (done.stdout + done.stderr).splitlines()
        assert len(lines) == 2  # one a run, and not a word of W&B's own
        for line, run_dir in zip(lines, offline_run_dirs(tmp_path), strict=True):
            assert line.startswith("WARNING W&B keeps this run offline because there is no API key")
            assert line.endswith(f"wandb sync {run_dir}")

    def test_a_key_that_the_server_refuses_costs_no_run(self, tmp_path, refusing_server):
        done = in_a_fresh_process(TRACK, tmp_path, WANDB_BASE_URL=refusing_server, WANDB_API_KEY="k" * 40)
        assert "offline because W&B refused" in done.stderr
        assert len(offline_run_dirs(tmp_path)) == 2
