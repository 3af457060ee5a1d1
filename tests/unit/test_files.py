"""Files are written as a whole or not at all, with the permissions of the user's umask."""

from __future__ import annotations

import json
import math
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from probes.activations import extract
from probes.backbones import tiny_backbone
from probes.files import digest_of_file, digest_of_json, new_file, new_folder, replaced_file, write_json, write_text


@pytest.fixture(params=[0o022, 0o002, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _fail_in(context: AbstractContextManager[Path]) -> None:
    with context as temporary:
        (temporary / "part" if temporary.is_dir() else temporary).write_text("half")
        raise RuntimeError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_appears_when_the_block_ends_and_readers_see_the_old_content_until_then(tmp_path):
    path = write_text(tmp_path / "folder" / "a.txt", "old")
    with replaced_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_raises_leaves_the_old_content_and_no_litter(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError):
        _fail_in(replaced_file(path))
    with pytest.raises(RuntimeError):
        _fail_in(new_folder(tmp_path / "folder"))
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])


def test_permissions_follow_the_umask(tmp_path, umask):
    assert mode(write_text(tmp_path / "a.txt", "")) == 0o666 & ~umask
    with new_folder(tmp_path / "folder") as folder:
        (folder / "part").write_text("")
    assert mode(tmp_path / "folder") == 0o777 & ~umask


def test_stored_activations_can_be_read_by_a_group_that_shares_the_cache(tmp_path):
    before = os.umask(0o002)
    try:
        extract(tiny_backbone(), ["a text"], cache_dir=tmp_path)
    finally:
        os.umask(before)
    shards = list(tmp_path.rglob("*.safetensors"))
    assert shards
    assert {mode(shard) for shard in shards} == {0o664}


def test_a_folder_that_another_process_made_first_is_kept(tmp_path):
    target = tmp_path / "folder"
    with new_folder(target) as folder:
        (folder / "part").write_text("second")
        target.mkdir()
        (target / "part").write_text("first")
    assert (target / "part").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_json_has_null_for_nan_and_digests_depend_on_content_alone(tmp_path):
    path = write_json(tmp_path / "a.json", {"x": float("nan"), "y": [1.5, {"z": float("nan")}]})
    assert "NaN" not in path.read_text()
    assert path.read_text().count("null") == 2
    assert digest_of_file(path) == digest_of_file(write_json(tmp_path / "b.json", {"x": None, "y": [1.5, {"z": None}]}))
    assert digest_of_json({"a": 1}) != digest_of_json({"a": 2})
    assert np.unique([digest_of_json({"a": i}) for i in range(20)]).size == 20


def test_a_new_file_is_made_once_and_never_replaced(tmp_path):
    path = tmp_path / "folder" / "entry.json"
    with new_file(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    with pytest.raises(FileExistsError), new_file(path) as temporary:
        temporary.write_text("second")
    assert path.read_text() == "first"
    with pytest.raises(RuntimeError):
        _fail_in(new_file(tmp_path / "other"))
    assert [place.name for place in tmp_path.rglob("*") if place.is_file()] == ["entry.json"]


def test_threads_that_write_at_once_leave_the_umask_and_the_permissions_as_they_are(tmp_path, umask):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: write_text(tmp_path / f"{number}.txt", ""), range(200)))
    after = os.umask(umask)
    assert after == umask
    assert {mode(path) for path in tmp_path.iterdir()} == {0o666 & ~umask}


def test_json_holds_null_for_numbers_that_are_not_finite(tmp_path):
    path = write_json(tmp_path / "a.json", {"a": [math.inf, -math.inf, math.nan, 1.5]})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {"a": [None, None, None, 1.5]}
