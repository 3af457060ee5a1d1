"""A damaged or foreign shard is detected, named, set aside and computed again, and the activations are the same."""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fault_samples import (
    TEXTS,
    append_junk,
    cut,
    empty,
    exchange,
    filled,
    flip_bit,
    flip_random_bit,
    replace_by_folder,
    without_write_permission,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from probes.activations import ExtractionSettings, open_stores
from probes.backbones import tiny_backbone


@pytest.fixture(scope="module")
def warm(tmp_path_factory) -> Path:
    """A store of one reading with three shards of eight texts each."""
    root = tmp_path_factory.mktemp("warm")
    filled(tiny_backbone(), root)
    assert len(shards(root)) == 3
    return root


@pytest.fixture
def cache(warm, tmp_path) -> Path:
    return Path(shutil.copytree(warm, tmp_path / "cache"))


@pytest.fixture(scope="module")
def expected(warm) -> torch.Tensor:
    values, report = filled(tiny_backbone(), warm)
    assert report.texts_computed == 0
    return next(iter(values.values()))


def shards(root: Path) -> list[Path]:
    return sorted(root.rglob("*.safetensors"))


def rewritten(change: Callable[[dict, torch.Tensor], tuple[dict, torch.Tensor]]) -> Callable[[Path], None]:
    """A fault that writes a well-formed shard with other metadata or values."""

    def fault(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        metadata, values = change(metadata, load_file(path)["activations"])
        save_file({"activations": values.contiguous()}, path, metadata=metadata)

    return fault


def with_list(key: str, change: Callable[[list], list]) -> Callable[[Path], None]:
    return rewritten(lambda meta, values: ({**meta, key: json.dumps(change(json.loads(meta[key])))}, values))


def flip_a_bit_of_the_values(path: Path) -> None:
    flip_bit(path, 8 * path.stat().st_size - 100)


def flip_a_bit_of_the_header(path: Path) -> None:
    flip_bit(path, 8 * 60)


def write_a_foreign_file(path: Path) -> None:
    save_file({"weight": torch.ones(3)}, path)


def write_another_backbones_shard(path: Path) -> None:
    other = path.parent.parent.with_name("other")
    filled(tiny_backbone(seed=1), other)
    (same_texts,) = other.rglob(path.name)
    shutil.copy(same_texts, path)


def write_another_poolings_shard(path: Path) -> None:
    other = path.parent.parent.with_name("other")
    filled(tiny_backbone(), other, pooling="first")
    (same_texts,) = other.rglob(path.name)
    shutil.copy(same_texts, path)


FAULTS = {
    "a bit of the values flipped": (flip_a_bit_of_the_values, "its values do not fit their digest"),
    "a bit of the header flipped": (flip_a_bit_of_the_header, "is no readable shard|does not fit its digest"),
    "values NaN": (rewritten(lambda meta, v: (meta, torch.full_like(v, float("nan")))), "do not fit their digest"),
    "values of two texts exchanged": (
        rewritten(lambda meta, v: (meta, v[[1, 0, *range(2, len(v))]])),
        "do not fit their digest",
    ),
    "text ids reversed": (with_list("text_ids", lambda ids: ids[::-1]), "header does not fit its digest"),
    "text ids shifted": (with_list("text_ids", lambda ids: ids[1:] + ids[:1]), "header does not fit its digest"),
    "a text id missing": (with_list("text_ids", lambda ids: ids[1:]), "header does not fit its digest"),
    "layers reversed": (with_list("layers", lambda layers: layers[::-1]), "header does not fit its digest"),
    "another dtype": (rewritten(lambda meta, v: (meta, v.half())), "header does not fit its digest"),
    "another shape": (rewritten(lambda meta, v: (meta, v.flatten(1))), "header does not fit its digest"),
    "a shard of another backbone": (write_another_backbones_shard, "belongs to another store: fingerprint"),
    "a shard of another pooling": (write_another_poolings_shard, "belongs to another store: reading"),
    "cut in half": (cut, "is no readable shard"),
    "zero length": (empty, "is no readable shard"),
    "trailing junk": (append_junk, "is no readable shard"),
    "a foreign safetensors file": (write_a_foreign_file, "is no readable shard"),
    "text in place of a shard": (lambda path: path.write_text("not a shard"), "is no readable shard"),
    "a folder in place of a shard": (replace_by_folder, "is no readable shard"),
}
"""Fault → how to cause it, and the reason that the warning gives."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_shard_is_named_set_aside_and_computed_again(cache, expected, caplog, name: str):
    fault, reason = FAULTS[name]
    damaged = shards(cache)[1]
    fault(damaged)
    with caplog.at_level(logging.WARNING):
        values, report = filled(tiny_backbone(), cache)
    (warning,) = caplog.messages
    assert damaged.name in warning
    assert pytest.RaisesExc(Exception, match=reason).matches(Exception(warning))
    assert damaged.with_name(f"{damaged.name}.corrupt").exists()
    assert report.texts_computed == 8
    torch.testing.assert_close(next(iter(values.values())), expected, rtol=0, atol=1e-6)
    assert filled(tiny_backbone(), cache)[1].texts_computed == 0


@pytest.mark.parametrize("seed", range(40))
def test_any_flipped_bit_of_a_shard_is_detected(cache, expected, seed: int):
    damaged = random.Random(seed).choice(shards(cache))
    flip_random_bit(damaged, seed)
    values, report = filled(tiny_backbone(), cache)
    assert report.texts_computed == 8
    torch.testing.assert_close(next(iter(values.values())), expected, rtol=0, atol=1e-6)


def test_two_shards_with_exchanged_names_keep_their_texts_apart(cache, expected):
    exchange(*shards(cache)[:2])
    values, _ = filled(tiny_backbone(), cache)
    torch.testing.assert_close(next(iter(values.values())), expected, rtol=0, atol=1e-6)


def test_quick_verification_finds_a_damaged_header_and_not_damaged_values(cache, expected):
    flip_a_bit_of_the_values(shards(cache)[0])
    flip_a_bit_of_the_header(shards(cache)[1])
    values, report = filled(tiny_backbone(), cache, verify="quick")
    assert report.texts_computed == 8
    assert not torch.equal(next(iter(values.values())), expected)


def test_a_shard_that_is_damaged_after_it_was_verified_is_not_served(cache):
    backbone = tiny_backbone()
    (store,) = open_stores(backbone, ExtractionSettings(), cache).values()
    ids = backbone.tokenize(TEXTS).text_ids
    store.read(ids, [1])
    flip_a_bit_of_the_values(shards(cache)[0])
    with pytest.raises(KeyError, match="is not in the store"):
        store.read(ids, [1])


def test_a_damaged_description_of_a_store_is_set_aside_and_written_again(cache, caplog):
    (identity,) = cache.rglob("identity.json")
    content = identity.read_text()
    flip_random_bit(identity)
    shards(cache)[0].unlink()
    filled(tiny_backbone(), cache)
    assert "identity.json' is damaged" in caplog.text
    assert identity.read_text() == content


def test_a_second_damaged_file_of_one_name_does_not_replace_the_first(cache):
    damaged = shards(cache)[0]
    for _ in range(2):
        flip_random_bit(damaged)
        filled(tiny_backbone(), cache)
    assert len(list(damaged.parent.glob("*.corrupt*"))) == 2


def test_a_warm_cache_without_write_permission_is_read_without_a_word(cache, expected, caplog):
    with without_write_permission(cache):
        values, report = filled(tiny_backbone(), cache)
    assert report.texts_computed == 0
    assert torch.equal(next(iter(values.values())), expected)
    assert not caplog.messages


def test_a_cache_without_write_permission_that_lacks_texts_is_refused_with_the_key_to_set(cache):
    with (
        without_write_permission(cache),
        pytest.raises(PermissionError, match=r"cannot be written .* missing or damaged there. Set `paths\.cache_dir`"),
    ):
        filled(tiny_backbone(), cache, [*TEXTS, "another"])


def test_a_damaged_shard_that_cannot_be_set_aside_is_named_and_not_served(cache, caplog):
    flip_a_bit_of_the_values(shards(cache)[0])
    with without_write_permission(cache), pytest.raises(PermissionError):
        filled(tiny_backbone(), cache)
    assert "cannot be set aside" in caplog.text
    assert shards(cache)[0].name in caplog.text


def test_what_a_killed_run_left_half_written_is_deleted_by_the_next_that_computes(cache):
    store = shards(cache)[0].parent
    left = store / ".0123456789abcdef01234567-abcdefgh.safetensors"
    left.write_bytes(b"half")
    filled(tiny_backbone(), cache)
    assert left.exists()  # a run that lacks nothing holds no lock, so it may not tell litter from work
    filled(tiny_backbone(), cache, ["another text"])
    assert not left.exists()
    assert filled(tiny_backbone(), cache)[1].texts_computed == 0
