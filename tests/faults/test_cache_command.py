"""`probes cache` lists what is kept, finds what is damaged, and deletes only what it was told to, after showing it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fault_samples import cut, filled, flip_random_bit
from filelock import FileLock
from tuning_samples import toy_splits

from probes.activations import ExtractionSettings, open_stores
from probes.activations.claims import Claims
from probes.backbones import tiny_backbone
from probes.commands.cache import entries, main, to_prune
from probes.interventions.kept_arrays import KeptArrays
from probes.kept_files import write_sealed_json
from probes.trainers import default_trainer
from probes.tuning import TunedBackbone, TuningSettings, tune

DAY = 86400


@pytest.fixture(scope="module")
def warm(tmp_path_factory) -> Path:
    """Activations of two backbones, a tuned model with its scores and its fingerprint."""
    cache, backbone = tmp_path_factory.mktemp("cache"), tiny_backbone()
    for seed in (0, 1):
        filled(tiny_backbone(seed=seed), cache / "activations")
    settings = TuningSettings(max_steps=1, batch_size=8, rank=2, generate_rows=0, learning_rate=1e-2)
    tuned = tune("toy", backbone, toy_splits(16), settings, trainer=default_trainer, seed=0, cache_dir=cache)
    TunedBackbone(backbone, tuned, cache).fingerprint()
    return cache


@pytest.fixture
def cache(warm, tmp_path) -> Path:
    return Path(shutil.copytree(warm, tmp_path / "cache"))


def run(cache: Path, *arguments: str) -> None:
    main(["--cache-dir", str(cache), *arguments])


def age(path: Path, days: float) -> None:
    """Make an entry look as if it was last used so long ago."""
    for file in (path, *path.rglob("*")):
        os.utime(file, (time.time() - days * DAY,) * 2)


def stores(cache: Path) -> list[Path]:
    return sorted(folder for folder in (cache / "activations").iterdir() if folder.is_dir())


def test_ls_names_every_entry_with_its_kind_and_the_total_size(cache, capsys):
    run(cache, "ls")
    *lines, total = capsys.readouterr().out.splitlines()
    kinds = sorted(line.split()[4] for line in lines)
    assert kinds == ["activations", "activations", "model", "record", "record"]
    assert sum("decoder.residual.last, 3 shards" in line for line in lines) == 2
    assert total.startswith("5 entries, ")


def test_verify_accepts_a_whole_cache(cache, capsys):
    with pytest.raises(SystemExit) as ended:
        run(cache, "verify")
    assert ended.value.code == 0
    assert capsys.readouterr().out.endswith(": 0 faults.\n")


@pytest.mark.parametrize(
    "pattern",
    [
        "activations/*/*.safetensors",
        "adapters/toy-*/adapter_model.safetensors",
        "adapters/toy-*/scores-*",
        "adapters/base/*",
        "adapters/fingerprints/*",
    ],
)
@pytest.mark.parametrize("damage", [flip_random_bit, cut])
def test_verify_names_a_damaged_file_changes_nothing_and_fails(cache, capsys, pattern: str, damage):
    damaged = sorted(cache.glob(pattern))[0]
    damage(damaged)
    before = sorted(cache.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        run(cache, "verify")
    assert ended.value.code == 1
    output = capsys.readouterr().out
    assert damaged.name in output
    assert output.endswith(": 1 faults.\n")
    assert sorted(cache.rglob("*")) == before


def test_prune_shows_first_and_deletes_when_told_to(cache, capsys):
    old, new = stores(cache)
    age(old, days=40)
    run(cache, "prune", "--older-than", "30d")
    assert f"Would delete: activations 'activations/{old.name}'" in capsys.readouterr().out
    assert old.exists()
    run(cache, "prune", "--older-than", "30d", "--yes")
    assert f"Deleted: activations 'activations/{old.name}'" in capsys.readouterr().out
    assert (old.exists(), new.exists()) == (False, True)


def test_prune_by_size_deletes_what_was_not_used_for_longest(cache):
    first, second = stores(cache)
    age(second, days=3)
    age(first, days=2)
    found = entries(cache)
    total = sum(entry.size for entry in found)
    chosen = to_prune(found, older_than=None, max_size=total - 1, now=time.time())
    assert [entry.path for entry in chosen] == [second]
    assert to_prune(found, older_than=None, max_size=total, now=time.time()) == []
    assert len(to_prune(found, older_than=None, max_size=0, now=time.time())) == len(found)


def test_rates_logs_of_stores_and_what_was_set_aside_beside_models_are_entries(cache):
    before = {entry.path: entry for entry in entries(cache)}
    store = stores(cache)[0]
    (store / "log-1").mkdir()
    (store / "log-1" / "00000000.json").write_bytes(b"0" * 5000)
    (cache / "rates").mkdir()
    write_sealed_json(cache / "rates" / "1.json", {"matrix": 1.0}, key="1")
    names = ("toy-1.ckpt.corrupt", "base/a.json.corrupt", "fingerprints/b.json.corrupt-1")
    remains = [cache / "adapters" / name for name in names]
    for path in remains:
        path.write_text("damaged")
    after = {entry.path: entry for entry in entries(cache)}
    assert after[store].size == before[store].size + 5000
    new = after.keys() - before.keys()
    assert {after[path].kind for path in new if path not in remains} == {"record"}
    assert {after[path].kind for path in remains} == {"remains"}
    run(cache, "prune", "--yes")
    assert not [path for path in remains if path.exists()]


def test_prune_without_limits_deletes_only_what_was_set_aside(cache):
    flip_random_bit(next(iter(stores(cache)[0].glob("*.safetensors"))))
    for seed in (0, 1):
        filled(tiny_backbone(seed=seed), cache / "activations")
    assert len(list(cache.rglob("*.corrupt"))) == 1
    run(cache, "prune", "--yes")
    assert not list(cache.rglob("*.corrupt"))
    assert len(entries(cache)) == 5


def test_opening_a_store_counts_as_a_use(cache):
    for store in stores(cache):
        age(store, days=40)
    open_stores(tiny_backbone(), ExtractionSettings(), cache / "activations")
    chosen = to_prune(entries(cache), older_than=30, max_size=None, now=time.time())
    assert [entry.kind for entry in chosen] == ["activations"]


def test_kept_effects_are_listed_verified_and_pruned(cache, capsys):
    KeptArrays(cache / "interventions", {}).get({"layer": 1}, lambda: {"effects": np.ones(4)})
    (kept,) = (cache / "interventions").iterdir()
    run(cache, "ls")
    assert "effects" in capsys.readouterr().out
    assert list(next(entry for entry in entries(cache) if entry.kind == "effects").faults()) == []
    flip_random_bit(kept)
    with pytest.raises(SystemExit):
        run(cache, "verify")
    assert f"'{kept}' is damaged." in capsys.readouterr().out
    run(cache, "prune", "--max-size", "0", "--yes")
    assert not kept.exists()


def test_prune_leaves_what_a_run_is_writing(cache, capsys):
    (store,) = open_stores(tiny_backbone(), ExtractionSettings(), cache / "activations").values()
    with FileLock(store.lock_file):
        run(cache, "prune", "--max-size", "0", "--yes")
    assert f"In use, kept: activations 'activations/{store.folder.name}'" in capsys.readouterr().out
    assert [entry.path for entry in entries(cache)] == [store.folder]


def test_prune_leaves_activations_of_a_backbone_that_a_run_computes(cache, capsys):
    (store,) = open_stores(tiny_backbone(), ExtractionSettings(), cache / "activations").values()
    claims = Claims(store.lock_file)
    with claims.beating(claims.claim(["a text"])):
        run(cache, "prune", "--max-size", "0", "--yes")
        assert [entry.path for entry in entries(cache)] == [store.folder]
    run(cache, "prune", "--max-size", "0", "--yes")  # the control: nobody computes any more
    assert entries(cache) == []


@pytest.mark.parametrize("arguments", [("--older-than", "soon"), ("--max-size", "much")])
def test_limits_that_are_none_are_refused_with_an_example(cache, capsys, arguments):
    with pytest.raises(SystemExit):
        run(cache, "prune", *arguments)
    assert "was expected" in capsys.readouterr().err


def test_the_command_line_knows_the_command(cache):
    command = [sys.executable, "-c", "from probes.cli import main; main()", "cache", "--cache-dir", str(cache), "ls"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "5 entries" in listed.stdout


def test_the_url_of_an_object_store_is_refused_with_the_folder_to_name(capsys):
    with pytest.raises(SystemExit):
        main(["--cache-dir", "s3://bucket/probes", "ls"])
    assert "pass `--cache-dir` with the folder of `paths.local_cache`" in capsys.readouterr().err
