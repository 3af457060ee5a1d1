"""Machines that fill one object store at once compute no text twice, whichever of them die."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
import torch
from fault_samples import TEXTS, filled
from object_servers import first
from store_machines import CONTEXT, computed, machine

from probes.activations import ExtractionSettings, open_stores
from probes.activations.remote import ClaimLog, claim_log, open_objects
from probes.backbones import tiny_backbone

pytest.importorskip("moto")
pytest.importorskip("obstore")

MANY = [f"{i} {'word ' * (i % 7)}" for i in range(48)]


def values(root: Path, remote: str | None, texts: list[str]) -> torch.Tensor:
    found, report = filled(tiny_backbone(), root, texts, remote=remote)
    assert remote is None or report.texts_computed == 0
    return next(iter(found.values()))


@pytest.mark.parametrize("claims", [True, False], ids=["claims", "control"])
def test_two_machines_share_the_texts_of_one_bucket(claims: bool, tmp_path, proxy):
    remote, barrier = f"s3://bucket/{tmp_path.name}", CONTEXT.Barrier(2)
    options = {"remote": remote, "server": proxy.url, "texts": MANY, "barrier": barrier, "slow": 0.03, "claims": claims}
    machines = [machine(name, tmp_path / name, **options) for name in ("one", "two")]
    for each in machines:
        each.join(240)
    assert [each.exitcode for each in machines] == [0, 0]
    shares = [computed(tmp_path / name) for name in ("one", "two")]
    if not claims:
        assert sum(shares) > len(MANY)
        return
    assert sum(shares) == len(MANY)
    expected = values(tmp_path / "alone", None, MANY)
    assert torch.equal(values(tmp_path / "three", remote, MANY), expected)
    assert not any("list-type" in path or "prefix=" in path for _, path, _ in proxy.requests)


def test_the_texts_of_a_machine_that_was_killed_are_taken_over(tmp_path, proxy):
    remote = f"s3://bucket/{tmp_path.name}"
    options = {"remote": remote, "server": proxy.url, "texts": MANY}
    victim = machine("one", tmp_path / "one", hangs=True, **options)
    deadline = time.monotonic() + 240
    while not (tmp_path / "one" / "hangs").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stored = 8 * len(list((tmp_path / "one").rglob("[!.]*.safetensors")))
    assert 0 < stored < len(MANY)
    victim.kill()
    survivor = machine("two", tmp_path / "two", until_void=2.0, **options)
    survivor.join(240)
    assert survivor.exitcode == 0
    assert computed(tmp_path / "two") == len(MANY) - stored
    log = (tmp_path / "two" / "log.txt").read_text()
    assert "on one (since" in log
    assert "has stopped computing; its 8 texts are taken over" in log
    assert torch.equal(values(tmp_path / "three", remote, MANY), values(tmp_path / "alone", None, MANY))


def test_beats_that_do_not_come_through_stop_nobody_from_computing(tmp_path, proxy, monkeypatch):
    monkeypatch.setattr(claim_log, "SECONDS_BETWEEN_BEATS", 0.05)
    monkeypatch.setattr(claim_log, "_SECONDS_FOR_LAST_BEAT", 0.1)
    backbone = tiny_backbone()
    backbone.fingerprint()
    backbone.model.register_forward_pre_hook(lambda *_: time.sleep(0.1))
    proxy.fault = first(10_000, "lose", of="/beats/", method="PUT")
    _, report = filled(backbone, tmp_path / "one", remote=f"s3://bucket/{tmp_path.name}")
    assert report.texts_computed == len(TEXTS)
    assert any("/beats/" in path and fault == "lose" for _, path, fault in proxy.requests)


@pytest.mark.parametrize("kind", ["lose", "lose the answer", "busy"])
def test_a_claim_whose_answer_is_lost_is_made_once(kind: str, tmp_path, proxy):
    remote = f"s3://bucket/{tmp_path.name}"
    proxy.fault = first(2, kind, of="/claims/", method="PUT")
    _, report = filled(tiny_backbone(), tmp_path / "one", remote=remote)
    assert report.texts_computed == len(TEXTS)
    numbers = {path.partition("?")[0] for method, path, _ in proxy.requests if method == "PUT" and "/claims/" in path}
    assert len(numbers) == 2 * 3  # each of three shards is claimed once, and released once
    assert sum(fault == kind for *_, fault in proxy.requests) == 2


def test_where_claims_cannot_be_written_a_run_says_so_once_and_goes_on(tmp_path, proxy, caplog):
    proxy.fault = first(10_000, "forbid", of="/claims/", method="PUT")
    with caplog.at_level(logging.WARNING):
        _, report = filled(tiny_backbone(), tmp_path / "one", remote=f"s3://bucket/{tmp_path.name}")
    assert report.texts_computed == len(TEXTS)
    assert caplog.text.count("Other machines may compute the same texts") == 1


def logs(folder: Path, number: int) -> list[ClaimLog]:
    return [ClaimLog(open_objects(f"file://{folder}"), "f" * 40) for _ in range(number)]


def texts_of(log: ClaimLog) -> set[str]:
    return set().union(*log.of_others().values())


def test_of_two_that_claim_at_once_one_looks_again_and_sees_the_others_claim(tmp_path):
    one, two = logs(tmp_path, 2)
    assert texts_of(one) == texts_of(two) == set()
    assert one.claim(["a", "b"])
    assert not two.claim(["a"])
    assert texts_of(two) == {"a", "b"}
    with two.beating():
        assert two.claim(["c"])
        assert texts_of(one) == {"c"}
    assert texts_of(one) == set()  # what is stored is released


def test_a_claim_that_beats_stays_valid_and_one_without_beats_ends_for_all(tmp_path, monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(claim_log.time, "monotonic", lambda: now[0])
    slow, dead, reader, late = logs(tmp_path, 4)
    assert texts_of(slow) == set()
    assert slow.claim(["a"])
    assert texts_of(dead) == {"a"}
    assert dead.claim(["b"])
    seen = []
    for _ in range(8):  # of 15 seconds
        seen.append(texts_of(reader))
        slow._send_beat()
        now[0] += claim_log.SECONDS_BETWEEN_BEATS
    assert seen == [{"a", "b"}] * 7 + [{"a"}]  # after more than 90 s without a beat
    assert "has stopped computing; its 1 texts are taken over" in caplog.text
    assert reader.claim(["b"])
    late.of_others()
    assert [claim.texts for claim in late._claims.values()] == [{"a"}, {"b"}]  # no third: the log says that it ended
    assert texts_of(dead) == {"a", "b"}  # who was taken for dead sees who took over


def test_a_process_beats_while_it_computes(tmp_path, monkeypatch):
    monkeypatch.setattr(claim_log, "SECONDS_BETWEEN_BEATS", 0.01)
    (log,) = logs(tmp_path, 1)
    log.of_others()
    log.claim(["a"])
    with log.beating():
        deadline = time.monotonic() + 20
        while not (beats := list(tmp_path.rglob(f"beats/{log._member}"))):
            assert time.monotonic() < deadline
    assert len(beats) == 1


def test_who_comes_late_does_not_read_what_has_ended(tmp_path, monkeypatch):
    busy, old = logs(tmp_path, 2)
    for number in range(70):
        busy.of_others()
        with busy.beating():
            assert busy.claim([str(number)])
        if number == 20:
            old.of_others()
            assert old.claim(["held"])
    read = []
    (late,) = logs(tmp_path, 1)
    original = late._objects.read
    monkeypatch.setattr(late._objects, "read", lambda name: read.append(name) or original(name))
    assert texts_of(late) == {"held"}  # a claim that holds is read however old it is
    assert len(read) < 142
    assert not any(name.endswith("00000041.json") for name in read)
    assert any(name.endswith("00000042.json") for name in read)


def test_a_damaged_entry_claims_nothing_and_hides_nothing_behind_it(tmp_path):
    one, two, late = logs(tmp_path, 3)
    one.of_others()
    assert one.claim(["a"])
    two.of_others()
    assert two.claim(["b"])
    next(tmp_path.rglob("00000000.json")).write_bytes(b"{")
    assert texts_of(late) == {"b"}


def test_shards_of_others_that_are_found_while_one_is_added_are_known(tmp_path):
    remote, backbone = f"file://{tmp_path}/store", tiny_backbone()
    settings = ExtractionSettings(remote=remote)
    one, two = (next(iter(open_stores(backbone, settings, tmp_path / name).values())) for name in ("one", "two"))
    one.add(["a"], [0], torch.ones(1, 1, 4))
    two.add(["b"], [0], torch.ones(1, 1, 4))  # finds the entry of the other on the way
    two.refresh()
    assert two.missing(["a", "b", "c"], [0]) == ["c"]
