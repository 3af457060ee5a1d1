"""`extraction.workers`: further processes fill the same stores, whatever becomes of them."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from fault_samples import TEXTS, filled, stored_files

from probes.activations import ExtractionSettings, open_stores
from probes.activations.workers import Extraction, _places, work
from probes.backbones import FrozenBackbone, tiny_backbone

MANY = [f"{number} {'word ' * (number % 7)}" for number in range(160)]
BUSY = """
import time
from pathlib import Path
from fault_samples import filled
from probes.backbones import tiny_backbone
from probes.runs.signals import ended_by_signals

with ended_by_signals():
    backbone = tiny_backbone()
    backbone.model.register_forward_pre_hook(lambda *_: time.sleep(60))
    filled(backbone, Path("store"), workers=2)
"""


def wait_until(condition, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def claimants(root: Path) -> set[int]:
    """The processes that have claimed texts."""
    found = set()
    for claim in root.glob("*.claim"):
        try:
            found.add(json.loads(claim.read_text())["process"]["pid"])
        except (FileNotFoundError, ValueError):
            continue
    return found


def shards(root: Path) -> int:
    return len(list(root.glob("*/[!.]*.safetensors")))


def test_workers_do_a_part_and_the_store_is_that_of_one_process(tmp_path):
    filled(tiny_backbone(), tmp_path / "one", MANY)
    backbone, passes = tiny_backbone(), []

    def wait_for_workers(*_) -> None:
        passes.append(1)
        if len(passes) == 1:
            wait_until(lambda: shards(tmp_path / "three") >= 3)

    backbone.model.register_forward_pre_hook(wait_for_workers)
    threads = torch.get_num_threads()
    _, report = filled(backbone, tmp_path / "three", MANY, workers=3)
    assert stored_files(tmp_path / "three") == stored_files(tmp_path / "one")
    assert report.texts_computed == len(MANY)
    assert report.forward_passes > len(passes)  # the control: others did the rest
    assert torch.get_num_threads() == threads
    assert not list((tmp_path / "three").glob("*.claim"))


def test_a_worker_that_is_killed_is_taken_over_and_named(tmp_path, caplog):
    filled(tiny_backbone(), tmp_path / "one", MANY)
    backbone, root = tiny_backbone(), tmp_path / "two"
    killed = []

    def kill_worker(*_) -> None:
        if not killed:
            wait_until(lambda: claimants(root) - {os.getpid()})
            killed.extend(claimants(root) - {os.getpid()})
            os.kill(killed[0], signal.SIGKILL)

    backbone.model.register_forward_pre_hook(kill_worker)
    _, report = filled(backbone, root, MANY, workers=2)
    assert stored_files(root) == stored_files(tmp_path / "one")
    assert f"Worker {killed[0]} of the extraction was killed; its texts are taken over." in caplog.text
    assert report.texts_computed <= len(MANY)


def test_an_error_of_a_worker_is_raised_in_the_main_process(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    backbone = tiny_backbone()
    backbone.reload = partial(tiny_backbone, seed=1)
    backbone.model.register_forward_pre_hook(
        lambda *_: wait_until(lambda: list(tmp_path.glob("probes-workers-*/1/error")))
    )
    with pytest.raises(ValueError, match="Backbone 'tiny-1' has other weights when it is loaded again") as raised:
        filled(backbone, tmp_path / "store", workers=2)
    assert "Raised in worker" in raised.value.__notes__[0]


def test_any_error_of_a_worker_can_be_handed_over(tmp_path):
    backbone = tiny_backbone()
    settings = ExtractionSettings()
    extraction = Extraction(backbone.tokenize(TEXTS), open_stores(backbone, settings, tmp_path), settings, None)
    (tmp_path / "job").write_bytes(pickle.dumps((partial(FrozenBackbone.load, path="/nowhere"), extraction)))
    with pytest.raises(SystemExit):
        work(str(tmp_path))
    error, trace = pickle.loads((tmp_path / "error").read_bytes())
    assert isinstance(error, FileNotFoundError)
    assert "No model at '/nowhere'" in str(error)
    assert "Traceback" in trace


def test_workers_end_with_the_main_process(tmp_path):
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    mains = {}
    for number in (signal.SIGTERM, signal.SIGKILL):
        (folder := tmp_path / number.name).mkdir()
        main = subprocess.Popen([sys.executable, "-c", BUSY], cwd=folder, env=os.environ | {"PYTHONPATH": paths})
        mains[number] = main
    for number, main in mains.items():
        wait_until(lambda number=number: shards(tmp_path / number.name / "store") > 0)  # the main process writes none
        children = [int(pid) for pid in Path(f"/proc/{main.pid}/task/{main.pid}/children").read_text().split()]
        assert children
        main.send_signal(number)
        main.wait(timeout=60)
        wait_until(lambda pids=children: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids), seconds=60)


def test_a_live_model_is_read_by_one_process_with_a_warning(tmp_path, caplog):
    tiny = tiny_backbone()
    live = FrozenBackbone(tiny.model, tiny.tokenizer.wrapped, name="live")
    _, report = filled(live, tmp_path, workers=2)
    assert report.texts_computed == len(TEXTS)
    assert "No further process can load 'live'" in caplog.text


def test_two_workers_are_refused_on_one_gpu_and_in_a_job_of_ranks(monkeypatch):
    assert _places(torch.device("cpu"), 2) == [{}, {}]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"needs a GPU for each process, and there is 1 \(cuda\)"):
        _places(torch.device("cuda"), 2)
    with pytest.raises(ValueError, match=r"there is 1 \(mps\)"):
        _places(torch.device("mps"), 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in _places(torch.device("cuda"), 3)] == ["2", "3", "5"]
    with pytest.raises(ValueError, match=r"`backbone\.device=cuda:1` is another one"):
        _places(torch.device("cuda:1"), 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="in a job of 2 ranks"):
        _places(torch.device("cpu"), 2)
