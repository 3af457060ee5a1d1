"""The store on disk: what is written is read back, as whole files that others may read too."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from probes.activations import ActivationStore
from probes.values import Reading

READING = Reading("decoder", "mlp", "max")


def open_store(root: Path) -> ActivationStore:
    return ActivationStore(root, fingerprint="f", decoder_input="start", reading=READING)


@pytest.fixture
def umask_of_a_group():
    previous = os.umask(0o027)
    yield
    os.umask(previous)


def test_the_store_reads_back_what_was_written_and_lists_what_it_lacks(tmp_path):
    store = open_store(tmp_path)
    values = torch.randn(3, 2, 5)
    store.add(["a", "b", "c"], [1, "final"], values)
    again = open_store(tmp_path)
    read = again.read(["c", "a", "c"], ["final", 1])
    assert torch.equal(read, values[[2, 0, 2]][:, [1, 0]].transpose(0, 1))
    assert again.missing(["a", "d", "d"], [1]) == ["d"]
    assert again.missing(["a"], [2]) == ["a"]
    with pytest.raises(KeyError, match="Text d at layers"):
        again.read(["d"], [1])


def test_an_open_store_sees_the_shards_of_another_only_after_a_refresh(tmp_path):
    first, second = open_store(tmp_path), open_store(tmp_path)
    first.add(["a"], [1], torch.zeros(1, 1, 2))
    assert second.missing(["a"], [1]) == ["a"]
    second.refresh()
    assert second.missing(["a"], [1]) == []


def test_the_permissions_of_stored_files_follow_the_umask(tmp_path, umask_of_a_group):
    store = open_store(tmp_path)
    store.add(["a"], [1], torch.zeros(1, 1, 2))
    modes = {path.suffix: path.stat().st_mode & 0o777 for path in store.folder.iterdir()}
    assert modes == {".safetensors": 0o640, ".json": 0o640}


def test_a_shard_that_fails_to_be_written_leaves_no_file(tmp_path, monkeypatch):
    def write_half(_tensors, filename, metadata):
        Path(filename).write_bytes(b"half")
        raise OSError("No space left on device")

    store = open_store(tmp_path)
    monkeypatch.setattr("probes.activations.shards.save_file", write_half)
    with pytest.raises(OSError, match="No space left"):
        store.add(["a"], [1], torch.zeros(1, 1, 2))
    assert [path.name for path in store.folder.iterdir()] == ["identity.json"]
    assert open_store(tmp_path).missing(["a"], [1]) == ["a"]


def test_a_file_that_is_being_written_is_not_read(tmp_path):
    store = open_store(tmp_path)
    store.folder.mkdir()
    (store.folder / ".0123-abc.safetensors").write_bytes(b"half")
    store.refresh()
    assert store.missing(["a"], [1]) == ["a"]


def test_the_identity_tells_what_a_store_holds(tmp_path):
    store = open_store(tmp_path)
    store.add(["a"], [1], torch.zeros(1, 1, 2))
    identity = json.loads((store.folder / "identity.json").read_text())
    assert (identity["fingerprint"], identity["reading"]) == ("f", "decoder.mlp.max")


def test_reading_no_text_is_refused(tmp_path):
    with pytest.raises(KeyError, match="at least one"):
        open_store(tmp_path).read([], [1])
