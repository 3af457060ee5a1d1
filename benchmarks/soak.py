"""Kill runs at random moments, go on, and compare the final tables with those of runs that nobody disturbed.

    python benchmarks/soak.py --minutes 10

Each cycle takes a study of the tiny backbone (probing with its extraction, layer-by-layer tuning, or a sweep) in a new
folder with a new cache, kills it up to three times by SIGTERM, SIGINT or SIGKILL, goes on after each, and lets it
finish. The counts are printed and written as JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from probes.files import write_json
from probes.runs.run_folder import read_state

ROOT = Path(__file__).resolve().parent.parent
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
MOST_KILLS = 3
SECONDS_TO_START = 120.0
SECONDS_TO_FINISH = 600.0
SECONDS_FOR_HELPERS = 3.0

_TINY = ("backbone=tiny", "logger=csv", "analysis=none")
_PROBE = (*_TINY, "suite.tasks=[topic,tense]", "suite.max_rows=240", "extraction.texts_per_shard=32")
WORKLOADS = {
    "probe": _PROBE,
    "layer_by_layer": (
        "experiment=layer_by_layer", *_TINY, "suite.tasks=[topic,tense]", "suite.max_rows=48",
        "study.mixture.unseen=[]", "study.mixture.replicate_tasks=0", "study.similarity_rows=30",
        "~study.similarity.pwcca", "~study.similarity.rsa", "study.maps.layers=1", "study.with_probes=false",
        "tuning.max_steps=12", "tuning.generate_rows=2", "tuning.max_new_tokens=2", "tuning.checkpoint_every_n_steps=2",
    ),
    "sweep": ("-m", *_PROBE, "seed=0,1"),
}  # fmt: skip
NEXT_STAGE = (
    {"tasks": "backbone", "backbone": "activations", "activations": "probes"},
    {"tasks": "backbone", "backbone": "tune", "tune": "read", "read": "compare", "compare": "probes"},
)
"""The stage of `provenance.json` that ended last → what comes next; of probe studies, and of layer-by-layer ones."""
NOT_RESULTS = {"jobs.csv": ("started", "ended")}
"""Columns that are different in every run."""


@dataclass
class Counts:
    """What happened.

    Attributes:
        cycles: Runs that were killed, went on and finished, by study.
        kills: By signal and what was going on.
        too_late: Signals that came when the run had ended.
        wrong_exits: Runs that a signal ended with another exit code or without the line that says how to go on.
        helpers_left: Processes of a killed run that were there 3 s later.
        failed: Runs that ended in an error.
        cells: Cells of tables compared.
        lost: Cells of the undisturbed run that are missing.
        duplicated: Rows that occur more than once.
        different: Cells with another content.
        identical: Cycles whose tables are all the same as the undisturbed run's.
        litter: Half-written files in the folders of finished runs.
        seconds: Duration.
    """

    cycles: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    too_late: int = 0
    wrong_exits: int = 0
    helpers_left: int = 0
    failed: int = 0
    cells: int = 0
    lost: int = 0
    duplicated: int = 0
    different: int = 0
    identical: int = 0
    litter: int = 0
    seconds: float = 0.0


class Study:
    """One study in a folder of its own, as a command that can be killed and go on."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.out = name, folder / "out"
        key = "hydra.sweep.dir" if name == "sweep" else "hydra.run.dir"
        overrides = (*WORKLOADS[name], f"paths.cache_dir={folder / 'cache'}", f"{key}={self.out}")
        self.command = [sys.executable, str(ROOT / "train.py"), *overrides]

    def start(self) -> subprocess.Popen[str]:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            self.command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip

    def finish(self) -> str | None:
        """Run to the end; the error, if there is one."""
        process = self.start()
        _, errors = process.communicate(timeout=SECONDS_TO_FINISH)
        return None if process.returncode == 0 else errors or f"exit code {process.returncode}"

    def wait_until_running(self, process: subprocess.Popen[str]) -> None:
        """Wait until the process has begun its work."""
        deadline = time.monotonic() + SECONDS_TO_START
        while process.poll() is None and time.monotonic() < deadline and not self._is_running(process.pid):
            time.sleep(0.02)

    def stage(self) -> str:
        """What is probably going on."""
        folders = [folder for folder in (self.out, *self.out.glob("[0-9]*")) if read_state(folder) is not None]
        if not folders:
            return "start"
        newest = max(folders, key=lambda folder: (folder / "run_state.json").stat().st_mtime)
        ended: list[str] = []
        with suppress(OSError, ValueError):
            ended = list(json.loads((newest / "provenance.json").read_text())["seconds"])
        if not ended:
            return "start"
        if ended[-1] == "probes":
            return "report" if (newest / "figures").exists() else "probes"
        return NEXT_STAGE[self.name == "layer_by_layer"].get(ended[-1], "end")

    def tables(self) -> dict[str, list[dict[str, str]]]:
        """All CSV files below the folder, by path, without what is different in every run."""
        found = {}
        for path in sorted(self.out.rglob("*.csv")):
            if path.name.startswith(".") or "earlier" in path.parts:
                continue
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            for row in rows:
                for column in NOT_RESULTS.get(path.name, ()):
                    row.pop(column, None)
                if path.name == "jobs.csv":
                    row["overrides"] = " ".join(o for o in row["overrides"].split() if not o.startswith("paths."))
            found[str(path.relative_to(self.out))] = rows
        return found

    def _is_running(self, pid: int) -> bool:
        states = [read_state(folder) for folder in (self.out, *self.out.glob("[0-9]*"))]
        return any(state is not None and (state.pid, state.state) == (pid, "running") for state in states)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=None, help="cycles at most; default: as many as fit")
    parser.add_argument("--minutes", type=float, default=10.0, help="no cycle starts after so many minutes")
    parser.add_argument("--seed", type=int, default=0, help="decides studies, signals and moments")
    parser.add_argument("--out", type=Path, default=Path("outputs/soak.json"), help="where the counts are written")
    parser.add_argument("--studies", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS), help="in turns")
    arguments = parser.parse_args()
    counts = soak(arguments.studies, arguments.cycles, arguments.minutes, random.Random(arguments.seed))
    write_json(arguments.out, vars(counts))
    print(arguments.out.read_text())
    faults = (counts.wrong_exits, counts.helpers_left, counts.failed, counts.lost, counts.duplicated, counts.different)
    sys.exit(1 if any(faults) or counts.litter else 0)


def soak(studies: list[str], cycles: int | None, minutes: float, draw: random.Random) -> Counts:
    counts, start = Counts(), time.monotonic()
    undisturbed: dict[str, tuple[dict, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        while time.monotonic() - start < 60 * minutes and (cycles is None or counts.cycles.total() < cycles):
            name = studies[counts.cycles.total() % len(studies)]
            if name not in undisturbed:
                undisturbed[name] = reference(name, Path(scratch, name))
            tables, seconds = undisturbed[name]
            cycle(name, Path(scratch, f"{counts.cycles.total()}"), tables, seconds, draw, counts)
            counts.cycles[name] += 1
            print(f"cycle {counts.cycles.total()} ({name}): {counts.kills.total()} kills", flush=True)
    counts.seconds = round(time.monotonic() - start)
    return counts


def reference(name: str, folder: Path) -> tuple[dict, float]:
    """The tables of an undisturbed run, and how long it worked after its start, in seconds."""
    study = Study(name, folder)
    process = study.start()
    study.wait_until_running(process)
    begun = time.monotonic()
    _, errors = process.communicate(timeout=SECONDS_TO_FINISH)
    assert process.returncode == 0, errors
    return study.tables(), time.monotonic() - begun


def cycle(name: str, folder: Path, tables: dict, seconds: float, draw: random.Random, counts: Counts) -> None:
    study = Study(name, folder)
    for _ in range(draw.randint(1, MOST_KILLS)):
        after = seconds * draw.random() ** 2  # early moments are likelier: the last half draws figures
        kill(study, draw.choice(SIGNALS), after, draw.random() < 0.1, counts)
    error = study.finish()
    if error is not None:
        counts.failed += 1
        print(f"{name}: {error}")
    compare(study, tables, counts)


def kill(study: Study, number: signal.Signals, after: float, while_starting: bool, counts: Counts) -> None:
    """Start a study, kill it at a moment, and look at what it says and leaves."""
    process = study.start()
    if while_starting:
        time.sleep(after % 3)
    else:
        study.wait_until_running(process)
        time.sleep(after)
    stage = study.stage()
    if process.poll() is not None:
        counts.too_late += 1
        process.communicate()
        return
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    if process.returncode == 0:
        counts.too_late += 1
        return
    counts.kills[f"{number.name} during {stage}"] += 1
    if number != signal.SIGKILL and not while_starting:
        _, _, command = errors.partition("Go on with: ")
        if "The run had finished" in errors:
            command = shlex.join(study.command)
        if process.returncode != 128 + number or errors.count("\n") != 1 or not command:
            counts.wrong_exits += 1
            print(f"{study.name}, {number.name} during {stage}: exit code {process.returncode}\n{errors}")
        else:
            study.command = shlex.split(command)
    time.sleep(SECONDS_FOR_HELPERS if any(in_session(process.pid)) else 0)
    left = list(in_session(process.pid))
    counts.helpers_left += len(left)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def in_session(leader: int) -> Iterator[int]:
    """Processes that a command started and that are still there."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state not in {"Z", "X"}:
                yield int(path.parent.name)


def compare(study: Study, expected: dict[str, list[dict[str, str]]], counts: Counts) -> None:
    """Compare all tables with those of the undisturbed run, cell by cell."""
    found = study.tables()
    lost = different = duplicated = 0
    for path, rows in expected.items():
        cells = [(index, column) for index, row in enumerate(rows) for column in row]
        counts.cells += len(cells)
        there = found.get(path, [])
        for index, column in cells:
            if index >= len(there) or column not in there[index]:
                lost += 1
            elif there[index][column] != rows[index][column]:
                different += 1
        keys = Counter(tuple(row.items()) for row in there)
        duplicated += sum(count - 1 for count in keys.values())
        duplicated -= sum(count - 1 for count in Counter(tuple(row.items()) for row in rows).values())
    litter = [path for path in study.out.rglob(".*-????????.*") if path.is_file()]
    counts.lost, counts.different, counts.duplicated = (
        counts.lost + lost,
        counts.different + different,
        counts.duplicated + duplicated,
    )
    counts.litter += len(litter)
    counts.identical += not (lost or different or duplicated) and found.keys() == expected.keys()


if __name__ == "__main__":
    main()
