"""The second run of `experiment=layer_by_layer`, all models tuned and all activations read, against a minute.

Not among the benchmarks that `run_all.py` runs: the first run takes a quarter of an hour. Make it with
`python train.py experiment=layer_by_layer paths.cache_dir=FOLDER`, then
`python benchmarks/layer_by_layer.py --cache FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from claim import Claim, show

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 60.0


def main(cache: Path) -> list[Claim]:
    with tempfile.TemporaryDirectory() as folder:
        options = ["experiment=layer_by_layer", f"paths.cache_dir={cache.resolve()}", f"hydra.run.dir={folder}"]
        start = time.perf_counter()
        subprocess.run([sys.executable, "train.py", *options], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        facts = json.loads((Path(folder) / "provenance.json").read_text())
    fresh = [model["name"] for model in facts["tuned_models"] if not model["reused"]]
    if fresh or facts["forward_passes"]:
        raise SystemExit(
            f"{cache} held no finished run: {len(fresh)} models were tuned, {facts['forward_passes']} passes."
        )
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in facts["seconds"].items())
    return [Claim("second layer-by-layer run", f"{SECONDS:g} s", seconds, SECONDS, 1.0, stages, at_most=True)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="cache of a finished run of the experiment")
    show(main(parser.parse_args().cache))
