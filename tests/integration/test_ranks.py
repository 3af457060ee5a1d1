"""The ranks of a distributed job share an extraction: every rank works, and none computes what another has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RANK = """
import json, os, sys, time
from pathlib import Path
from hydra import compose, initialize_config_dir
from probes.activations.store import ActivationStore
from probes.cli import CONFIG_DIR
from probes.run import run
from probes.studies import suite_activations

rank, ranks, computed = os.environ["RANK"], int(os.environ["WORLD_SIZE"]), []
fill, add = suite_activations.fill_stores, ActivationStore.add

def noted(store, text_ids, *others, **more):
    computed.extend(text_ids)
    time.sleep(0.02)
    return add(store, text_ids, *others, **more)

def together(*arguments):
    Path(f"ready-{rank}").touch()
    while len(list(Path().glob("ready-*"))) < ranks:
        time.sleep(0.01)
    report = fill(*arguments)
    Path(f"rank-{rank}.json").write_text(json.dumps({"computed": computed, "texts": report.texts}))
    return report

ActivationStore.add, suite_activations.fill_stores = noted, together
with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
    cfg = compose("train", overrides=sys.argv[1:])
if __name__ == "__main__":
    run(cfg)
"""
STUDY = (
    "backbone=tiny", "logger=csv", "suite.tasks=[topic,tense]", "suite.max_rows=64", "extraction.texts_per_shard=16",
    "probe.penalties=[0.1]", "analysis=none", "trainer=ddp", "trainer.accelerator=cpu", "paths.cache_dir=cache",
    "paths.output_dir=out",
)  # fmt: skip


def ran(folder: Path, *launcher: str, ranks: int) -> list[dict]:
    """What each rank of a job noted."""
    folder.mkdir()
    (folder / "rank.py").write_text(RANK)
    done = subprocess.run(
        [sys.executable, *launcher, "rank.py", *STUDY, f"trainer.devices={ranks}"], cwd=folder, capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | ({} if launcher else {"RANK": "0", "WORLD_SIZE": "1"}), text=True,
        check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(ranks)]


def test_two_gloo_ranks_of_torchrun_divide_an_extraction_and_find_what_one_process_finds(tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    (alone,) = ran(tmp_path / "one", ranks=1)
    first, second = ran(tmp_path / "two", *torchrun, ranks=2)
    assert first["computed"]
    assert second["computed"]
    assert not set(first["computed"]) & set(second["computed"])
    assert sorted(first["computed"] + second["computed"]) == sorted(alone["computed"])
    assert len(alone["computed"]) == alone["texts"] == first["texts"]
    results = [(tmp_path / name / "out/results.csv").read_text() for name in ("one", "two")]
    assert results[0] == results[1]
    shards = [
        {path.name for path in (tmp_path / name).glob("cache/activations/*/*.safetensors")} for name in ("one", "two")
    ]
    assert shards[0] == shards[1]
    assert len(shards[0]) > 4
