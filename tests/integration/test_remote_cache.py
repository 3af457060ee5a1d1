"""A whole run whose activations lie in an object store, against the same run with a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from object_servers import environment, s3_server, without_proxies

from probes.run import with_local_folder

pytest.importorskip("moto")
pytest.importorskip("obstore")

ROOT = Path(__file__).parents[2]
QUICK = ["experiment=quick", "logger=csv", "probe.bootstrap_samples=20", "probe.permutations=20", "trainer=cpu"]


def tables_of(tmp_path: Path, name: str, cache: str, env: dict[str, str]) -> dict[str, bytes]:
    """The CSV files that a run leaves."""
    overrides = [
        *QUICK,
        f"paths.cache_dir={cache}",
        f"paths.local_cache={tmp_path / f'local-{name}'}",
        f"hydra.run.dir={tmp_path / name}",
    ]
    command = [sys.executable, str(ROOT / "train.py"), *overrides]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return {path.name: path.read_bytes() for path in sorted((tmp_path / name).rglob("*.csv"))}


@pytest.mark.slow
def test_a_run_with_an_object_store_leaves_the_tables_of_a_run_with_a_folder(tmp_path):
    with s3_server() as url:
        env = without_proxies() | environment(url) | {"PYTHONPATH": str(ROOT)}
        expected = tables_of(tmp_path, "folder", str(tmp_path / "cache"), env)
        assert expected["results.csv"].count(b"\n") > 10
        assert tables_of(tmp_path, "s3", "s3://bucket/probes", env) == expected
        # Another machine, which has nothing but the address: no forward pass, the same tables.
        assert tables_of(tmp_path, "s3-again", "s3://bucket/probes", env) == expected
        assert '"texts_computed": 0' in (tmp_path / "s3-again" / "provenance.json").read_text()
    assert tables_of(tmp_path, "disk", f"file://{tmp_path}/disk-store", env) == expected
    assert list((tmp_path / "disk-store").rglob("*.safetensors"))


def test_a_url_for_the_cache_sends_activations_there_and_all_else_to_the_local_folder():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        overrides = ["paths.cache_dir=s3://bucket/x", "paths.local_cache=/somewhere", "paths.local_cache_gb=7"]
        cfg = compose("train", overrides=overrides)
        plain = compose("train", overrides=["paths.cache_dir=/elsewhere"])
    changed = with_local_folder(cfg)
    assert (changed.paths.cache_dir, changed.backbone.cache_dir) == ("/somewhere", "/somewhere")
    assert (changed.extraction.remote, changed.extraction.local_cache_gb) == ("s3://bucket/x", 7)
    assert cfg.paths.cache_dir == "s3://bucket/x"
    assert with_local_folder(plain) is plain
    assert plain.extraction.remote is None
