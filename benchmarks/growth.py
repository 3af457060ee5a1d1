"""Seconds and peak memory as rows go from 1,024 to 32,768, with the fitted exponent of each, as a table and a figure.

Rows come as they do in a study: texts as a list, activations in batches out of the store. Extraction and similarity
hold one batch whatever the rows; a probe's solver holds the training rows of the layers it solves at once.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from claim import timed
from device import argument_parser, chosen, suffix
from matplotlib.figure import Figure
from peak import more_gib
from torch import Tensor

from probes.activations import ActivationStore, ExtractionSettings, fill_stores, open_stores
from probes.analysis.streaming import LinearCKA
from probes.backbones import FrozenBackbone, TokenizedTexts, tiny_backbone
from probes.training.linear_solver.solve import solve_linear

ROWS = (1024, 2048, 4096, 8192, 16384, 32768)
BATCH_ROWS, FEATURES, LAYERS = 1024, 128, 4
FIGURE = Path(__file__).parent / "growth.png"


@dataclass(frozen=True)
class Point:
    """One size: rows, seconds, and GiB that the peak of the process, or the GPU, lies above what it held before."""

    work: str
    rows: int
    seconds: float
    more_gib: float


class Texts:
    """Texts of 1 to 5 words and the stores their activations go to and come from: 4 layers, last and mean."""

    def __init__(self, rows: int, folder: Path, device: torch.device) -> None:
        draw = random.Random(0)
        self.backbone: FrozenBackbone = tiny_backbone(hidden_size=FEATURES)
        self.backbone.model.to(device)
        self.settings = ExtractionSettings(pooling=["last", "mean"])
        self.texts = [f"{row} {'word ' * draw.randint(0, 4)}" for row in range(rows)]
        self.tokens: TokenizedTexts = self.backbone.tokenize(self.texts)
        self.stores: Mapping[object, ActivationStore] = open_stores(self.backbone, self.settings, folder)

    def extract(self) -> None:
        fill_stores(self.backbone, self.backbone.tokenize(self.texts), self.stores, self.settings)

    def read(self) -> None:
        for store in self.stores.values():
            for first in range(0, len(self.texts), BATCH_ROWS):
                store.read(self.tokens.text_ids[first : first + BATCH_ROWS], range(LAYERS))


def batches(rows: int, device: torch.device) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    scale = (1 + torch.arange(FEATURES)).pow(-0.5)
    for _ in range(0, rows, BATCH_ROWS):
        yield (torch.randn(LAYERS, BATCH_ROWS, FEATURES, generator=generator) * scale).to(device)


def stream_cka(rows: int, device: torch.device) -> None:
    metric = LinearCKA(LAYERS, FEATURES, FEATURES).to(device)
    for x in batches(rows, device):
        metric.update(x, x.roll(1, dims=0))
    metric.compute()


def prepared(work: str, rows: int, folder: Path, device: torch.device) -> Callable[[], None]:
    """The work, with all that is not part of it done."""
    if work == "CKA, streamed":
        return lambda: stream_cka(rows, device)
    if work == "linear probes":
        x = torch.cat(list(batches(rows, device)), dim=1)
        slope = torch.linspace(-1, 1, FEATURES, device=device)
        y = (x[LAYERS // 2] @ slope + torch.randn(rows, device=device) > 0).long()
        return lambda: solve_linear("classification", x, y[None], torch.tensor([1e-2]), classes=2) and None
    texts = Texts(rows, folder, device)
    if work == "store, read":
        texts.extract()
        return texts.read
    return texts.extract


WORKS = ("extraction, written", "store, read", "linear probes", "CKA, streamed")


def measure(work: str, rows: int, device: torch.device) -> Point:
    with tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as folder:
        prepared(work, BATCH_ROWS, Path(small), device)()  # threads and kernels are set up here
        run = prepared(work, rows, Path(folder), device)
        seconds: list[float] = []
        memory = more_gib(lambda: seconds.append(timed(run)), device)
        return Point(work, rows, seconds[0], memory)


def points(device: str) -> list[Point]:
    """One point a work and size, each measured in a process of its own."""
    options = ["--device", device]
    commands = [
        [sys.executable, __file__, *options, "--work", work, "--rows", str(rows)] for work in WORKS for rows in ROWS
    ]
    runs = [subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True) for command in commands]
    return [Point(**json.loads(run.stdout)) for run in runs]


def exponents(of_work: Sequence[Point]) -> tuple[float, float]:
    """Slopes of log seconds and of peak memory: the first over log rows from 4,096 up, the second in KiB a row."""
    large = [point for point in of_work if point.rows >= 4096]
    rows = np.array([point.rows for point in large])
    seconds = np.array([point.seconds for point in large])
    kib = np.array([point.more_gib for point in large]) * 2**20
    return float(np.polyfit(np.log(rows), np.log(seconds), 1)[0]), float(np.polyfit(rows, kib, 1)[0])


def draw(measured: Sequence[Point]) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    for work in WORKS:
        of_work = [point for point in measured if point.work == work]
        exponent, kib = exponents(of_work)
        rows = [point.rows for point in of_work]
        seconds.plot(rows, [point.seconds for point in of_work], "o-", label=f"{work}: rows^{exponent:.2f}")
        memory.plot(rows, [point.more_gib for point in of_work], "o-", label=f"{work}: {kib:.2f} KiB a row")
    seconds.set(xscale="log", yscale="log", xlabel="rows", ylabel="seconds")
    memory.set(xscale="log", ylim=(0, None), xlabel="rows", ylabel="GiB above the start")
    for axes in (seconds, memory):
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    return figure


def main(device: str = "auto") -> list[Point]:
    measured = points(device)
    draw(measured).savefig(FIGURE.with_stem(f"growth{suffix(device)}"), dpi=120)
    for work in WORKS:
        of_work = [point for point in measured if point.work == work]
        exponent, kib = exponents(of_work)
        last = of_work[-1]
        print(
            f"{work}: seconds grow as rows^{exponent:.2f}, memory by {kib:.2f} KiB a row; {last.rows} rows take "
            f"{last.seconds:.2f} s and {last.more_gib:.2f} GiB"
        )
    return measured


if __name__ == "__main__":
    parser = argument_parser(__doc__)
    parser.add_argument("--work", choices=WORKS, help="measure one in this process and print it as JSON")
    parser.add_argument("--rows", type=int, default=BATCH_ROWS)
    given = parser.parse_args()
    if given.work is None:
        main(given.device)
    else:
        print(json.dumps(asdict(measure(given.work, given.rows, chosen(given.device)))))
