"""Processes that fill one store share the work, whichever of them die, and leave the store that one alone leaves."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_samples import filled, stored_files

from probes.backbones import tiny_backbone

TEXTS = [f"{i} {'word ' * random.Random(i).randint(0, 20)}" for i in range(400)]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="starts workers by fork")


def started(work: Callable[[], object]) -> int:
    """The number of a new process that does some work."""
    sys.stdout.flush()
    if (pid := os.fork()) == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def worker(root: Path, *, slow: float = 0.0) -> int:
    """A process that fills the store, `slow` seconds for each pass more than it needs."""

    def fill() -> None:
        backbone = tiny_backbone()
        backbone.model.register_forward_pre_hook(lambda *_: time.sleep(slow))
        filled(backbone, root, TEXTS, texts_per_shard=32)

    return started(fill)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, object]:
    root = tmp_path_factory.mktemp("alone")
    filled(tiny_backbone(), root, TEXTS, texts_per_shard=32)
    return stored_files(root)


def test_four_workers_leave_the_store_of_one_bit_for_bit(tmp_path, alone):
    workers = [worker(tmp_path, slow=0.005) for _ in range(4)]
    assert [os.waitpid(pid, 0)[1] for pid in workers] == [0] * 4
    assert stored_files(tmp_path) == alone


@pytest.mark.parametrize("seed", range(int(os.environ.get("PROBES_WORKER_ROUNDS", "3"))))
def test_workers_that_are_killed_lose_and_repeat_nothing(tmp_path, alone, seed: int):
    draw = random.Random(seed)
    workers = [worker(tmp_path, slow=0.01) for _ in range(4)]
    victims = draw.sample(workers, 2)
    for pid in victims:
        time.sleep(draw.uniform(0, 0.3))
        os.kill(pid, signal.SIGKILL)
    ends = {pid: os.waitpid(pid, 0)[1] for pid in workers}
    assert all(ends[pid] == 0 for pid in workers if pid not in victims)
    assert any(os.WIFSIGNALED(ends[pid]) for pid in victims)  # the control: they were killed at work
    filled(tiny_backbone(), tmp_path, TEXTS, texts_per_shard=32)
    assert stored_files(tmp_path) == alone
