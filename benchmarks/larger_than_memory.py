"""Probes and CKA of up to a million training rows that stay on disk: seconds, peak memory, growth.

Generated activations in bfloat16 are written once into a store of 512 rows a file, as an extraction leaves them, and
each work reads them back in a process of its own. A million rows of 31 layers and 576 features take 36 GB of disk:

    python benchmarks/larger_than_memory.py --layers 31 --folder /DISK --works ridge lda "linear CKA"

With `--files N` only N files are written, and a million rows read them again and again: less disk, but what is read
comes from the operating system's cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from peak import more_gib, peak_gib

from probes.activations import ActivationStore
from probes.analysis.streaming import streamed_cka_pairs
from probes.studies.suite_activations import StoredRows
from probes.training import (
    LabelledActivations,
    ProbeSettings,
    StreamedRows,
    TaskData,
    default_trainer,
    fit_task,
)
from probes.values import Activations, Reading

FEATURES, FILE_ROWS, HELD = 576, 512, 2000
SUMS = 450 * 2**20  # bytes of the sums behind linear CKA: the 496 pairs of 31 layers take three passes over the rows
READING = Reading("decoder", "residual", "last")
WORKS = ("ridge", "lda", "linear CKA", "logistic, one epoch")
FIGURE = Path(__file__).parent / "larger_than_memory.png"


@dataclass(frozen=True)
class Point:
    """One size: rows, layers, seconds, GiB above what the process held before, and the peak of the whole process."""

    work: str
    rows: int
    layers: int
    seconds: float
    more_gib: float
    peak_gib: float


def opened(folder: Path) -> ActivationStore:
    return ActivationStore(folder, fingerprint="generated", decoder_input="start", reading=READING, verify="quick")


def generated(number: int, layers: int) -> torch.Tensor:
    """Rows of one file, `(rows, layers, features)`: each layer knows the row's class a little better than the last."""
    generator = torch.Generator().manual_seed(number)
    values = torch.randn(FILE_ROWS, layers, FEATURES, generator=generator)
    signs = 2.0 * classes(number) - 1
    values[:, :, 0] += signs[:, None] * torch.linspace(0, 1, layers)
    return values.mul_((1 + torch.arange(FEATURES)).pow(-0.5)).bfloat16()


def classes(number: int) -> torch.Tensor:
    return torch.randint(2, (FILE_ROWS,), generator=torch.Generator().manual_seed(10**6 + number))


def names(number: int) -> list[str]:
    return [f"{number:08x}{row:08x}" for row in range(FILE_ROWS)]


def write(folder: Path, files: int, layers: int) -> None:
    store = opened(folder)
    for number in range(files):
        if store.missing(names(number)[:1], range(layers)):
            store.add(names(number), range(layers), generated(number, layers))


def file_numbers(rows: int, files: int) -> list[int]:
    return [number % files for number in range(-(-rows // FILE_ROWS))]


def stored(folder: Path, rows: int, files: int, layers: int) -> StreamedRows:
    texts = tuple(name for number in file_numbers(rows, files) for name in names(number))[:rows]
    return StreamedRows(StoredRows(opened(folder), texts, tuple(range(layers))))


def task(folder: Path, rows: int, files: int, layers: int) -> TaskData:
    targets = torch.cat([classes(number) for number in file_numbers(rows, files)])[:rows]
    streamed, ids = stored(folder, rows, files, layers), tuple(str(row) for row in range(rows))
    parts = {"train": LabelledActivations(Activations(streamed, tuple(range(layers)), ids, READING), targets)}
    for split, first in (("validation", 10**5), ("test", 10**5 + 10)):
        blocks = range(first, first + -(-HELD // FILE_ROWS))
        values = torch.cat([generated(number, layers) for number in blocks])[:HELD].transpose(0, 1).float()
        labels = torch.cat([classes(number) for number in blocks])[:HELD]
        held = Activations(values, tuple(range(layers)), tuple(f"{split}{row}" for row in range(HELD)), READING)
        parts[split] = LabelledActivations(held, labels)
    return TaskData(task="generated", kind="classification", labels=("a", "b"), **parts)


def check_pairs(values: torch.Tensor, rows: int) -> None:
    """Compares the CKA of all pairs of layers with that of the distribution which `generated` draws from.

    Layers share nothing but the class, by which feature 0 is moved in each: the covariance of layers i and j is aᵢ aⱼ
    there and 0 elsewhere, that of a layer with itself diag(1/k) with aᵢ² more in the first place.
    """
    moves = torch.linspace(0, 1, len(values), dtype=torch.float64)
    own = ((1 + moves**2) ** 2 + (1 / torch.arange(2, FEATURES + 1, dtype=torch.float64)).square().sum()).sqrt()
    expected = (moves**2).outer(moves**2) / own.outer(own)
    off = ~torch.eye(len(values), dtype=torch.bool)
    error = (values - expected)[off].abs().max().item()
    assert error < 5 / rows**0.5, error
    assert expected[off].max() > 0.1  # the control: there is something to find
    print(f"largest error of a pair: {error:.1e}", file=sys.stderr)


def measure(work: str, rows: int, files: int, layers: int, folder: Path) -> Point:
    shared = {"bootstrap_samples": 100, "permutations": 20}
    settings = {
        "ridge": ProbeSettings(fit="ridge", **shared),
        "lda": ProbeSettings(fit="lda", **shared),
        "logistic, one epoch": ProbeSettings(
            fit="minibatch", penalties=(1e-3,), max_epochs=1, batch_size=256, learning_rate=1e-2, **shared
        ),
    }
    seconds: list[float] = []

    def run() -> None:
        start = time.perf_counter()
        if work == "linear CKA":
            values = stored(folder, rows, files, layers)
            pairs = streamed_cka_pairs(lambda: ((of_block,) for _, of_block in values.blocks()), max_bytes=SUMS)
            check_pairs(pairs, rows)
        else:
            data = task(folder, rows, files, layers)
            scores = fit_task(data, settings[work], default_trainer, 0).profile("accuracy").estimates.values
            learns = work != "logistic, one epoch" or rows >= 100_000  # a short epoch teaches little
            assert scores[0] < 0.56, scores
            assert scores[-1] > 0.75 or not learns, scores  # the planted rise
        seconds.append(time.perf_counter() - start)

    more = more_gib(run, torch.device("cpu"))
    return Point(work, rows, layers, seconds[0], more, peak_gib())


def draw(points: list[Point]) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    for work in dict.fromkeys(point.work for point in points):
        of_work = [point for point in points if point.work == work]
        rows = [point.rows for point in of_work]
        label = work
        if len(rows) > 1:
            slope = np.polyfit(np.log(rows), np.log([point.seconds for point in of_work]), 1)[0]
            label = f"{work}: rows^{slope:.2f}"
            print(f"{work}: seconds grow as rows^{slope:.2f}")
        seconds.plot(rows, [point.seconds for point in of_work], "o-", label=label)
        memory.plot(rows, [point.peak_gib for point in of_work], "o-", label=work)
    seconds.set(xscale="log", yscale="log", xlabel="training rows", ylabel="seconds")
    memory.set(xscale="log", ylim=(0, 2), xlabel="training rows", ylabel="peak of the process, GiB")
    for axes in (seconds, memory):
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--works", nargs="+", default=["ridge", "linear CKA"], choices=WORKS)
    parser.add_argument("--files", type=int, help="write so many files at most, and read them repeatedly")
    parser.add_argument("--folder", type=Path, help="where the store is written, and kept; default: deleted")
    parser.add_argument("--one", action="store_true", help="measure one work in this process and print it as JSON")
    given = parser.parse_args()
    needed = -(-max(given.rows) // FILE_ROWS)
    files = min(needed, given.files or needed)
    if given.one:
        (work,), (rows,) = given.works, given.rows
        print(json.dumps(asdict(measure(work, rows, given.files, given.layers, given.folder))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        start = time.perf_counter()
        write(folder, files, given.layers)
        written = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        print(f"{files} files, {written / 1e9:.1f} GB, written in {time.perf_counter() - start:.0f} s", flush=True)
        points = []
        for work in given.works:
            for rows in given.rows:
                options = ["--layers", str(given.layers), "--rows", str(rows), "--works", work, "--files", str(files)]
                command = [sys.executable, __file__, "--one", *options, "--folder", str(folder)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                points.append(Point(**json.loads(done.stdout.splitlines()[-1])))
                print(points[-1], flush=True)
        draw(points).savefig(FIGURE, dpi=120)


if __name__ == "__main__":
    main()
