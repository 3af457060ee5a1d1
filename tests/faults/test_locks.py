"""Runs that share a cache compute nothing twice, say for whom they wait, and do not wait for ever."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event, Thread

import pytest
from fault_samples import TEXTS, filled
from filelock import FileLock

from probes import locks
from probes.activations import ExtractionSettings, PassReport, claims, open_stores
from probes.backbones import tiny_backbone
from probes.files import write_text
from probes.locks import holder_of, process_lock, this_process

_HOLD = """
import sys, time
from pathlib import Path
from probes.locks import process_lock
with process_lock(Path(sys.argv[1]), what="it"):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held_by_another_process(lock_file: Path) -> Iterator[int]:
    """The process id of a program that holds the lock within the context."""
    command = [sys.executable, "-c", _HOLD, str(lock_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process.pid
        finally:
            process.kill()


def lock_of_tiny(root: Path) -> Path:
    return next(iter(open_stores(tiny_backbone(), ExtractionSettings(), root).values())).lock_file


@contextmanager
def computing(root: Path, **settings) -> Iterator[dict[str, int]]:
    """A run that stands still in its first pass within the context; afterwards it ends, and tells what it computed."""
    entered, leave, found = Event(), Event(), {}
    backbone = tiny_backbone()

    def wait_to_leave(*_) -> None:
        entered.set()
        leave.wait(30)

    backbone.model.register_forward_pre_hook(wait_to_leave)
    run = Thread(target=lambda: found.update(texts=filled(backbone, root, **settings)[1].texts_computed))
    run.start()
    assert entered.wait(30)
    try:
        yield found
    finally:
        leave.set()
        run.join(30)


@pytest.mark.parametrize(
    ("poolings", "by_first"),
    [((["last", "mean"], ["mean", "last"]), 8), ((["last", "mean"], "mean"), 24)],  # the second does not give `last`
)
def test_two_runs_share_the_texts_of_a_backbone(tmp_path, poolings, by_first):
    with computing(tmp_path, pooling=poolings[0]) as first:  # has claimed the first shard of three
        beside = Thread(target=lambda: second.append(filled(tiny_backbone(), tmp_path, pooling=poolings[1])[1]))
        second: list[PassReport] = []
        beside.start()
        beside.join(1)
        assert beside.is_alive()  # it waits for the first shard
    beside.join(30)
    assert (first["texts"], second[0].texts_computed) == (by_first, 16)


def test_a_run_that_wants_other_texts_does_not_wait(tmp_path):
    with computing(tmp_path) as first:
        report = filled(tiny_backbone(), tmp_path, [f"another {i}" for i in range(20)], lock_timeout=1)[1]
        assert report.texts_computed == 20
    assert first["texts"] == 24


def test_who_waits_for_a_process_that_computes_the_last_texts_names_it_and_gives_up(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(locks, "_NAME_HOLDER_AFTER", 0.2)
    with computing(tmp_path), pytest.raises(TimeoutError, match=rf"which process {os.getpid()} on "):
        filled(tiny_backbone(), tmp_path, lock_timeout=1)
    assert f"Waiting for the activations of 'tiny-0', which process {os.getpid()} on" in caplog.text


def claim_of(process: dict[str, object], root: Path) -> Path:
    """A claim of some process on all texts, as it would have left it."""
    lock_file, ids = lock_of_tiny(root), tiny_backbone().tokenize(TEXTS).text_ids
    return write_text(lock_file.with_suffix(".1.claim"), json.dumps({"process": process, "texts": ids}))


def test_a_run_that_failed_keeps_no_claim_while_its_traceback_is_kept(tmp_path):
    broken = tiny_backbone()
    broken.model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(ArithmeticError))
    with pytest.raises(ArithmeticError) as kept:  # as a notebook keeps the last traceback
        filled(broken, tmp_path)
    assert filled(tiny_backbone(), tmp_path, lock_timeout=1)[1].texts_computed == 24
    assert kept.tb is not None


def test_a_claim_that_was_taken_for_dead_is_not_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "SECONDS_BETWEEN_BEATS", 0.05)
    own = claims.Claims(lock_of_tiny(tmp_path))
    claim = own.claim(["a text"])
    with own.beating(claim):
        claim.unlink()
        time.sleep(0.3)
        assert not claim.exists()


def test_the_texts_of_a_process_that_has_died_are_taken_over(tmp_path, caplog):
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        pass
    claim = claim_of(this_process() | {"pid": process.pid}, tmp_path)
    assert filled(tiny_backbone(), tmp_path, lock_timeout=1)[1].texts_computed == 24
    assert f"process {process.pid} on" in caplog.text
    assert "its 24 texts are taken over" in caplog.text
    assert not claim.exists()


def test_the_texts_of_another_machine_are_taken_over_only_when_its_claim_stays_untouched(tmp_path, monkeypatch):
    claim = claim_of(this_process() | {"host": "another"}, tmp_path)
    with pytest.raises(TimeoutError, match="on another"):
        filled(tiny_backbone(), tmp_path, lock_timeout=1)
    monkeypatch.setattr(claims, "SECONDS_UNTIL_VOID", 0.5)
    assert filled(tiny_backbone(), tmp_path, lock_timeout=5)[1].texts_computed == 24
    assert not claim.exists()


def test_a_claim_that_is_touched_stays_valid(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "SECONDS_BETWEEN_BEATS", 0.1)
    monkeypatch.setattr(claims, "SECONDS_UNTIL_VOID", 0.5)
    with computing(tmp_path), pytest.raises(TimeoutError):
        filled(tiny_backbone(), tmp_path, lock_timeout=2)


def test_a_run_that_lacks_nothing_waits_for_nobody(tmp_path):
    filled(tiny_backbone(), tmp_path)
    with FileLock(lock_of_tiny(tmp_path)):
        assert filled(tiny_backbone(), tmp_path, lock_timeout=0.2)[1].texts_computed == 0
        with pytest.raises(TimeoutError):  # the control: one that lacks a text does wait
            filled(tiny_backbone(), tmp_path, ["another text"], lock_timeout=0.2)


def test_a_run_that_waits_for_a_stopped_process_names_it_and_gives_up(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(locks, "_NAME_HOLDER_AFTER", 0.2)
    with held_by_another_process(lock_of_tiny(tmp_path)) as holder:
        os.kill(holder, signal.SIGSTOP)
        time.sleep(0.1)
        with pytest.raises(TimeoutError, match=rf"process {holder} on .*stopped.*`paths\.lock_timeout`"):
            filled(tiny_backbone(), tmp_path, lock_timeout=1)
    (warning,) = caplog.messages
    assert f"Waiting for the activations of 'tiny-0', which process {holder} on" in warning


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    lock = lock_of_tiny(tmp_path)
    with held_by_another_process(lock) as holder:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        assert filled(tiny_backbone(), tmp_path, lock_timeout=5)[1].texts_computed == 24


def test_who_waits_has_patience_as_long_as_the_holder_gets_on(tmp_path):
    lock, ticks = tmp_path / "lock", count()
    held = FileLock(lock, thread_local=False)
    held.acquire()
    Thread(target=lambda: time.sleep(1.5) or held.release(force=True)).start()
    with pytest.raises(TimeoutError), process_lock(lock, what="it", timeout=0.3):
        pass
    with process_lock(lock, what="it", timeout=0.3, progress=lambda: next(ticks)) as is_held:
        assert is_held


def test_a_note_that_cannot_be_read_names_an_unknown_process(tmp_path):
    (tmp_path / "lock.holder").write_text("{}")
    assert holder_of(tmp_path / "lock") == "an unknown process"


def test_the_note_goes_with_the_lock(tmp_path):
    with process_lock(tmp_path / "lock", what="it"):
        assert f"process {os.getpid()} on " in holder_of(tmp_path / "lock")
    assert holder_of(tmp_path / "lock") == "an unknown process"


def locking_raises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(*_, **__):
        raise error

    monkeypatch.setattr(FileLock, "acquire", acquire)


@pytest.mark.parametrize(
    "error",
    [
        NotImplementedError("FileSystem does not appear to support flock"),  # filelock's own, of ENOSYS
        OSError(errno.ENOLCK, "No locks available"),  # NFS without its lock daemon
    ],
    ids=["flock", "nfs"],
)
def test_on_a_file_system_without_locks_a_run_goes_on_after_a_warning(tmp_path, caplog, monkeypatch, error):
    locking_raises(error, monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert filled(tiny_backbone(), tmp_path)[1].texts_computed == 24
    assert "file system without locks" in caplog.text


def test_any_other_failure_to_lock_is_raised(tmp_path, monkeypatch):
    locking_raises(OSError(errno.EIO, "Input/output error"), monkeypatch)
    with pytest.raises(OSError, match="Input/output error"), process_lock(tmp_path / "lock", what="it"):
        pass


def test_the_note_of_a_lock_does_not_repeat_the_command_line_which_may_hold_secrets(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "logger.key=s3cr3t"])
    with process_lock(tmp_path / "lock", what="it"):
        notes = [file.read_text() for file in tmp_path.iterdir() if file.name != "lock"]
    assert notes
    assert not any("s3cr3t" in note for note in notes)


@pytest.mark.parametrize("setting", [{"verify": "never"}, {"lock_timeout": -1}, {"lock_timeout": "soon"}])
def test_cache_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValueError, match=rf"`paths\.{next(iter(setting))}`"):
        ExtractionSettings(**setting)
