"""Ways to damage a file, and what tests of faults share."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open

from probes.activations import ExtractionSettings, PassReport, fill_stores, open_stores
from probes.backbones import ReadableBackbone

TEXTS = [f"{'word ' * (i % 5)}number {i}" for i in range(24)]


def filled(backbone: ReadableBackbone, root: Path, texts=TEXTS, **settings) -> tuple[dict, PassReport]:
    """Activations of texts by reading, and what had to be computed."""
    extraction = ExtractionSettings(**({"texts_per_shard": 8} | settings))
    stores = open_stores(backbone, extraction, root)
    tokenized = backbone.tokenize(texts)
    report = fill_stores(backbone, tokenized, stores, extraction)
    layers = {r: backbone.layers(r.stack, site=r.site) for r in stores}
    return {r: store.read(tokenized.text_ids, layers[r]) for r, store in stores.items()}, report


def stored_files(root: Path) -> dict[str, object]:
    """Every file of a cache: its bytes, or those of a shard's values with the header, whose order is not fixed.

    What killed processes have left half written, hidden files, is deleted by the next run that computes something.
    """
    found: dict[str, object] = {}
    for path in root.rglob("[!.]*"):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                values = file.get_tensor("activations")
                found[path.name] = (file.metadata(), values.shape, values.view(torch.uint8).numpy().tobytes())
        elif path.is_file():
            found[path.name] = path.read_bytes()
    return found


def flip_bit(path: Path, bit: int) -> None:
    """Flip one bit of a file, in place."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def flip_random_bit(path: Path, seed: int = 0) -> None:
    flip_bit(path, random.Random(seed).randrange(8 * path.stat().st_size))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def append_junk(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"junk")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def exchange(one: Path, other: Path) -> None:
    """Exchange the contents of two files."""
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


@contextmanager
def without_write_permission(folder: Path) -> Iterator[None]:
    """Within the context, this process can read everything below a folder and write nothing there.

    The superuser may write anywhere, so tests that run as root become the user `nobody` meanwhile.
    """
    places = [folder, *folder.rglob("*")]
    modes = {place: stat.S_IMODE(place.stat().st_mode) for place in places}
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    parents = [parent for parent in folder.parents if stat.S_IMODE(parent.stat().st_mode) & 0o055 != 0o055]
    for parent in parents:
        modes[parent] = stat.S_IMODE(parent.stat().st_mode)
        parent.chmod(modes[parent] | 0o055)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for place, mode in modes.items():
            place.chmod(mode)
