"""SIGTERM and SIGINT end whatever runs, within seconds, and leave no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch
from fault_samples import filled
from lightning import LightningModule
from torch.utils.data import DataLoader

from probes.activations.store import ActivationStore
from probes.backbones import tiny_backbone
from probes.runs import signals
from probes.runs.signals import Interrupted, at_hard_exit, ended_by_signals
from probes.threads import map_on_cores, stop_if_abandoned
from probes.trainers import default_trainer, quiet_lightning
from probes.training.linear_solver.solve import solve_linear

BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


def send(number: int, after: float = 0.2) -> None:
    threading.Timer(after, os.kill, (os.getpid(), number)).start()


@BOTH
def test_a_signal_raises_in_the_main_thread_and_handlers_are_restored(number):
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    send(number)
    with pytest.raises(Interrupted, match=signal.Signals(number).name) as caught, ended_by_signals():
        time.sleep(10)
    assert caught.value.exit_code == 128 + number
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_second_signal_does_not_disturb_what_the_first_has_begun():
    closed = []

    def close_slowly() -> None:
        try:
            time.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
            closed.append(True)

    send(signal.SIGINT)
    with pytest.raises(Interrupted, match="SIGINT"), ended_by_signals(), ended_by_signals():
        close_slowly()
    assert closed


def test_without_a_signal_errors_and_results_pass_through():
    with pytest.raises(ZeroDivisionError), ended_by_signals():
        _ = 1 / 0
    with ended_by_signals():
        value = 1
    assert value == 1


def test_in_another_thread_nothing_is_changed():
    handlers = []

    def run() -> None:
        with ended_by_signals():
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [before]


class Endless(LightningModule):
    """Sends a signal in its third step, and would go on for ever."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.layer, self.number = torch.nn.Linear(1, 1), number

    def training_step(self, batch, index):
        if self.global_step == 3:
            os.kill(os.getpid(), self.number)
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@BOTH
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_a_signal_ends_a_fit_of_lightning(number):
    trainer = default_trainer(max_epochs=-1)
    with pytest.raises(Interrupted), ended_by_signals(), quiet_lightning():
        trainer.fit(Endless(number), DataLoader(torch.ones(4, 1)))
    assert trainer.global_step == 3


def test_a_signal_ends_an_exact_solve_whose_threads_would_go_on():
    x = torch.randn(4, 300, 40, generator=torch.Generator().manual_seed(0))
    targets = (torch.arange(300) % 30)[None]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    send(signal.SIGTERM, after=1.0)
    start = time.monotonic()
    try:
        with pytest.raises(Interrupted), ended_by_signals():
            solve_linear(
                "classification", x, targets, torch.tensor([1e-6]), classes=30, tolerance=0.0, max_iterations=10**7
            )
        assert 1 <= time.monotonic() - start < 10
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_an_error_in_one_item_ends_the_others_that_ask():
    def work(item: int) -> None:
        if item == 0:
            raise ZeroDivisionError
        while True:
            stop_if_abandoned()
            time.sleep(0.01)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            map_on_cores(work, [0, 1, 2], torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)


def script(folder: Path, text: str) -> subprocess.Popen[str]:
    """Start a script that prints a line when it is ready for a signal."""
    path = folder / "script.py"
    path.write_text(textwrap.dedent(text))
    return subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    )


def test_a_process_that_hangs_ends_at_its_time_limit_after_its_last_actions(tmp_path):
    process = script(
        tmp_path,
        """
        import time
        from pathlib import Path
        from probes.runs import signals
        signals.SECONDS_TO_END = 0.5
        with signals.ended_by_signals(), signals.at_hard_exit(lambda reason: Path("last").write_text(reason.name)):
            try:
                print("ready", flush=True)
                time.sleep(60)
            finally:
                time.sleep(60)  # a server that does not answer
        """,
    )
    process.stdout.readline()
    process.terminate()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert (tmp_path / "last").read_text() == "SIGTERM"
    assert errors == "Interrupted by SIGTERM: the run did not end within 0.5 s and was stopped.\n"


def test_an_action_for_hard_exits_is_forgotten_with_its_context():
    with at_hard_exit(print):
        assert signals._actions == [print]
    assert signals._actions == []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to find processes")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_that_draws_figures_outlives_the_run(tmp_path, number):
    process = script(
        tmp_path,
        """
        import os, time
        from functools import partial
        from pathlib import Path
        from matplotlib.figure import Figure
        from probes.report.pictures import save_pictures
        from probes.runs.signals import ended_by_signals

        def draw(number):
            Path(f"{os.getpid()}.pid").touch()
            time.sleep(60)

        with ended_by_signals():
            save_pictures({Path(f"{number}.png"): partial(draw, number) for number in range(8)}, workers=2)
        """,
    )
    try:
        wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2, seconds=60)
        helpers = [int(path.stem) for path in tmp_path.glob("*.pid")]
        assert all(alive(pid) for pid in helpers)
        process.send_signal(number)
        process.communicate(timeout=20)
        wait_until(lambda: not any(alive(pid) for pid in helpers), seconds=10)
    finally:
        process.kill()
        process.communicate()


def wait_until(condition, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_signal_during_extraction_loses_less_than_one_shard(tmp_path, monkeypatch):
    add, added = ActivationStore.add, []

    def add_and_signal(self, names, layers, values, **offsets):
        add(self, names, layers, values, **offsets)
        added.extend(names)
        if len(added) == 16:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ActivationStore, "add", add_and_signal)
    with pytest.raises(Interrupted), ended_by_signals():
        filled(tiny_backbone(), tmp_path, texts_per_shard=8)
    assert len(added) == 16
    _, report = filled(tiny_backbone(), tmp_path, texts_per_shard=8)
    assert report.texts_computed == report.texts - 16


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


_SLOW_END = """
import atexit, sys, time
atexit.register(lambda: (print("ending", flush=True), time.sleep(1)))
from probes.commands.endings import ended_in_words
with ended_in_words():
    if sys.argv[1] == "fails":
        raise ValueError("A mistake.")
"""


@BOTH
@pytest.mark.parametrize(("what", "code"), [("works", 0), ("fails", 1)])
def test_a_signal_that_comes_while_python_ends_changes_nothing(number, what, code):
    command = [sys.executable, "-c", _SLOW_END, what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ending\n"
        process.send_signal(number)
        assert process.wait(30) == code
