"""One forward pass a text: every layer, site and pooling of it goes into the store, and is read from there."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock
from torch import Tensor

from probes.activations.batches import token_budget
from probes.activations.passes import ForwardPasses
from probes.activations.store import ActivationStore
from probes.backbones import LayerSpec, ReadableBackbone, TokenizedTexts
from probes.values import Activations, Layer, Reading


def row_ids(task: str, split: str, texts: Sequence[str], labels: Sequence[object]) -> tuple[str, ...]:
    """A unique name a row, decided by its task, split, text, label and how often that has come before.

    Args:
        task: Name of the task.
        split: Name of the split.
        texts: What tells the rows' texts apart: the texts themselves where several backbones, which cut them into
            tokens of their own, are to name a row alike; else hashes of their token ids.
        labels: The rows' labels.

    >>> a, b = row_ids("sst2", "test", ["17", "17"], [0, 0])
    >>> a != b and (a, b) == row_ids("sst2", "test", ["17", "17"], [0, 0])
    True
    """
    seen: Counter[tuple[str, object]] = Counter()
    names = []
    for text, label in zip(texts, labels, strict=True):
        occurrence = seen[text, label]
        seen[text, label] += 1
        content = f"{task}\0{split}\0{text}\0{label}\0{occurrence}"
        names.append(hashlib.blake2b(content.encode(), digest_size=12).hexdigest())
    return tuple(names)


_log = logging.getLogger(__name__)
Stores = Mapping[Reading, ActivationStore]


@dataclass(frozen=True, kw_only=True)
class ExtractionSettings:
    """How texts become activations.

    Attributes:
        pooling: `last`, `first`, `mean`, `max` or several; default `last` for decoders, `mean` for encoders.
        site: `residual`, `attention`, `mlp` or several.
        max_length: Tokens to which texts are cut at their beginning; default what the backbone allows.
        tokens_per_batch: Most tokens of one forward pass, pads included; `auto` is 1,024 on a CPU, and on a CUDA GPU a
            power of two up to 65,536 that its free memory holds. Halved whenever a pass still runs out of GPU memory.
        texts_per_shard: Texts of one file of the store: what a killed run loses at most.
    """

    pooling: str | Sequence[str] | None = None
    site: str | Sequence[str] = "residual"
    max_length: int | None = None
    tokens_per_batch: int | Literal["auto"] = "auto"
    texts_per_shard: int = 512

    def __post_init__(self) -> None:
        for key in ("max_length", "tokens_per_batch", "texts_per_shard"):
            value = getattr(self, key)
            if value is None or (key == "tokens_per_batch" and value == "auto"):
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                wanted = "`auto` or a whole number" if key == "tokens_per_batch" else "a whole number"
                raise TypeError(f"`extraction.{key}` expects {wanted}; got {value!r}.")
            if value < 1:
                raise ValueError(f"`extraction.{key}` expects at least 1; got {value}.")


@dataclass(frozen=True)
class PassReport:
    """What extraction did: texts asked for, texts and tokens that were computed, forward passes, seconds."""

    texts: int
    texts_computed: int
    tokens_computed: int
    forward_passes: int
    seconds: float


def open_stores(backbone: ReadableBackbone, settings: ExtractionSettings, root: Path) -> dict[Reading, ActivationStore]:
    """The stores that hold what these settings read off a backbone, the primary reading first."""
    fingerprint = backbone.fingerprint()
    readings = backbone.readings(settings.pooling, settings.site)
    return {
        reading: ActivationStore(root, fingerprint=fingerprint, decoder_input=backbone.decoder_input, reading=reading)
        for reading in readings
    }


def fill_stores(
    backbone: ReadableBackbone,
    texts: TokenizedTexts,
    stores: Stores,
    settings: ExtractionSettings,
    *,
    layers: LayerSpec | None = None,
) -> PassReport:
    """Run the backbone on the texts that some store lacks, each once.

    Args:
        backbone: What computes.
        texts: Tokenized texts; equal ones are run once.
        stores: What `open_stores` gave.
        settings: Batch and shard sizes.
        layers: Which layers; default the backbone's own.

    Raises:
        OSError: The disk has no room for what would be written.
        ValueError: An activation is NaN or infinite.
        MemoryError: A text does not fit into a GPU's memory by itself.
    """
    start = time.monotonic()
    ids = dict(zip(texts.text_ids, texts.ids, strict=True))
    folder = next(iter(stores.values())).folder
    with FileLock(folder / ".lock"):  # a second run of the same backbone waits, then finds everything here
        for store in stores.values():
            store.refresh()
        wanted = {reading: backbone.layers(reading.stack, site=reading.site, spec=layers) for reading in stores}
        lacking = {reading: store.missing(texts.text_ids, wanted[reading]) for reading, store in stores.items()}
        missing = list(dict.fromkeys(text for lacks in lacking.values() for text in lacks))
        todo = {reading: stores[reading] for reading, lacks in lacking.items() if lacks}
        passes = 0
        if missing:
            _check_disk(backbone, {reading: len(missing) * len(wanted[reading]) for reading in todo}, folder)
            budget = token_budget(backbone, settings.tokens_per_batch, longest=max(len(ids[text]) for text in missing))
            forward = ForwardPasses(backbone, list(todo), layers, budget)
            _write(forward.over([(text, ids[text]) for text in missing]), todo, wanted, settings.texts_per_shard)
            passes = forward.done
    tokens = sum(len(ids[text]) for text in missing)
    return PassReport(len(ids), len(missing), tokens, passes, time.monotonic() - start)


def extract(
    backbone: ReadableBackbone,
    texts: Sequence[str],
    *,
    layers: LayerSpec | None = None,
    pooling: str | None = None,
    site: str = "residual",
    max_length: int | None = None,
    cache_dir: str | Path | None = None,
) -> Activations:
    """Activations of texts at layers, without a config.

    Args:
        backbone: A frozen backbone, of one stack.
        texts: Any number of texts.
        layers: `all`, `final`, or a list; default the backbone's own.
        pooling: Default `last` for decoders, `mean` for encoders.
        site: `residual`, `attention` or `mlp`.
        max_length: As in `ExtractionSettings`.
        cache_dir: Keep activations there; default nowhere.

    Returns:
        Values of shape `(layers, texts, features)`, float32; `row_ids` follow texts.
    """
    settings = ExtractionSettings(pooling=pooling, site=site, max_length=max_length)
    (reading,) = backbone.readings(pooling, site)
    names = backbone.layers(reading.stack, site=site, spec=layers)
    tokenized = backbone.tokenize(texts, max_length=max_length)
    with tempfile.TemporaryDirectory() as scratch:
        stores = open_stores(backbone, settings, Path(cache_dir or scratch).expanduser() / "activations")
        fill_stores(backbone, tokenized, stores, settings, layers=layers)
        values = stores[reading].read(tokenized.text_ids, names)
    return Activations(values, names, row_ids("", "", tokenized.text_ids, tokenized.text_ids), reading)


def _check_disk(backbone: ReadableBackbone, vectors: Mapping[Reading, int], folder: Path) -> None:
    size = {r: torch.float32.itemsize if r.pooling == "mean" else backbone.dtype.itemsize for r in vectors}
    needed = sum(count * backbone.hidden_size * size[reading] for reading, count in vectors.items())
    free = shutil.disk_usage(folder).free
    _log.info("Activations to compute: %.2f GB on disk, %.0f GB free at '%s'.", needed / 1e9, free / 1e9, folder.parent)
    if needed > 0.95 * free:
        raise OSError(
            f"The activations expect {needed / 1e9:.2f} GB and '{folder.parent}' has {free / 1e9:.2f} GB free. Set "
            "`paths.cache_dir` to a larger disk, or fewer `backbone.layers`, poolings or `suite.max_rows`."
        )


def _write(
    computed: Iterator[tuple[list[str], dict[Reading, Tensor]]],
    stores: Stores,
    layers: Mapping[Reading, tuple[Layer, ...]],
    texts_per_shard: int,
) -> None:
    """Write shards of `texts_per_shard` texts, whatever the batches' sizes."""
    names: list[str] = []
    parts: dict[Reading, list[Tensor]] = {reading: [] for reading in stores}

    def flush() -> None:
        for reading, store in stores.items():
            store.add(names, layers[reading], torch.cat(parts[reading]))
            parts[reading].clear()
        names.clear()

    for batch_names, values in computed:
        taken = 0
        while taken < len(batch_names):
            piece = slice(taken, taken + texts_per_shard - len(names))
            names += batch_names[piece]
            for reading in stores:
                parts[reading].append(values[reading][piece])
            taken = piece.stop
            if len(names) == texts_per_shard:
                flush()
    if names:
        flush()
