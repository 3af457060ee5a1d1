"""What goes wrong between a run and an object store loses no activation, and serves no wrong one."""

from __future__ import annotations

import errno
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from fault_samples import TEXTS, filled, flip_bit
from object_servers import FaultyProxy, first

from probes.activations import ExtractionSettings
from probes.activations.extract import open_stores
from probes.activations.remote import objects, remote_shards
from probes.activations.store import ActivationStore
from probes.backbones import tiny_backbone

moto = pytest.importorskip("moto")
pytest.importorskip("obstore")

SHARDS = 3


@pytest.fixture
def remote(proxy, tmp_path) -> str:
    return f"s3://bucket/{tmp_path.name}"


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> torch.Tensor:
    return values_of(filled(tiny_backbone(), tmp_path_factory.mktemp("local")))


def values_of(result) -> torch.Tensor:
    return next(iter(result[0].values()))


def shards(root: Path) -> list[Path]:
    return sorted(root.rglob("[!.]*.safetensors"))


def asked(proxy: FaultyProxy, method: str, of: str) -> int:
    return sum(method == command and of in path for command, path, _ in proxy.requests)


def test_another_machine_finds_everything_without_a_list_and_computes_nothing(tmp_path, proxy, remote, expected):
    values, report = filled(tiny_backbone(), tmp_path / "one", remote=remote)
    assert report.texts_computed == len(TEXTS)
    before = len(proxy.requests)
    values, report = filled(tiny_backbone(), tmp_path / "two", remote=remote)
    assert report.texts_computed == 0
    assert torch.equal(values_of((values, report)), expected)
    assert len(shards(tmp_path / "two")) == SHARDS
    later = proxy.requests[before:]
    assert {command for command, _, _ in later} == {"GET"}
    assert not any("list-type" in path or "prefix=" in path for _, path, _ in proxy.requests)
    kept = len(proxy.requests)
    filled(tiny_backbone(), tmp_path / "two", remote=remote)
    assert len(proxy.requests) - kept <= 2  # what was read once is on the local disk


@pytest.mark.parametrize("kind", ["lose", "cut", "busy"])
@pytest.mark.parametrize("of", ["/shards/", "/log/"])
def test_reads_that_fail_on_the_way_are_repeated(kind: str, of: str, tmp_path, proxy, remote, expected):
    filled(tiny_backbone(), tmp_path / "one", remote=remote)
    proxy.fault = first(2, kind, of=of)
    values, report = filled(tiny_backbone(), tmp_path / "two", remote=remote)
    assert report.texts_computed == 0
    assert torch.equal(values_of((values, report)), expected)
    assert sum(fault == kind for *_, fault in proxy.requests) == 2


@pytest.mark.parametrize("kind", ["lose", "lose the answer", "busy"])
@pytest.mark.parametrize("of", ["/shards/", "/log/"])
def test_writes_that_fail_on_the_way_are_repeated_and_leave_each_shard_once(
    kind: str, of: str, tmp_path, proxy, remote, expected
):
    proxy.fault = first(2, kind, of=of, method="PUT")
    filled(tiny_backbone(), tmp_path / "one", remote=remote)
    assert sum(fault == kind for *_, fault in proxy.requests) == 2
    values, report = filled(tiny_backbone(), tmp_path / "two", remote=remote)
    assert report.texts_computed == 0
    assert torch.equal(values_of((values, report)), expected)
    assert len(list((tmp_path / "two").rglob("log-*/*.json"))) == SHARDS


def test_a_read_that_delivers_nothing_for_long_is_given_up_and_repeated(tmp_path, proxy, remote, expected, monkeypatch):
    filled(tiny_backbone(), tmp_path / "one", remote=remote)
    monkeypatch.setattr(objects, "_SECONDS_WITHOUT_DATA", 1)
    proxy.delay = 3.0
    proxy.fault = first(1, "slow", of="/shards/")
    values, report = filled(tiny_backbone(), tmp_path / "two", remote=remote)
    assert report.texts_computed == 0
    assert torch.equal(values_of((values, report)), expected)
    assert asked(proxy, "GET", "/shards/") >= SHARDS + 1


def test_a_store_that_never_answers_is_named_and_what_was_computed_is_kept(tmp_path, proxy, remote, expected):
    proxy.fault = first(10_000, "lose", of="/shards/", method="PUT")
    with pytest.raises(ConnectionError, match=r"failed 4 times at writing.*Nothing is lost: repeat the command"):
        filled(tiny_backbone(), tmp_path / "one", remote=remote)
    assert len(shards(tmp_path / "one")) == 1
    proxy.fault = first(0, "lose")
    values, report = filled(tiny_backbone(), tmp_path / "one", remote=remote)
    assert report.texts_computed == len(TEXTS) - 8  # the texts of the shard that had been computed
    values, report = filled(tiny_backbone(), tmp_path / "two", remote=remote)
    assert report.texts_computed == 0
    assert torch.equal(values_of((values, report)), expected)


def test_a_store_that_must_not_be_written_is_read_and_results_stay_local(tmp_path, proxy, remote, expected, caplog):
    filled(tiny_backbone(), tmp_path / "one", TEXTS[:8], remote=remote)
    proxy.fault = first(10_000, "forbid", method="PUT")
    with caplog.at_level(logging.WARNING):
        values, report = filled(tiny_backbone(), tmp_path / "two", remote=remote)
    assert report.texts_computed == len(TEXTS) - 8
    assert torch.equal(values_of((values, report)), expected)
    assert "refuses writing" in caplog.text
    assert "What this run computes stays in" in caplog.text


def test_a_bit_that_flips_on_the_way_is_detected_and_the_object_read_again(tmp_path, proxy, remote, expected):
    filled(tiny_backbone(), tmp_path / "one", remote=remote)
    proxy.fault = first(1, "flip", of="/shards/")
    values, report = filled(tiny_backbone(), tmp_path / "two", remote=remote)
    assert report.texts_computed == 0
    assert torch.equal(values_of((values, report)), expected)


def damaged_object(folder: Path, change) -> Path:
    """Damage one object of a store in a folder."""
    path = sorted(folder.glob("activations/*/shards/*.safetensors"))[0]
    change(path)
    return path


def flip(path: Path) -> None:
    flip_bit(path, 8 * path.stat().st_size - 100)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def gone(path: Path) -> None:
    path.unlink()


def foreign(path: Path) -> None:
    path.write_bytes(sorted(path.parent.glob("*.safetensors"))[1].read_bytes())


@pytest.mark.parametrize("change", [flip, cut, gone, foreign])
@pytest.mark.parametrize("verify", ["full", "quick"])
def test_a_damaged_object_is_never_served_and_is_replaced_once(change, verify, tmp_path, expected, caplog):
    remote = f"file://{tmp_path}/store"
    filled(tiny_backbone(), tmp_path / "one", remote=remote)
    damaged_object(tmp_path / "store", change)
    with caplog.at_level(logging.WARNING):
        if verify == "quick":  # it is found only when it is read
            with pytest.raises(KeyError, match="not in the store"):
                filled(tiny_backbone(), tmp_path / "two", remote=remote, verify=verify)
        values, report = filled(tiny_backbone(), tmp_path / "two", remote=remote, verify=verify)
    assert report.texts_computed == 8
    assert torch.equal(values_of((values, report)), expected)
    assert "computed again" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        values, report = filled(tiny_backbone(), tmp_path / "three", remote=remote)
    assert report.texts_computed == 0  # the log says which object is damaged, and has another
    assert torch.equal(values_of((values, report)), expected)
    assert caplog.text == ""


def test_a_damaged_entry_of_the_log_is_named_and_its_texts_are_computed_again(tmp_path, expected, caplog):
    remote = f"file://{tmp_path}/store"
    filled(tiny_backbone(), tmp_path / "one", remote=remote)
    flip_bit(next((tmp_path / "store").glob("activations/*/log/00000001.json")), 800)
    with caplog.at_level(logging.WARNING):
        values, report = filled(tiny_backbone(), tmp_path / "two", remote=remote)
    assert report.texts_computed == 8
    assert torch.equal(values_of((values, report)), expected)
    assert "log/00000001.json' is damaged" in caplog.text


def test_a_half_written_object_is_not_in_the_log_and_so_is_never_read(tmp_path, expected):
    remote = f"file://{tmp_path}/store"
    filled(tiny_backbone(), tmp_path / "one", TEXTS[:8], remote=remote)
    whole = next((tmp_path / "store").glob("activations/*/shards/*.safetensors"))
    (whole.parent / f"half-{whole.name}").write_bytes(whole.read_bytes()[:500])
    values, report = filled(tiny_backbone(), tmp_path / "two", remote=remote)
    assert report.texts_computed == len(TEXTS) - 8
    assert torch.equal(values_of((values, report)), expected)


def test_a_damaged_local_copy_is_fetched_again_without_a_forward_pass(tmp_path, expected):
    remote = f"file://{tmp_path}/store"
    filled(tiny_backbone(), tmp_path / "one", remote=remote)
    flip(shards(tmp_path / "one")[0])
    values, report = filled(tiny_backbone(), tmp_path / "one", remote=remote)
    assert report.texts_computed == 0
    assert torch.equal(values_of((values, report)), expected)


def test_local_copies_stay_below_their_limit_and_what_is_not_uploaded_is_never_deleted(tmp_path, expected):
    remote = f"file://{tmp_path}/store"
    filled(tiny_backbone(), tmp_path / "one", TEXTS)  # without a remote: nothing of it is anywhere else
    size = shards(tmp_path / "one")[0].stat().st_size
    limit = 1.5 * size / 1e9
    values, report = filled(tiny_backbone(), tmp_path / "two", remote=remote, local_cache_gb=limit)
    assert torch.equal(values_of((values, report)), expected)
    assert sum(path.stat().st_size for path in shards(tmp_path / "two")) <= 1.5 * size
    values, report = filled(tiny_backbone(), tmp_path / "two", remote=remote, local_cache_gb=limit)
    assert report.texts_computed == 0
    assert torch.equal(values_of((values, report)), expected)
    Path(tmp_path / "store").chmod(0o755)
    only_local = filled(tiny_backbone(seed=1), tmp_path / "two", TEXTS[:8])
    filled(tiny_backbone(), tmp_path / "two", remote=remote, local_cache_gb=limit)
    again = filled(tiny_backbone(seed=1), tmp_path / "two", TEXTS[:8])
    assert again[1].texts_computed == 0
    assert torch.equal(values_of(again), values_of(only_local))


def store_of_folder(root: Path, remote: str, *, limit: int | None = None) -> tuple[ActivationStore, list[str]]:
    """A store of what `filled` has left, and the names of its texts."""
    backbone = tiny_backbone()
    settings = ExtractionSettings(remote=remote, local_cache_gb=None if limit is None else limit / 1e9)
    (store,) = open_stores(backbone, settings, root / "activations").values()
    return store, list(backbone.tokenize(TEXTS).text_ids)


def test_a_shard_beyond_the_limit_is_copied_when_it_is_read_and_not_whenever_it_is_looked_for(tmp_path, monkeypatch):
    remote = f"file://{tmp_path}/store"
    filled(tiny_backbone(), tmp_path / "one", remote=remote)
    size = shards(tmp_path / "one")[0].stat().st_size
    monkeypatch.setattr(remote_shards, "_SHARDS_AT_ONCE", 1)
    read, most = [], []
    original = objects._Folder.read

    def counting(self, name):
        if "/shards/" in name:
            read.append(name)
            most.append(sum(path.stat().st_size for path in shards(tmp_path / "two")))
        return original(self, name)

    monkeypatch.setattr(objects._Folder, "read", counting)
    store, texts = store_of_folder(tmp_path / "two", remote, limit=int(1.5 * size))
    store.verify(texts, [0])
    assert len(read) == SHARDS  # each object is compared once
    for _ in range(3):
        store.verify(texts, [0])
    assert len(read) == SHARDS
    assert max(most) <= 1.5 * size
    assert store.missing(texts, [0]) == []
    assert torch.equal(store.read(texts, [0]), store.read(texts, [0]))


def test_a_copy_that_another_process_deletes_before_it_is_opened_is_copied_again(tmp_path, monkeypatch):
    remote = f"file://{tmp_path}/store"
    filled(tiny_backbone(), tmp_path / "one", remote=remote)
    store, texts = store_of_folder(tmp_path / "two", remote)
    keep, deleted = remote_shards.RemoteShards.keep_local, []

    def kept_and_deleted(self, shard: str) -> None:
        keep(self, shard)
        if shard not in deleted:
            (store.folder / shard).unlink()
            deleted.append(shard)

    monkeypatch.setattr(remote_shards.RemoteShards, "keep_local", kept_and_deleted)
    alone, _ = store_of_folder(tmp_path / "one", remote)
    assert torch.equal(store.read(texts, [0]), alone.read(texts, [0]))
    assert len(deleted) >= SHARDS


def test_a_shard_that_was_verified_is_not_verified_again_when_it_is_read(tmp_path, monkeypatch):
    remote = f"file://{tmp_path}/store"
    filled(tiny_backbone(), tmp_path / "one", remote=remote)
    store, texts = store_of_folder(tmp_path / "one", remote)
    store.verify(texts, [0])
    hashed = []
    monkeypatch.setattr("probes.activations.store.check_values", lambda path, header: hashed.append(path))
    for _ in range(3):
        store.read(texts, [0])
    assert hashed == []
    flip(shards(tmp_path / "one")[0])  # the control: what has changed is verified
    store.read(texts, [0])
    assert len(hashed) == 1


def test_damage_in_a_store_that_must_not_be_written_is_found_and_computed_again(tmp_path, proxy, remote, expected):
    filled(tiny_backbone(), tmp_path / "one", remote=remote)
    damaged = next(path for method, path, _ in proxy.requests if method == "PUT" and "/shards/" in path)
    faults = {("GET", damaged): "flip"}
    proxy.fault = lambda method, path: "forbid" if method == "PUT" else faults.get((method, path))
    values, report = filled(tiny_backbone(), tmp_path / "two", remote=remote)
    assert report.texts_computed == 8
    assert torch.equal(values_of((values, report)), expected)


def test_a_folder_that_is_mounted_read_only_refuses_as_a_bucket_does(tmp_path, monkeypatch):
    def read_only(path):
        raise OSError(errno.EROFS, "Read-only file system")

    store = objects.open_objects(f"file://{tmp_path}/store")
    for name in ("replaced_file", "new_file"):
        monkeypatch.setattr(objects, name, read_only)
    for write in (store.write, store.create):
        with pytest.raises(PermissionError, match="is read-only; refuses writing 'a'"):
            write("a", b"")


def test_machines_that_write_one_store_at_once_both_succeed_and_lose_nothing(tmp_path, proxy, remote, expected):
    orders = [TEXTS, TEXTS[4:], TEXTS[:20]]
    with ThreadPoolExecutor(max_workers=3) as threads:
        work = [
            threads.submit(filled, tiny_backbone(), tmp_path / str(i), texts, remote=remote)
            for i, texts in enumerate(orders)
        ]
        for each in work:
            each.result(timeout=60)
    values, report = filled(tiny_backbone(), tmp_path / "last", remote=remote)
    assert report.texts_computed == 0
    assert torch.equal(values_of((values, report)), expected)
    logs = {i: sorted(p.name for p in (tmp_path / str(i)).rglob("log-*/*.json")) for i in range(3)}
    longest = max(logs.values(), key=len)
    assert all(names == longest[: len(names)] for names in logs.values())  # one history, of which each has seen a part
